"""The content of a job's input: its files are hashed once, and again if they may have changed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tqdm import tqdm
from tqdm.utils import CallbackIOWrapper

from edgerank.bundle import sha256_of_file
from edgerank.files import open_input, write_atomically

# a change soon after another one may leave the times as they are, so that they prove nothing
SETTLED_S = 2.0
# elsewhere no time changes with a file's content for certain
HAS_TIME_OF_CHANGE = os.name == "posix"


class Stamp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What tells a file that was changed, without reading it."""

    size: int  # bytes
    modified: int  # nanoseconds, as programs may set it
    changed: int  # nanoseconds of the last change of content or attributes; none can set it
    inode: int


class Digest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of a file with a stamp."""

    stamp: Stamp
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Hashed:
    """A file's content, and whether its stamp will tell if that changes."""

    digest: Digest
    is_settled: bool


def stamp_of(path: Path) -> Stamp:
    """Look at a file.

    :raises InputError: it cannot be read
    """
    with open_input(path) as file:  # a file system of a network asks its server then
        status = os.fstat(file.fileno())
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def hash_files(
    paths: Iterable[Path], known: Mapping[Stamp, str], *, show_progress: bool
) -> dict[Path, Hashed]:
    """Hash files, but for those whose stamps say that this was done.

    :param known: sha256 by stamp
    :raises InputError: a file cannot be read
    """
    stamps = {path: stamp_of(path) for path in paths}
    found = {
        path: Hashed(Digest(stamp, known[stamp]), True)
        for path, stamp in stamps.items()
        if stamp in known
    }
    left = {path: stamp for path, stamp in stamps.items() if path not in found}
    with tqdm(
        total=sum(stamp.size for stamp in left.values()),
        unit="B",
        unit_scale=True,
        desc="compare input",
        disable=not (show_progress and left),
    ) as bar:
        for path, stamp in left.items():
            is_settled = time.time() - max(stamp.modified, stamp.changed) / 1e9 > SETTLED_S
            sha256 = _sha256_of(path, bar)
            is_trusted = HAS_TIME_OF_CHANGE and is_settled and stamp_of(path) == stamp
            found[path] = Hashed(Digest(stamp, sha256), is_trusted)
    return {path: found[path] for path in stamps}


def read_digests(path: Path) -> dict[Stamp, str]:
    """Read what ``write_digests`` wrote: sha256 by stamp; nothing if that cannot be read."""
    with suppress(OSError, msgspec.MsgspecError, UnicodeDecodeError):
        digests = msgspec.json.decode(path.read_bytes(), type=list[Digest])
        return {digest.stamp: digest.sha256 for digest in digests}
    return {}


def write_digests(path: Path, files: Sequence[Hashed]) -> None:
    """Write the contents that stamps tell, unless they are there.

    :raises OSError: the disk is full, or not to be written to
    """
    settled = [file.digest for file in files if file.is_settled]
    if settled and read_digests(path) != {digest.stamp: digest.sha256 for digest in settled}:
        write_atomically(path, msgspec.json.encode(settled))


def _sha256_of(path: Path, bar: tqdm[None]) -> str:
    """:raises InputError: the file cannot be read"""
    with open_input(path) as file:
        return sha256_of_file(CallbackIOWrapper(bar.update, file))
