"""The reasons for refusing a call, and their statuses in gRPC and HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from edgerank.errors import InputError


class Refused(Exception):
    """Base class; the message is sent to the client and contains none of its texts."""


class UnknownCaller(Refused):
    """The call has no token that the server knows."""


class NotReady(Refused):
    """The models are still being loaded."""


class NoSuchModel(Refused):
    """No model has the name that was asked for."""


class NoRoom(Refused):
    """The queue has no room; ``retry_after_s`` is None if the request can never fit."""

    def __init__(self, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class BodyTooLarge(Refused):
    """The request has too many bytes."""


class TooLate(Refused):
    """The deadline has passed, or cannot be met."""


class EngineFailed(Refused):
    """The engine raised an error, which is in the log."""


@dataclass(frozen=True)
class Reason:
    """The name and the statuses of a reason."""

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
    """Return the reason for an error."""
    return REASONS.get(type(error), UNEXPECTED)
