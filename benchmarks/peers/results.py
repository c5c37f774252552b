"""What a workload's run measured, and the rows that follow from it; nothing here measures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.stats import kendalltau

from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import Seconds, ratio

HOSTED_USD = 0.008  # per 1,000 documents: announced for a hosted mxbai-rerank-large-v2
EVERYTHING = "everything"

Scores = Sequence[Sequence[float]]  # a list a request


@dataclass(frozen=True)
class Timing:
    """A job's rounds in one system."""

    seconds: Seconds  # [rounds]
    line_seconds: Sequence[float]  # of each line of each round
    scores: Scores  # of the last round


@dataclass
class System:
    """A peer in one setting, on one workload; what it did not do is there with the reason."""

    peer: str
    setting: str
    note: str = ""
    reasons: dict[str, str] = field(default_factory=dict)  # by job, or EVERYTHING
    versions: dict[str, str] = field(default_factory=dict)
    environment_bytes: int = 0
    model_bytes: int = 0
    peak_bytes: int = 0
    import_s: float = 0.0
    start_s: float = 0.0  # from the process's start to its first score
    convert_s: float = 0.0
    timings: dict[str, Timing] = field(default_factory=dict)  # by job

    @property
    def name(self) -> str:
        return f"{self.peer} {self.setting}"


@dataclass(frozen=True)
class Asked:
    """A job, and how much it asks for."""

    name: str
    queries: int
    documents: int
    tokens: int  # of all pairs, each with its whole prompt
    operations: float  # int8 multiplications and additions that its scores need at the least
    bare_rates: Sequence[float]  # int8 operations/s of the model's matrices alone, by round


@dataclass(frozen=True)
class Outcome:
    """A workload's run."""

    workload: str
    model: str
    layers: int
    whole_layers: int  # of the real model
    weights: str
    texts: str  # where they come from
    reference: str  # the system that scores are compared with
    baseline: str  # the system that times are compared with
    jobs: Sequence[Asked]
    systems: Sequence[System]

    @property
    def label(self) -> str:
        cut = f" of {self.whole_layers}" if self.layers < self.whole_layers else ""
        return f"{self.workload}: {self.model}, {self.layers}{cut} layers"


@dataclass(frozen=True)
class Agreement:
    """Scores against the reference's on the same weights."""

    max_error: float
    rms_error: float
    kendall_tau: float | None  # of a query's documents, mean over queries; None without one


def rows(outcome: Outcome, usd_per_hour: float) -> Iterator[Row]:
    """Lay out a run: what was asked, speed and agreement, cost, what is missing, versions."""
    for job in outcome.jobs:
        yield job_row(outcome, job)
    for job in outcome.jobs:
        yield from speed_rows(outcome, job)
    for system in outcome.systems:
        if system.timings:
            yield cost_row(outcome, system, usd_per_hour)
    for system in outcome.systems:
        for what, reason in system.reasons.items():
            labels = {"workload": outcome.label, "system": system.name}
            yield Row({**labels, "not measured": what, "reason": reason})
    for system in outcome.systems:
        if system.timings:
            versions = ", ".join(f"{name} {number}" for name, number in system.versions.items())
            yield Row({"system": system.name, "setting": system.note, "versions": versions})


def job_row(outcome: Outcome, job: Asked) -> Row:
    labels = {
        "workload": outcome.label,
        "call": job.name,
        "weights": outcome.weights,
        "texts": outcome.texts,
        "scores compared with": outcome.reference,
    }
    figures = {
        "queries": Figure(job.queries),
        "documents": Figure(job.documents),
        "a document with its prompt": Figure(job.tokens / job.documents, "tokens"),
        "bare int8 rate": median(np.array(job.bare_rates) / 1e9, "GOP/s"),
    }
    reference = _timing(outcome, outcome.reference, job)
    if reference is not None:
        figures["score spread"] = Figure(float(np.std(np.concatenate(reference.scores))))
    return Row(labels, figures)


