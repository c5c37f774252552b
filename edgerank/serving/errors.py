"""Why a request is not served. ``status`` turns these, and InputError, into gRPC statuses."""

from __future__ import annotations


class Refused(Exception):
    """Base of these; the message goes to the client and holds nothing of its text."""


class Unauthenticated(Refused):
    """The call carries no token that the server knows."""


class NotReady(Refused):
    """The models are still being loaded."""


class UnknownModel(Refused):
    """No model has the name that was asked for."""


class Overloaded(Refused):
    """The queue is full; None for ``retry_after_s`` means that trying again is no use."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLate(Refused):
    """The deadline has passed, or cannot be met."""


class EngineFailed(Refused):
    """The engine raised an error, which is in the log."""
