"""Jobs: the groups of a request that an engine computes, and their results."""

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
    """Computes the groups of a job in one engine; a ``Reranker`` is one."""

    max_batch_tokens: int

    def steps(self, groups: Sequence[Group], output: Output) -> Iterator[tuple[Batch, Array]]:
        """Compute groups: each item of the iterator is a micro-batch and its output."""

    def __hash__(self) -> int:
        """By identity: a reloaded model is another runner."""


@dataclass(frozen=True)
class Computed:
    """The results of a job, with timings."""

    results: Results  # by score id
    queue_s: float  # waiting, before the first micro-batch and between micro-batches
    inference_s: float  # of micro-batches with a part of the job


@dataclass(eq=False)
class Job:
    """The groups of a request; cancelling ``future`` cancels the job.

    The cache of a job is in one engine, so all of its micro-batches run there.
    """

    client: str
    runners: tuple[Runner, ...]  # of one model, one for each engine
    groups: Sequence[Group]  # their score ids count from 0
    output: Output  # of the graph
    deadline: float = inf  # seconds of time.monotonic()
    reservation: Reservation | None = None  # its tokens in the queue, once submitted
    virtual_time: float = 0.0  # updated by ``fairness``
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
        """Number of engines that can run it, counted from the first."""
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
        """Store the results of a micro-batch with only this job's score ids."""
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
    """Compute small jobs as one, with consecutive score ids."""
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
    """Return the runner of the job's engine."""
    assert job.engine is not None
    return job.runners[job.engine]


def resolve(job: Job, error: Exception | None = None) -> None:
    """Set the result or the error of a job, unless it was cancelled meanwhile."""
    try:
        if error is not None:
            job.future.set_exception(error)
        else:
            assert job.results is not None
            waited = time.monotonic() - job.submitted - job.inference_s
            job.future.set_result(Computed(job.results, max(waited, 0.0), job.inference_s))
    except InvalidStateError:
        pass
