"""Authentication, deadline, log and metrics of every call, for all transports."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from math import inf

from edgerank.serving.authentication import BearerTokens
from edgerank.serving.errors import UNEXPECTED, NoRoom, Reason, reason_of
from edgerank.serving.metrics import Metrics

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
BUSY_RETRY_S = 1.0

log = logging.getLogger(__name__)


@dataclass
class Call:
    """One call; the last three are filled in as it is served, for the log."""

    method: str
    request_id: str
    client: str  # name of the client, for fairness
    deadline: float = inf  # seconds of time.monotonic()
    started: float = field(default_factory=time.monotonic)
    model: str = ""
    num_documents: int = 0
    num_tokens: int = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the arrival of the call."""
        return time.monotonic() - self.started


CALL: ContextVar[Call] = ContextVar("CALL")


class Abandoned(Exception):
    """The client is gone: nobody waits for the answer."""


class CallFailed(Exception):
    """A call that failed; the transport turns it into an error message."""

    def __init__(self, error: Exception, reason: Reason) -> None:
        super().__init__(reason.name)
        self.error = error
        self.reason = reason

    @property
    def is_expected(self) -> bool:
        """Whether the client may see the reason."""
        return self.reason is not UNEXPECTED


class Calls:
    """Admits, logs and counts calls; texts are not logged."""

    def __init__(self, metrics: Metrics, tokens: BearerTokens | None, max_calls: int) -> None:
        """Set up the checks.

        :param tokens: tokens of which every call must have one; None: no token is required
        :param max_calls: most calls at once, over all transports
        """
        self.metrics = metrics
        self._tokens = tokens
        self._max_calls = max_calls
        self._num_calls = 0

    @contextmanager
    def answering(self, call: Call, authorization: str | None) -> Iterator[Call]:
        """Wrap the answering of a call: sets ``CALL``, and logs and counts the call.

        :param authorization: the header of that name
        :raises CallFailed: the call is not admitted, or the block raised an error, which it wraps
        :raises Abandoned: as raised within
        """
        CALL.set(call)
        self._num_calls += 1
        try:
            self._admit(call, authorization)
            yield call
        except (asyncio.CancelledError, GeneratorExit, Abandoned):
            is_late = time.monotonic() >= call.deadline
            self._finish(call, "DEADLINE_EXCEEDED" if is_late else "CANCELLED")
            raise
        except Exception as error:
            failed = CallFailed(error, reason_of(error))
            self.metrics.count_rejected(failed.reason.name)
            if not failed.is_expected:
                log.exception("a call failed", extra={"request_id": call.request_id})
            self._finish(call, failed.reason.grpc_status)
            raise failed from error
        else:
            self._finish(call, "OK")
        finally:
            self._num_calls -= 1

    def _admit(self, call: Call, authorization: str | None) -> None:
        if self._tokens is not None:
            call.client = self._tokens.client_of(authorization)
        if self._num_calls > self._max_calls:
            raise NoRoom("there are too many calls at once", BUSY_RETRY_S)

    def _finish(self, call: Call, status: str) -> None:
        self.metrics.count_call(call.method, status, call.elapsed_s)
        log.info(
            "call",
            extra={
                "request_id": call.request_id,
                "method": call.method,
                "code": status,
                "client": call.client,
                "model": call.model,
                "documents": call.num_documents,
                "tokens": call.num_tokens,
                "ms": round(call.elapsed_s * 1e3, 3),
            },
        )


def request_id_of(given: str | None) -> str:
    """Return the client's id of a request if it is usable, else a new one."""
    return given if given and REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
