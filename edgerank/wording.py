"""Translates input errors, which name Python's arguments, for other interfaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgerank.errors import InputError, Remedy


@dataclass(frozen=True)
class Wording:
    """The names of ``Reranker``'s parameters in a request or on the command line."""

    fields: Mapping[str, str]  # by the path in Python; only names that differ
    advise: Callable[[Remedy], str]  # advice for the caller, which follows "or"

    def path(self, error: InputError) -> str:
        """Return the name of the unusable field, with its index."""
        field = self.fields.get(error.field, error.field)
        return InputError(field, error.reason, error.index).path

    def description(self, error: InputError) -> str:
        """Return the reason, with advice."""
        if error.remedy is None:
            return error.reason
        return f"{error.reason}, or {self.advise(error.remedy)}"
