"""A request's groups on their way through the engine, and what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from edgerank.engine import Array, Gatherer, Output, Results
from edgerank.packing import Batch, Group
from edgerank.serving.budget import Reservation


class Runner(Protocol):
    """What computes: a ``Reranker``, in one engine."""

    max_batch_tokens: int

    def steps(self, groups: Sequence[Group], output: Output) -> Iterator[tuple[Batch, Array]]:
        """Compute groups, one micro-batch for each item that is asked for."""

    def __hash__(self) -> int:
        """By identity: a model that was loaded anew is another."""


@dataclass(frozen=True)
class Computed:
    """What came of a job."""

    results: Results  # by score id
    queue_s: float  # waiting, before the first micro-batch and between micro-batches
    inference_s: float  # in micro-batches that it had a part in


@dataclass(eq=False)
class Job:
    """A request's groups on their way; cancel ``future`` to give it up.

    What is cached for a job lies in one engine, so all of its micro-batches run there.
    """

    client: str
    runners: tuple[Runner, ...]  # of one model, one for each engine that has it
    groups: Sequence[Group]  # their score ids count from 0
    output: Output  # of the graph
    deadline: float = inf  # seconds of time.monotonic()
    reservation: Reservation | None = None  # tokens of the queue that it holds, once submitted
    virtual_time: float = 0.0  # kept by ``fairness``
    future: Future[Computed] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    inference_s: float = 0.0
    engine: int | None = None  # once it is started

    def __post_init__(self) -> None:
        self.num_scores = sum(len(group.sequences) for group in self.groups)
        self.num_tokens = self.tokens_left = sum(map(len, self.groups))
        self.scores_left = self.num_scores
        self.steps: Iterator[tuple[Batch, Array]] | None = None
        self.results: Results | None = None  # once all are there
        self._gatherer = Gatherer(self.output, self.num_scores)

    @property
    def batch_key(self) -> Hashable:
        """Equal for jobs that may share a micro-batch."""
        return self.runners, self.output

    @property
    def max_batch_tokens(self) -> int:
        """Tokens of a micro-batch on every engine."""
        return min(runner.max_batch_tokens for runner in self.runners)

    @property
    def num_engines(self) -> int:
        """How many engines can run it: the first ones."""
        return len(self.runners)

    @property
    def is_small(self) -> bool:
        """Whether it fits a micro-batch as a whole."""
        return self.num_tokens <= self.max_batch_tokens

    @property
    def is_started(self) -> bool:
        """Whether an engine has taken it."""
        return self.engine is not None

    def add(self, batch: Batch, raw: Array) -> None:
        """Keep the results of a micro-batch whose score ids are the job's own."""
        self._gatherer.add(batch, raw)
        self.tokens_left = max(0, self.tokens_left - len(batch.token_ids))
        self.scores_left -= int((batch.score_ids >= 0).sum())
        if not self.scores_left:
            self.results = self._gatherer.results


def compute_next(job: Job) -> None:
    """Compute the next micro-batch of a long job."""
    if job.steps is None:
        job.steps = _runner(job).steps(job.groups, job.output)
    job.add(*next(job.steps))


def compute_together(jobs: list[Job]) -> None:
    """Compute small jobs as one, their score ids after each other's."""
    groups: list[Group] = []
    starts = [0]
    for job in jobs:
        groups += [
            Group(group.prefix, group.sequences, [starts[-1] + place for place in group.score_ids])
            for group in job.groups
        ]
        starts.append(starts[-1] + job.num_scores)
    whole = Job("", jobs[0].runners, groups, jobs[0].output)
    for batch, raw in _runner(jobs[0]).steps(groups, whole.output):
        whole.add(batch, raw)
    assert whole.results is not None
    for job, start in zip(jobs, starts, strict=False):
        job.results = whole.results[start : start + job.num_scores]
        job.tokens_left = job.scores_left = 0


def _runner(job: Job) -> Runner:
    """Return that of a started job's engine."""
    assert job.engine is not None
    return job.runners[job.engine]


def resolve(job: Job, error: Exception | None = None) -> None:
    """Set the result of a job, or its error, unless the client has given it up meanwhile."""
    try:
        if error is not None:
            job.future.set_exception(error)
        else:
            assert job.results is not None
            waited = time.monotonic() - job.submitted - job.inference_s
            job.future.set_result(Computed(job.results, max(waited, 0.0), job.inference_s))
    except InvalidStateError:
        pass
