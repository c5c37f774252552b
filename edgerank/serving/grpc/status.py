"""Failed calls as gRPC statuses with google.rpc details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from edgerank.errors import InputError
from edgerank.serving.calls import CallFailed
from edgerank.serving.errors import NoRoom
from edgerank.wording import Wording

DETAILS_KEY = "grpc-status-details-bin"
PUSHBACK_KEY = "grpc-retry-pushback-ms"  # -1: not again
DOMAIN = "edgerank"  # of a google.rpc.ErrorInfo
OPTION_HELPS = "OPTION_HELPS"  # its reason: another value of an option would be accepted

Metadata = tuple[tuple[str, str | bytes], ...]


@dataclass(frozen=True)
class Status:
    """The status of a failed call, for the client."""

    code: grpc.StatusCode
    message: str
    details: Sequence[Message] = ()
    pushback: tuple[tuple[str, str], ...] = ()  # metadata for the client's retry policy

    @property
    def trailing_metadata(self) -> Metadata:
        """The status with google.rpc details, serialized."""
        if not self.details:
            return self.pushback
        packed = []
        for detail in self.details:
            packed.append(any_pb2.Any())
            packed[-1].Pack(detail)
        status = status_pb2.Status(code=self.code.value[0], message=self.message, details=packed)
        return ((DETAILS_KEY, status.SerializeToString()), *self.pushback)


def status_of(failed: CallFailed, wording: Wording) -> Status:
    """Return the status of a failed call; that of an unexpected error has no details.

    :param wording: wording of the called method
    """
    code = grpc.StatusCode[failed.reason.grpc_status]
    error = failed.error
    if not failed.is_expected:
        return Status(code, "internal error")
    if isinstance(error, InputError):
        return _invalid(code, error, wording)
    if isinstance(error, NoRoom):
        return _no_room(code, error)
    return Status(code, str(error))


def _invalid(code: grpc.StatusCode, error: InputError, wording: Wording) -> Status:
    field, description = wording.path(error), wording.description(error)
    violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
    details: list[Message] = [error_details_pb2.BadRequest(field_violations=[violation])]
    remedy = error.remedy
    if remedy is not None and remedy.option in wording.fields:  # a method may have no such option
        known = {"problem": error.reason, "option": remedy.option}
        known["values"] = ",".join(remedy.values)
        helps = error_details_pb2.ErrorInfo(reason=OPTION_HELPS, domain=DOMAIN, metadata=known)
        details.append(helps)
    return Status(code, f"{field}: {description}", details)


def _no_room(code: grpc.StatusCode, error: NoRoom) -> Status:
    if error.retry_after_s is None:
        return Status(code, str(error), pushback=((PUSHBACK_KEY, "-1"),))
    delay = duration_pb2.Duration()
    delay.FromNanoseconds(int(error.retry_after_s * 1e9))
    details = [error_details_pb2.RetryInfo(retry_delay=delay)]
    return Status(code, str(error), details, ((PUSHBACK_KEY, str(int(error.retry_after_s * 1e3))),))
