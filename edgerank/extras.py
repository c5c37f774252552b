"""Imports of libraries that belong to an extra."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgerank.errors import EdgerankError


@contextmanager
def needs_extra(task: str, extra: str) -> Iterator[None]:
    """Name what to install if an import within fails.

    :raises EdgerankError: a library is missing
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise EdgerankError(
            f"{task} needs {error.name}: pip install 'edgerank[{extra}]'"
        ) from error
