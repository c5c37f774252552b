"""Atomic writing of files, and reading line by line."""

from __future__ import annotations

import codecs
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import TypeVar

import msgspec

from edgerank.errors import InputError

T = TypeVar("T")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: under another name first, then renamed.

    :raises OSError: it cannot be written; what was there before stays
    """
    partial = _beside(path)
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


@contextmanager
def atomic_directory(target: Path, can_replace: Callable[[Path], bool]) -> Iterator[Path]:
    """Yield a new directory beside ``target`` that takes its place unless an error is raised.

    :param can_replace: whether what stands at ``target`` may be replaced
    :raises FileExistsError: it may not
    :raises OSError: the directory cannot be written
    """
    import shutil  # slow to import, and not needed for ranking

    if target.exists() and not can_replace(target):
        raise FileExistsError(target)
    made = [parent for parent in target.parents if not parent.exists()]
    staging: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = _beside(target)
        staging.mkdir()
        yield staging
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # parents are not empty if all went well
            for parent in made:
                parent.rmdir()


@contextmanager
def open_input(path: Path) -> Iterator[BufferedReader]:
    """Open a file, and read it within the block.

    :raises InputError: it cannot be opened or read
    """
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error


def numbered_lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield lines with their numbers from 1, without blank ones and a byte order mark."""
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line.strip():
            yield number, line


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their numbers from 1, without blank ones.

    :raises InputError: the file cannot be read
    """
    with open_input(path) as file:
        yield from numbered_lines(file)


def read_jsonl(path: Path, kind: type[T]) -> Iterator[tuple[int, T]]:
    """Yield the records of a JSON Lines file with the numbers of their lines.

    :raises InputError: the file cannot be read, or a line is not JSON of that kind
    """
    for number, line in read_lines(path):
        yield number, decode_line(str(path), number, line, kind)


def decode_line(name: str, number: int, line: bytes, kind: type[T]) -> T:
    """Decode a line of JSON Lines.

    :param name: what errors call the file
    :raises InputError: it is not JSON of that kind
    """
    try:
        return msgspec.json.decode(line, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(name, f"line {number}: {error}") from error


def _beside(path: Path) -> Path:
    """Return a new hidden name in the same directory."""
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}")
