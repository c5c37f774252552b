"""Input errors in the terms of whoever asks: they are raised in those of Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgerank.errors import InputError, Remedy


@dataclass(frozen=True)
class Wording:
    """What a request, or a command line, calls the parameters of ``Reranker``'s methods."""

    fields: Mapping[str, str]  # by the path in Python; those that are called the same are absent
    advise: Callable[[Remedy], str]  # what the caller can do, to go on after "or"

    def path(self, error: InputError) -> str:
        """Name the field that is unusable, with its index."""
        field = self.fields.get(error.field, error.field)
        return InputError(field, error.reason, error.index).path

    def description(self, error: InputError) -> str:
        """Say what is wrong with it, and what can be done."""
        if error.remedy is None:
            return error.reason
        return f"{error.reason}, or {self.advise(error.remedy)}"
