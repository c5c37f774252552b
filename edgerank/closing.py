"""A base class for objects that a ``with`` block closes."""

from __future__ import annotations

from typing import TypeVar

C = TypeVar("C", bound="Closing")


class Closing:
    """Base class of objects with a ``close`` method, which a ``with`` block calls at its end."""

    def close(self) -> None:
        """Free the resources."""
        raise NotImplementedError

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
