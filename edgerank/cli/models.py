"""Bundles with the names that they are served or packed under."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from edgerank.errors import InputError


def named_bundles(models: Iterable[str]) -> dict[str, Path]:
    """Tell names from bundles: the name ends at the first "=".

    :raises InputError: two models have one name
    """
    named: dict[str, Path] = {}
    for model in models:
        name, separator, path = model.partition("=")
        bundle = Path(path if separator else model)
        name = name if separator else bundle.resolve().name
        if not name or name in named:
            reason = f"the name {name!r} is empty or given twice; use NAME=BUNDLE"
            raise InputError("model", reason)
        named[name] = bundle
    return named
