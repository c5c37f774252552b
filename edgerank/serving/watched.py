"""Files that are read again when they change."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from edgerank.errors import InputError

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]

log = logging.getLogger(__name__)


class WatchedFiles(Generic[T]):
    """The content of some files, read again after changes; unusable changes are ignored."""

    def __init__(self, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """:raises InputError: the files cannot be used"""
        self._paths = paths
        self._read = read
        try:
            self._stamp = self._stamps()
            self._value = read()
        except (OSError, ValueError) as error:
            raise InputError(str(paths[0]), str(error)) from error

    def get(self) -> tuple[T, bool]:
        """Return the content, and whether it is new."""
        try:
            stamp = self._stamps()
            if stamp == self._stamp:
                return self._value, False
            value = self._read()
        except (OSError, ValueError):
            log.exception("kept what was read before", extra={"file": str(self._paths[0])})
            return self._value, False
        self._stamp, is_new = stamp, value != self._value
        self._value = value
        return value, is_new

    def _stamps(self) -> Stamp:
        stats = [path.stat() for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)
