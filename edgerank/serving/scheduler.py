"""The engine's thread: micro-batches of all requests, one at a time.

A request that fits a micro-batch shares it with others that wait; a longer one is computed step by
step, and before each step ``fairness`` says whose turn it is. So a client that is gone, or whose
time is up, costs at most the micro-batch that it is in. All models share the thread, and so the
cores: ONNX Runtime computes one micro-batch with all of its threads, then the next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np

from edgerank.serving.errors import EngineFailed, Overloaded, TooLate
from edgerank.serving.fairness import FairQueue
from edgerank.serving.jobs import (
    Computed,
    Job,
    Runner,
    compute_next,
    compute_together,
    settle,
)

MAX_STARTED = 4  # long requests that take turns: each holds the keys and values of its prefix
MAX_COMPANY = 64  # small jobs that are looked at to fill a micro-batch
MIN_RETRY_S, MAX_RETRY_S = 0.1, 30.0
PACE_SHARE = 0.1  # weight of the latest micro-batch in a pace
STALE_S = 1.0  # age of a pace that work is no longer refused for without doubt
ANSWER_S = 0.01  # from the scores to the client's hands

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """A micro-batch, or the few that jobs shared, for the metrics."""

    num_tokens: int
    max_tokens: int
    num_jobs: int
    seconds: float


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
        self.deviation += (abs(pace - self.mean) - self.deviation) * PACE_SHARE
        self.mean += (pace - self.mean) * PACE_SHARE
        self.noted = time.monotonic()

    def doubt(self) -> None:
        """Count work that was not tried: a pace that was slow once must not refuse it for ever."""
        if time.monotonic() - self.noted > STALE_S:
            self.mean += (self.best - self.mean) * PACE_SHARE
            self.deviation -= self.deviation * PACE_SHARE


class Scheduler:
    """A queue bounded in tokens, and the thread that serves it."""

    def __init__(
        self, *, max_queue_tokens: int, observe: Callable[[Step], None] = lambda step: None
    ) -> None:
        """Start the thread.

        :param max_queue_tokens: tokens that may wait or be in progress, of all requests together
        :param observe: told of each step, in the engine's thread
        """
        self._max_queue_tokens = max_queue_tokens
        self._observe = observe
        self._queue: FairQueue[Job] = FairQueue()
        self._queue_tokens = 0
        self._pace: Pace | None = None  # of all models
        self._paces: WeakKeyDictionary[Runner, Pace] = WeakKeyDictionary()
        self._is_closing = False
        self._changed = threading.Condition(threading.RLock())
        self._thread = threading.Thread(target=self._serve, name="scheduler", daemon=True)
        self._thread.start()

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait, are in progress, or are reserved."""
        return self._queue_tokens

    @contextmanager
    def reserved(self, num_tokens: int) -> Iterator[None]:
        """Hold room for a request while its tokens are counted.

        :param num_tokens: an estimate
        :raises Overloaded: the queue is full
        """
        self._hold(num_tokens)
        try:
            yield
        finally:
            self._release(num_tokens)

    def submit(self, job: Job) -> Future[Computed]:
        """Queue a job.

        :return: the job's future, which may fail with TooLate or EngineFailed
        :raises Overloaded: the queue is full
        :raises TooLate: the deadline has passed or cannot be met
        """
        if not job.num_scores:
            job.future.set_result(Computed(np.zeros(0, np.float32), 0.0, 0.0))
            return job.future
        if self._is_late(job):
            raise TooLate("the deadline has passed, or the request cannot be served before it")
        self._hold(job.num_tokens)
        job.tokens_held = job.num_tokens
        with self._changed:
            self._queue.add(job)
            self._changed.notify()
        job.future.add_done_callback(lambda _: self._forget(job))
        return job.future

    def close(self) -> None:
        """Serve what has been queued, then end the thread."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _hold(self, num_tokens: int) -> None:
        with self._changed:
            excess = self._queue_tokens + num_tokens - self._max_queue_tokens
            if excess <= 0:
                self._queue_tokens += num_tokens
                return
        if num_tokens > self._max_queue_tokens:
            raise Overloaded(
                f"the request has about {num_tokens} tokens and the queue takes"
                f" {self._max_queue_tokens}; send it in parts",
                None,
            )
        wait_s = excess * self._pace.mean if self._pace is not None else 1.0
        raise Overloaded("the queue is full", min(max(wait_s, MIN_RETRY_S), MAX_RETRY_S))

    def _release(self, num_tokens: int) -> None:
        with self._changed:
            self._queue_tokens -= num_tokens

    def _forget(self, job: Job) -> None:
        """Let go of a job that is done, failed or given up, in whatever thread that happens."""
        with self._changed:
            self._queue.remove(job)
            self._let_go(job, job.tokens_held)

    def _let_go(self, job: Job, num_tokens: int) -> None:
        num_tokens = min(num_tokens, job.tokens_held)  # a job given up holds none any more
        job.tokens_held -= num_tokens
        self._queue_tokens -= num_tokens

    def _is_late(self, job: Job) -> bool:
        """Whether a job would miss its deadline even at the best pace that its model has shown."""
        pace = self._paces.get(job.kind)
        needed_s = 0.0 if pace is None else job.tokens_left * pace.best
        return time.monotonic() + needed_s >= job.deadline

    def _is_hopeless(self, job: Job) -> bool:
        """Whether a job that is to be started might miss its deadline at the pace of late.

        Under overload the earliest deadlines are the ones about to be missed: to start what ends
        too late would leave no time for what could end in time.
        """
        pace = self._paces.get(job.kind)
        if pace is None or job.steps is not None:
            return self._is_late(job)
        own, everything = job.tokens_left, max(job.tokens_left, self._queue_tokens)
        if job.is_small:  # it ends with those that ride along
            num_tokens = min(everything, job.kind.max_batch_tokens)
        else:  # it takes turns with others that are started
            num_tokens = min(everything, own * min(len(self._queue), MAX_STARTED))
        is_hopeless = time.monotonic() + num_tokens * pace.safe + ANSWER_S >= job.deadline
        if is_hopeless:
            pace.doubt()
        return is_hopeless

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not len(self._queue):
                    if self._is_closing:
                        return
                    self._changed.wait()
                jobs, late = self._choose()
            for job in late:
                settle(job, error=TooLate("the request cannot be served before its deadline"))
            if jobs:
                self._step(jobs)

    def _choose(self) -> tuple[list[Job], list[Job]]:
        """Return the job whose turn it is, with those that ride along, and those met too late."""
        job = self._queue.next(may_start_long=self._queue.num_started < MAX_STARTED)
        if job is None:
            return [], []
        if self._is_hopeless(job):
            return [], [job]
        if job.steps is not None:
            return [job], []
        jobs, late = [job], []
        room = job.kind.max_batch_tokens - job.num_tokens
        company = islice(self._queue.company(job), MAX_COMPANY) if job.is_small else ()
        for other in company:
            if self._is_hopeless(other):
                late.append(other)
            elif other.num_tokens <= room:
                jobs.append(other)
                room -= other.num_tokens
        for chosen in jobs:
            self._queue.start(chosen)
        return jobs, late

    def _step(self, jobs: list[Job]) -> None:
        """Compute the next micro-batch of a long job, or small jobs together."""
        started = time.monotonic()
        before = [job.tokens_left for job in jobs]
        try:
            if jobs[0].is_small:
                compute_together(jobs)
            else:
                compute_next(jobs[0])
        except Exception:
            log.exception("the engine failed")
            for job in jobs:
                settle(job, error=EngineFailed("the engine failed"))
            return
        seconds = time.monotonic() - started
        with self._changed:
            for job, tokens in zip(jobs, before, strict=True):
                job.inference_s += seconds
                self._queue.charge(job, tokens - job.tokens_left)
                self._let_go(job, tokens - job.tokens_left)
        self._note(jobs, sum(before) - sum(job.tokens_left for job in jobs), seconds)
        for job in jobs:
            if not job.scores_left:
                settle(job)

    def _note(self, jobs: list[Job], num_tokens: int, seconds: float) -> None:
        runner = jobs[0].kind
        latest = seconds / max(num_tokens, 1)
        self._pace = self._pace or Pace(latest, latest)
        self._pace.note(latest)
        self._paces.setdefault(runner, Pace(latest, latest)).note(latest)
        self._observe(Step(num_tokens, runner.max_batch_tokens, len(jobs), seconds))
