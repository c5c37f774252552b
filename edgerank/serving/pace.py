"""How fast a model computes, as the latest micro-batches show."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

LATEST_WEIGHT = 0.1  # of the latest micro-batch in the means
STALE_S = 1.0  # seconds without a micro-batch, after which a slow pace is no longer trusted


@dataclass
class Pace:
    """How long a model has needed, in seconds for a token.

    The time that is almost surely enough is the mean and some deviations, as in the retransmission
    timer of TCP (RFC 6298).
    """

    best: float
    mean: float  # of late
    deviation: float = 0.0  # of late, absolute
    noted: float = field(default_factory=time.monotonic)

    @property
    def safe(self) -> float:
        """What is almost surely enough."""
        return self.mean + 2 * self.deviation

    def note(self, pace: float) -> None:
        """Count a micro-batch."""
        self.best = min(self.best, pace)
        self.deviation += (abs(pace - self.mean) - self.deviation) * LATEST_WEIGHT
        self.mean += (pace - self.mean) * LATEST_WEIGHT
        self.noted = time.monotonic()

    def doubt(self) -> None:
        """Count work that was not tried: a pace that was slow once must not refuse it for ever."""
        if time.monotonic() - self.noted > STALE_S:
            self.mean += (self.best - self.mean) * LATEST_WEIGHT
            self.deviation -= self.deviation * LATEST_WEIGHT
