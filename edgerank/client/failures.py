"""Turns a failed gRPC call into an error of edgerank."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from edgerank.errors import (
    DeadlineExceeded,
    InputError,
    Overloaded,
    Remedy,
    RequestTooLarge,
    ServerError,
    ServerFailure,
    Unauthenticated,
    Unavailable,
    UnknownModel,
)

ERRORS: Mapping[grpc.StatusCode, type[InputError] | type[ServerError]] = {
    grpc.StatusCode.CANCELLED: Unavailable,  # by a server that stops: gRPC drops what came late
    grpc.StatusCode.UNKNOWN: ServerFailure,
    grpc.StatusCode.INVALID_ARGUMENT: InputError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: UnknownModel,
    grpc.StatusCode.ALREADY_EXISTS: ServerError,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,  # or RequestTooLarge
    grpc.StatusCode.FAILED_PRECONDITION: ServerError,
    grpc.StatusCode.ABORTED: ServerError,
    grpc.StatusCode.OUT_OF_RANGE: ServerError,
    grpc.StatusCode.UNIMPLEMENTED: ServerError,
    grpc.StatusCode.INTERNAL: ServerFailure,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DATA_LOSS: ServerFailure,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
}
TOO_LARGE = "message larger than max"  # gRPC itself says so: the call has not reached the server
OPTION_HELPS = "OPTION_HELPS"  # reason of a google.rpc.ErrorInfo that has a remedy
DETAILS_KEY = "grpc-status-details-bin"
REQUEST_ID_KEY = "x-request-id"

Metadata = Iterable[tuple[str, str | bytes]]
M = TypeVar("M", bound=Message)


def error_of(failed: Any) -> InputError | ServerError:
    """Turn a failed call into an error of edgerank.

    :param failed: a grpc.RpcError
    """
    code, message = failed.code(), failed.details() or "no details"
    trailer: Metadata = failed.trailing_metadata() or ()
    kind = ERRORS[code]
    if issubclass(kind, InputError):
        return _input_error(message, trailer)
    if kind is Overloaded and TOO_LARGE in message:
        kind = RequestTooLarge
    return kind(code.name, message, _retry_after_s(trailer), request_id_of(trailer))


def request_id_of(trailer: Metadata) -> str:
    """Return the id that a request has in the server's log, "" if it did not get there."""
    found = dict(trailer).get(REQUEST_ID_KEY, "")
    return found if isinstance(found, str) else ""


def _input_error(message: str, trailer: Metadata) -> InputError:
    for violation in _detail(trailer, error_details_pb2.BadRequest).field_violations:
        field, index = _in_python(violation.field)
        info = _detail(trailer, error_details_pb2.ErrorInfo)
        if info.reason != OPTION_HELPS:
            return InputError(field, violation.description, index)
        known = info.metadata  # the description words the remedy, too, in terms of requests
        remedy = Remedy(known["option"], tuple(known["values"].split(",")))
        return InputError(field, known["problem"], index, remedy)
    return InputError("request", message)


def _in_python(path: str) -> tuple[str, int | None]:
    """Split the path of a request's field: what Python calls it, and the index in its list."""
    path = path.removeprefix("options.").removeprefix("start.")
    indexed = re.fullmatch(r"(\w+)\[(\d+)\](.*)", path)
    if indexed is None:
        return path, None
    return indexed[1] + indexed[3], int(indexed[2])


def _retry_after_s(trailer: Metadata) -> float | None:
    info = _detail(trailer, error_details_pb2.RetryInfo)
    if not info.HasField("retry_delay"):
        return None
    return float(info.retry_delay.ToTimedelta().total_seconds())


def _detail(trailer: Metadata, kind: type[M]) -> M:
    """Return a detail of an error, an empty one if it has none of that kind."""
    found = kind()
    data = dict(trailer).get(DETAILS_KEY, b"")
    if isinstance(data, bytes):
        for packed in status_pb2.Status.FromString(data).details:
            if packed.Unpack(found):
                break
    return found
