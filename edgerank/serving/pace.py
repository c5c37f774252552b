"""The recent speed of a model."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

LATEST_WEIGHT = 0.1  # weight of the latest micro-batch in the means
STALE_S = 1.0  # after this time without a micro-batch, a slow pace is not trusted


@dataclass
class Pace:
    """The time of a model for a token, in seconds.

    The time that is almost certainly enough is the mean plus some deviations, as in the
    retransmission timer of TCP (RFC 6298).
    """

    best: float
    mean: float  # of recent micro-batches
    deviation: float = 0.0  # mean absolute deviation of recent micro-batches
    noted: float = field(default_factory=time.monotonic)

    @property
    def safe(self) -> float:
        """Seconds for a token that are almost certainly enough."""
        return self.mean + 2 * self.deviation

    def note(self, pace: float) -> None:
        """Count a micro-batch."""
        self.best = min(self.best, pace)
        self.deviation += (abs(pace - self.mean) - self.deviation) * LATEST_WEIGHT
        self.mean += (pace - self.mean) * LATEST_WEIGHT
        self.noted = time.monotonic()

    def doubt(self) -> None:
        """Count refused work, so that a pace that was slow once does not refuse work for ever."""
        if time.monotonic() - self.noted > STALE_S:
            self.mean += (self.best - self.mean) * LATEST_WEIGHT
            self.deviation -= self.deviation * LATEST_WEIGHT
