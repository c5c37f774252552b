"""Errors as gRPC statuses with google.rpc details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from edgerank.errors import InputError
from edgerank.serving.errors import (
    EngineFailed,
    NotReady,
    Overloaded,
    Refused,
    TooLate,
    Unauthenticated,
    UnknownModel,
)

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"  # -1: not again

# of each error, its code and the reason that the metrics give
REASONS: dict[type[Exception], tuple[grpc.StatusCode, str]] = {
    InputError: (grpc.StatusCode.INVALID_ARGUMENT, "invalid"),
    Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, "unauthenticated"),
    NotReady: (grpc.StatusCode.UNAVAILABLE, "not_ready"),
    UnknownModel: (grpc.StatusCode.NOT_FOUND, "unknown_model"),
    Overloaded: (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded"),
    TooLate: (grpc.StatusCode.DEADLINE_EXCEEDED, "late"),
    EngineFailed: (grpc.StatusCode.INTERNAL, "engine"),
}


@dataclass(frozen=True)
class Status:
    """What a client is told, and why, in a word, for the metrics."""

    code: grpc.StatusCode
    message: str
    reason: str
    details: Sequence[Message] = ()
    pushback: tuple[tuple[str, str], ...] = ()  # what a retry policy waits for

    @property
    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """The details as clients of google.rpc expect them."""
        if not self.details:
            return self.pushback
        packed = []
        for detail in self.details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        return ((DETAILS_KEY, status.SerializeToString()), *self.pushback)


def status_of(error: Exception) -> Status:
    """Say what a client is told of an error; of an unexpected one, nothing."""
    known = REASONS.get(type(error))
    if known is None:
        return Status(grpc.StatusCode.INTERNAL, "internal error", "internal")
    code, reason = known
    return Status(code, str(error), reason, _details(error), _pushback(error))


def _details(error: Exception) -> list[Message]:
    if isinstance(error, InputError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=error.path, description=error.reason
        )
        return [error_details_pb2.BadRequest(field_violations=[violation])]
    if isinstance(error, Overloaded) and error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        return [error_details_pb2.RetryInfo(retry_delay=delay)]
    return []


def _pushback(error: Exception) -> tuple[tuple[str, str], ...]:
    if not isinstance(error, Overloaded):
        return ()
    wait_s = error.retry_after_s
    return ((PUSHBACK_KEY, "-1" if wait_s is None else str(int(wait_s * 1e3))),)


def is_expected(error: Exception) -> bool:
    """Whether an error is the client's or the load's, not a fault to be looked into."""
    return isinstance(error, InputError | Refused)
