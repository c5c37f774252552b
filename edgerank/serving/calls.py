"""The call that is being answered: who makes it, until when, and what it came to."""

from __future__ import annotations

import time
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Call:
    """One RPC; the last three are filled in as it is served, for the log."""

    request_id: str
    client: str  # whom fairness counts it for
    deadline: float  # seconds of time.monotonic(), inf if there is none
    started: float = field(default_factory=time.monotonic)
    model: str = ""
    num_documents: int = 0
    num_tokens: int = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since it came."""
        return time.monotonic() - self.started


CALL: ContextVar[Call] = ContextVar("CALL")
