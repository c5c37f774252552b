"""Texts of a corpus by their ids, read from the file: an index of offsets is all that is kept.

The index is a file of its own, memory-mapped, so that all processes of a machine share it: the
hashes of the ids, sorted, and where each line begins. The id in the line decides, not its hash.
"""

from __future__ import annotations

import codecs
import hashlib
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgerank.beir import read_record
from edgerank.closing import Closing
from edgerank.errors import InputError
from edgerank.files import open_input

Index = NDArray[np.uint64]  # [2, n]: hashes of ids, ascending, and where their lines begin


def index_texts(path: Path, *, tell: Callable[[int], object] = lambda size: None) -> bytes:
    """Index a corpus or a file of queries in BEIR's layout: an array of uint64 [2, n].

    It takes some 60 bytes a text while it is made, and 16 afterwards.

    :param tell: called with the number of bytes of each line
    :raises InputError: the file cannot be read, a line is malformed, or an id is there twice
    """
    hashes, offsets = array("Q"), array("Q")
    offset = 0
    with open_input(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                name, _ = _record(path, number, line)
                hashes.append(_hash(name))
                offsets.append(offset)
            offset += len(line)
            tell(len(line))
    order = np.argsort(np.frombuffer(hashes, np.uint64), kind="stable")
    index = np.stack([np.frombuffer(part, np.uint64)[order] for part in (hashes, offsets)])
    _check_distinct(path, index)
    return index.tobytes()


class Texts(Closing):
    """An indexed file, opened."""

    def __init__(self, path: Path, index: Path) -> None:
        """Open a file and its index.

        :raises OSError: one cannot be read
        """
        self._path = path
        self._hashes, self._offsets = _opened(index)
        self._file = path.open("rb")

    def get(self, name: str) -> str | None:
        """Return the text of an id, None if it is not there.

        :raises InputError: the file was changed since it was indexed
        """
        place = self.place(name)
        return None if place is None else self._read(place)[1]

    def place(self, name: str) -> int | None:
        """Return the place of an id, from 0, in the order of the index; None if it is not there."""
        wanted = np.uint64(_hash(name))
        place = int(np.searchsorted(self._hashes, wanted))
        while place < len(self._hashes) and self._hashes[place] == wanted:
            if self._read(place)[0] == name:
                return place
            place += 1
        return None

    def __len__(self) -> int:
        return len(self._hashes)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, place: int) -> tuple[str, str]:
        self._file.seek(int(self._offsets[place]))
        return _record(self._path, 0, self._file.readline())


def _opened(index: Path) -> Index:
    size = index.stat().st_size
    if size == 0:
        return np.zeros((2, 0), np.uint64)
    return np.memmap(index, np.uint64, "r", shape=(2, size // 16))


def _check_distinct(path: Path, index: Index) -> None:
    hashes, offsets = index
    with path.open("rb") as file:

        def name_at(place: int) -> str:
            file.seek(int(offsets[place]))
            return _record(path, 0, file.readline())[0]

        for place in np.flatnonzero(hashes[1:] == hashes[:-1]).tolist():
            # ids with one hash are next to each other; of different ids there are hardly ever two
            if name_at(place) == name_at(place + 1):
                raise InputError(str(path), f"the id {name_at(place)!r} is there twice")


def _record(path: Path, number: int, line: bytes) -> tuple[str, str]:
    return read_record(str(path), number, line.removeprefix(codecs.BOM_UTF8))


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