def speed_rows(outcome: Outcome, job: Asked) -> Iterator[Row]:
    """Yield a row a system, fastest first.

    "of edgerank's time" is how many times as long a system took in the same round: above 1 it is
    slower. Shares are of the int8 products that scores need at the least (no padding, the query
    once where the model allows, in the last layer scored rows alone), over all of a system's time.
    """
    baseline = _timing(outcome, outcome.baseline, job)
    reference = _timing(outcome, outcome.reference, job)
    systems = [system for system in outcome.systems if job.name in system.timings]
    for system in sorted(systems, key=lambda one: np.median(one.timings[job.name].seconds)):
        timing = system.timings[job.name]
        seconds = counted(timing.seconds)
        figures = {}
        if baseline is not None:
            times = ratio(timing.seconds, baseline.seconds)
            figures["of edgerank's time"] = median(counted(times), "×")
        figures["documents/s"] = median(job.documents / seconds, "documents/s")
        figures["tokens/s"] = median(job.tokens / seconds, "tokens/s")
        if job.queries * len(timing.seconds) == len(timing.line_seconds):
            p50, p95 = np.quantile(timing.line_seconds, [0.5, 0.95])
            figures |= {"p50": Figure(float(p50), "s"), "p95": Figure(float(p95), "s")}
        figures["of bare int8"] = median(counted(shares(timing.seconds, job)) * 100, "%")
        if reference is not None:
            agreed = agreement(timing.scores, reference.scores)
            figures["rms score error"] = Figure(agreed.rms_error)
            figures["largest score error"] = Figure(agreed.max_error)
            if agreed.kendall_tau is not None:
                figures["Kendall tau"] = Figure(agreed.kendall_tau)
        yield Row({"workload": outcome.label, "call": job.name, "system": system.name}, figures)


def cost_row(outcome: Outcome, system: System, usd_per_hour: float) -> Row:
    """Show what a system takes besides time, and the price of the first job's documents."""
    figures = {
        "peak memory": Figure(system.peak_bytes / 1e9, "GB"),
        "model": Figure(system.model_bytes / 1e9, "GB"),
        "environment": Figure(system.environment_bytes / 1e6, "MB"),
        "import": Figure(system.import_s, "s"),
        "process start to first score": Figure(system.start_s, "s"),
        "conversion": Figure(system.convert_s, "s"),
    }
    job = outcome.jobs[0]
    if job.name in system.timings:
        speed = job.documents / np.median(counted(system.timings[job.name].seconds))
        price = usd_per_thousand(float(speed), usd_per_hour)
        figures["1,000 documents, never idle"] = Figure(price, f"USD at {usd_per_hour:g} an hour")
        figures["of the hosted price"] = Figure(price / HOSTED_USD, "×")
    return Row({"workload": outcome.label, "system": system.name}, figures)


def counted(rounds: Seconds) -> Seconds:
    """Leave out the first of three rounds or more, which warms up."""
    return rounds[1:] if len(rounds) > 2 else rounds


def shares(seconds: Seconds, job: Asked) -> Seconds:
    """Return the int8 operations/s that scores need, of the same round's bare rate: [rounds]."""
    rounds = min(len(seconds), len(job.bare_rates))
    found: Seconds = job.operations / seconds[:rounds] / np.array(job.bare_rates[:rounds])
    return found


def agreement(scores: Scores, reference: Scores) -> Agreement:
    """Compare scores with the reference's."""
    flat, wanted = (np.concatenate([*map(np.asarray, both)]) for both in (scores, reference))
    taus = [
        float(kendalltau(mine, theirs).statistic)
        for mine, theirs in zip(scores, reference, strict=True)
        if len(mine) > 1
    ]
    tau = float(np.mean(taus)) if taus else math.nan  # nan as well where all scores are equal
    errors = flat - wanted
    return Agreement(
        max_error=float(np.abs(errors).max()),
        rms_error=float(np.sqrt(np.mean(np.square(errors)))),
        kendall_tau=tau if math.isfinite(tau) else None,
    )


def usd_per_thousand(documents_per_second: float, usd_per_hour: float) -> float:
    """Return the price of 1,000 documents on a machine that is never idle."""
    return usd_per_hour / 3600 / documents_per_second * 1000


def _timing(outcome: Outcome, name: str, job: Asked) -> Timing | None:
    """Find a system's rounds of a job."""
    for system in outcome.systems:
        if system.name == name:
            return system.timings.get(job.name)
    return None
