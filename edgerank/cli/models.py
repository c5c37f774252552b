"""Bundles and stores with the names that they are served or packed under."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgerank.errors import InputError


def named_directories(field: str, values: Iterable[str]) -> dict[str, Path]:
    """Tell names from directories, of bundles or stores: the name ends at the first "=".

    :param field: what errors call them
    :raises InputError: two have one name
    """
    named: dict[str, Path] = {}
    for value in values:
        name, separator, path = value.partition("=")
        directory = Path(path if separator else value)
        name = name if separator else directory.resolve().name
        if not name or name in named:
            reason = f"the name {name!r} is empty or given twice; use NAME=DIRECTORY"
            raise InputError(field, reason)
        named[name] = directory
    return named
