"""What a run measured, and the figures that follow from it; nothing here measures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from scipy.stats import kendalltau

HOSTED_USD = 0.008  # per 1,000 documents: announced for a hosted mxbai-rerank-large-v2


EVERYTHING = "everything"


class Timing(msgspec.Struct, frozen=True):
    """A job's rounds in one system."""

    seconds: list[list[float]]  # of each line, a round a list; of round n at place n
    scores: list[list[float]]  # of the last round, a list a request


class System(msgspec.Struct, frozen=True):
    """A peer in one setting, on one workload; what it did not do is there with the reason."""

    peer: str
    setting: str
    note: str
    reasons: dict[str, str] = {}  # by job, or EVERYTHING
    versions: dict[str, str] = {}
    environment_bytes: int = 0
    model_bytes: int = 0
    peak_bytes: int = 0
    import_s: float = 0.0
    start_s: float = 0.0  # from the process's start to its first score
    convert_s: float = 0.0
    jobs: dict[str, Timing] = {}

    @property
    def name(self) -> str:
        return f"{self.peer} {self.setting}"


class Job(msgspec.Struct, frozen=True):
    """A kind of call, and how much it asks for."""

    name: str
    queries: int
    documents: int
    tokens: int  # of all pairs, each with its whole prompt
    operations: float  # int8 multiplications and additions that its scores need at the least
    bare_rates: list[float]  # int8 operations/s of the model's matrices alone, a round each


class Workload(msgspec.Struct, frozen=True):
    """What was run and on which weights."""

    name: str
    model: str
    layers: int
    whole_layers: int  # of the real model
    weights: str
    texts: str  # where they come from
    reference: str  # the system that scores are compared with
    baseline: str  # the system that times are compared with
    jobs: list[Job]
    systems: list[System]


class Results(msgspec.Struct, frozen=True):
    """A whole run."""

    machine: dict[str, str]
    threads: int
    workloads: list[Workload]


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float
    samples: int


@dataclass(frozen=True)
class Agreement:
    """Scores against the reference's on the same weights."""

    max_error: float
    spread: float  # standard deviation of the reference's scores, to read the error against
    kendall_tau: float  # of a query's documents, mean over queries; nan if no query has two


def spread_of(values: Sequence[float]) -> Spread:
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high), len(values))


def kept_seconds(timing: Timing) -> dict[int, float]:
    """Return the seconds of the rounds that count, by round: not the first of three or more."""
    seconds = {number: sum(lines) for number, lines in enumerate(timing.seconds)}
    if len(seconds) > 2:
        del seconds[0]
    return seconds


def ratios(timing: Timing, baseline: Timing) -> Spread:
    """How many times as long as the baseline it took, of the rounds that both took part in."""
    mine, theirs = kept_seconds(timing), [sum(lines) for lines in baseline.seconds]
    return spread_of([mine[n] / theirs[n] for n in mine if n < len(theirs)])


def share(timing: Timing, job: Job) -> Spread:
    """Return the int8 operations/s that its scores need, of the same round's bare rate."""
    seconds = kept_seconds(timing).items()
    return spread_of([job.operations / took / job.bare_rates[n] for n, took in seconds])


def latency(timing: Timing) -> tuple[float, float]:
    """Return p50 and p95 of a line, in seconds."""
    p50, p95 = np.quantile([s for lines in timing.seconds for s in lines], [0.5, 0.95])
    return float(p50), float(p95)


def agreement(scores: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> Agreement:
    """Compare scores, a list a request."""
    flat, wanted = (np.concatenate([*map(np.asarray, both)]) for both in (scores, reference))
    taus = [
        float(kendalltau(mine, theirs).statistic)
        for mine, theirs in zip(scores, reference, strict=True)
        if len(mine) > 1
    ]
    return Agreement(
        float(np.abs(flat - wanted).max()),
        float(wanted.std()),
        float(np.mean(taus)) if taus else float("nan"),
    )


def usd_per_thousand(documents_per_second: float, usd_per_hour: float) -> float:
    """Return the price of 1,000 documents on a machine that is never idle."""
    return usd_per_hour / 3600 / documents_per_second * 1000
