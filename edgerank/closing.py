"""What is closed at the end of a ``with`` block."""

from __future__ import annotations

from typing import TypeVar

C = TypeVar("C", bound="Closing")


class Closing:
    """A base of what has a ``close`` method: a ``with`` block calls it at its end."""

    def close(self) -> None:
        """Free what is held."""
        raise NotImplementedError

    def __enter__(self: C) -> C:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
