"""Names of bundles and stores on the command line: NAME=DIRECTORY."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgerank.errors import InputError


def named_directories(field: str, values: Iterable[str]) -> dict[str, Path]:
    """Split names from directories of bundles or stores; a name ends at the first "=".

    :param field: name of the option, for errors
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
