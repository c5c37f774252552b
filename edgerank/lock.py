"""A lock for one writer at a time. It is released when its process ends, even after a crash."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgerank.errors import EdgerankError


@contextmanager
def writing(lock: Path, error_type: type[EdgerankError]) -> Iterator[None]:
    """Hold the lock of a directory: a file in it, which is created and never removed.

    :raises EdgerankError: of the type, another process, or another thread, is writing to the
        directory
    """
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise error_type(f"{lock.parent}: it cannot be written: {error.strerror}") from error
    try:
        try:
            _lock(descriptor)
        except OSError as error:
            raise error_type(
                f"{lock.parent}: another process is writing to it; try again when that has ended"
            ) from error
        yield
    finally:
        os.close(descriptor)  # releases the lock


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
