"""Why a call is refused, and the one table of what each reason is called on the wire."""

from __future__ import annotations

from dataclasses import dataclass

from edgerank.errors import InputError


class Refused(Exception):
    """Base of these; the message goes to the client and holds nothing of its text."""


class UnknownCaller(Refused):
    """The call carries no token that the server knows."""


class NotReady(Refused):
    """The models are still being loaded."""


class NoSuchModel(Refused):
    """No model has the name that was asked for."""


class NoRoom(Refused):
    """There is no room now; None for ``retry_after_s`` means that trying again is no use."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BodyTooLarge(Refused):
    """The request has more bytes than one may have."""


class TooLate(Refused):
    """The deadline has passed, or cannot be met."""


class EngineFailed(Refused):
    """The engine raised an error, which is in the log."""


@dataclass(frozen=True)
class Reason:
    """Why a call was not served."""

    name: str  # in the metrics
    grpc_status: str  # the name of a gRPC status code, also in the log and the metrics
    http_status: int


REASONS: dict[type[Exception], Reason] = {
    InputError: Reason("invalid", "INVALID_ARGUMENT", 400),
    UnknownCaller: Reason("unauthenticated", "UNAUTHENTICATED", 401),
    NoSuchModel: Reason("unknown_model", "NOT_FOUND", 404),
    BodyTooLarge: Reason("too_large", "OUT_OF_RANGE", 413),
    NoRoom: Reason("overloaded", "RESOURCE_EXHAUSTED", 429),
    EngineFailed: Reason("engine", "INTERNAL", 500),
    NotReady: Reason("not_ready", "UNAVAILABLE", 503),
    TooLate: Reason("late", "DEADLINE_EXCEEDED", 504),
}
UNEXPECTED = Reason("internal", "INTERNAL", 500)


def reason_of(error: Exception) -> Reason:
    """Look up why an error refuses a call."""
    return REASONS.get(type(error), UNEXPECTED)
