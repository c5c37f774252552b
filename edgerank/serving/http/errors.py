"""Failed calls in the formats of the supported APIs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from edgerank.errors import InputError, Remedy
from edgerank.serving.calls import CallFailed
from edgerank.serving.errors import NoRoom
from edgerank.wording import Wording


@dataclass(frozen=True)
class Told:
    """The response to a failed call."""

    status: int
    content: object  # for JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A failed call, independent of the format."""

    status: int
    kind: str  # of ``serving.errors.Reason``
    message: str
    field: str | None = None  # of the request


@dataclass(frozen=True)
class ErrorForm:
    """The format of errors of one API."""

    wording: Wording
    content: Callable[[Failure], object]  # for JSON
    invalid_status: int = 400  # for an unusable field

    def word(self, failed: CallFailed) -> Told:
        """Return the response to an error; that of an unexpected error has no details."""
        error, reason = failed.error, failed.reason
        headers = {}
        if not failed.is_expected:
            failure = Failure(reason.http_status, reason.name, "internal error")
        elif isinstance(error, InputError):
            path = self.wording.path(error)
            message = f"{path}: {self.wording.description(error)}"
            status = 400 if path == BODY else self.invalid_status
            failure = Failure(status, reason.name, message, path)
        else:
            failure = Failure(reason.http_status, reason.name, str(error))
        if isinstance(error, NoRoom) and error.retry_after_s is not None:
            headers["retry-after"] = str(math.ceil(error.retry_after_s))
        return Told(failure.status, self.content(failure), headers)


def advise(remedy: Remedy) -> str:
    """Name an option of a request, and its values that would be accepted."""
    return f"set {remedy.option} to " + " or ".join(f'"{value}"' for value in remedy.values)


BODY = "body"  # the name of a request without valid JSON, for errors


def common(failure: Failure) -> object:
    """Return an error with the fields of Cohere, Jina, Voyage, vLLM and OpenAI."""
    return {
        "message": failure.message,
        "detail": failure.message,
        "error": {
            "message": failure.message,
            "type": failure.kind,
            "param": failure.field,
            "code": failure.status,
        },
    }
