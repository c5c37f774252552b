"""The arrays of a segment: files that are written row by row and read by mmap."""

from __future__ import annotations

import hashlib
import mmap
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edgerank.closing import Closing
from edgerank.errors import StoreError
from edgerank.manifest import File


class ArrayFile(Closing):
    """A file that is written once, from beginning to end, and hashed at the same time."""

    def __init__(self, path: Path) -> None:
        """:raises OSError: the file exists or cannot be written"""
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self._size = 0

    def write(self, rows: NDArray[Any] | bytes) -> None:
        """Append rows.

        :raises OSError: they cannot be written
        """
        content = rows if isinstance(rows, bytes) else np.ascontiguousarray(rows).tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._size += len(content)

    def finish(self) -> File:
        """Sync the file to the disk; return its size and sha256.

        :raises OSError: it cannot be written
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return File(self._size, self._digest.hexdigest())

    def close(self) -> None:
        """Close the file, finished or not."""
        self._file.close()


def write_array(path: Path, rows: NDArray[Any] | bytes) -> File:
    """Write a whole array.

    :raises OSError: it cannot be written
    """
    with ArrayFile(path) as file:
        file.write(rows)
        return file.finish()


def map_array(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> NDArray[Any]:
    """Map a file as a read-only array; one dimension of the shape may be -1, as in NumPy.

    :raises StoreError: the file is missing, or its size does not fit the shape
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        return np.frombuffer(content, dtype).reshape(shape)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: it does not fit the store: {error}") from error


def map_offsets(path: Path, count: int, total: int, *, least: int = 0) -> NDArray[np.int64]:
    """Map offsets: where each of ``count`` runs of rows begins, and where the last one ends.

    :param total: the end that the last run must have
    :param least: the least number of rows of a run
    :raises StoreError: the file is missing, or its offsets would lead outside of an array
    """
    offsets = map_array(path, np.int64, (-1,))
    if (
        len(offsets) != count + 1
        or offsets[0] != 0
        or offsets[-1] != total
        or (np.diff(offsets) < least).any()
    ):
        raise StoreError(f"{path}: altered: not the bounds of {count} runs; build the store again")
    return offsets


def ranges(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Concatenate ranges: int64 [sum of ends - starts]."""
    lengths = ends - starts
    shifts = np.cumsum(lengths) - lengths
    indices: NDArray[np.int64] = np.arange(lengths.sum()) + np.repeat(starts - shifts, lengths)
    return indices
