"""Failed calls in the forms that callers expect; each names the field and what can be done."""

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
    """What a client is told of a failed call."""

    status: int
    content: object  # for JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """What went wrong, before it has a form."""

    status: int
    kind: str  # of ``serving.errors.Reason``
    message: str
    field: str | None = None  # of the request


@dataclass(frozen=True)
class ErrorForm:
    """How the methods of one API tell errors."""

    wording: Wording
    content: Callable[[Failure], object]  # for JSON
    invalid_status: int = 400  # of a field that is unusable

    def word(self, failed: CallFailed) -> Told:
        """Say what a client is told; of an unexpected error, nothing."""
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
    """Name an option of a request, and the values of it that would do."""
    return f"set {remedy.option} to " + " or ".join(f'"{value}"' for value in remedy.values)


BODY = "body"  # what errors call a request that is no JSON


def common(failure: Failure) -> object:
    """Word an error as Cohere, Jina, Voyage, vLLM and OpenAI do, all at once."""
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
