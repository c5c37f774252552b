"""The engines' threads: micro-batches of all requests, one at a time in each engine.

A request that fits a micro-batch shares it with others that wait; a longer one is computed step by
step, and before each step ``fairness`` chooses the request. So a client that is gone, or whose
time is up, costs at most the micro-batch that it is in. All models share an engine's thread, and so
what it computes with: the cores, or a GPU. A server on CPUs has one engine, and one on GPUs has one
for each. A long job stays in the engine that has its prefix; ``parts`` makes several jobs of a
request that is large enough for several engines.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import islice
from weakref import WeakKeyDictionary

import numpy as np

from edgerank.serving.budget import Reservation, TokenBudget
from edgerank.serving.errors import EngineFailed, NoRoom, TooLate
from edgerank.serving.fairness import FairQueue
from edgerank.serving.jobs import (
    Computed,
    Job,
    Runner,
    compute_next,
    compute_together,
    resolve,
)
from edgerank.serving.pace import Pace

MAX_STARTED = 4  # long requests that alternate: each holds the keys and values of its prefix
MAX_CANDIDATES = 64  # small jobs to consider for a micro-batch
MIN_RETRY_S, MAX_RETRY_S = 0.1, 30.0
UNKNOWN_RETRY_S = 1.0  # while the speed is unknown
ANSWER_S = 0.01  # from the scores to the arrival of the answer
# a failing engine waits: otherwise it would take all requests from the others, and fail them
MIN_PAUSE_S, MAX_PAUSE_S = 0.1, 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MicroBatchRun:
    """A micro-batch of a long job, or the few that small jobs shared, for the metrics."""

    num_tokens: int
    max_tokens: int
    num_jobs: int
    seconds: float


class Scheduler:
    """A queue with a limit of tokens, and a thread for each engine."""

    def __init__(
        self,
        *,
        max_queue_tokens: int,
        num_engines: int = 1,
        observe: Callable[[MicroBatchRun], None] = lambda run: None,
    ) -> None:
        """Start the threads.

        :param max_queue_tokens: most tokens of all requests that wait or are in progress
        :param observe: called after each micro-batch, in an engine's thread
        """
        self._budget = TokenBudget(max_queue_tokens)
        self._observe = observe
        self._queue: FairQueue[Job] = FairQueue()
        self._pace: Pace | None = None  # of all models
        self._paces: WeakKeyDictionary[Runner, Pace] = WeakKeyDictionary()
        self._is_closing = False
        self._changed = threading.Condition(threading.RLock())
        self._threads = [
            threading.Thread(
                target=self._serve, args=(engine,), name=f"scheduler-{engine}", daemon=True
            )
            for engine in range(num_engines)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queue_tokens(self) -> int:
        """Tokens that wait, are in progress, or are reserved."""
        return self._budget.held

    def reserve(self, num_tokens: int) -> Reservation:
        """Reserve room in the queue for a request before its tokens are counted.

        :param num_tokens: an estimate
        :raises NoRoom: the queue is full
        """
        reservation = self._budget.reserve(num_tokens)
        if reservation is not None:
            return reservation
        most = self._budget.max_tokens
        if num_tokens > most:
            raise NoRoom(
                f"the request has about {num_tokens} tokens and the queue takes {most};"
                " send it in parts",
                None,
            )
        wait_s = UNKNOWN_RETRY_S
        if self._pace is not None:
            left = self._budget.held + num_tokens - most
            wait_s = left * self._pace.mean / len(self._threads)
        raise NoRoom("the queue is full", min(max(wait_s, MIN_RETRY_S), MAX_RETRY_S))

    def submit(self, job: Job, reservation: Reservation) -> Future[Computed]:
        """Queue a job with its reservation, even if the estimate was too low.

        :param reservation: is replaced by one with the job's number of tokens
        :return: the job's future, which may fail with TooLate or EngineFailed
        :raises TooLate: the deadline has passed or cannot be met
        """
        if not job.num_scores:
            reservation.release()
            job.future.set_result(Computed(np.zeros(0, np.float32), 0.0, 0.0))
            return job.future
        if self._is_late(job):
            reservation.release()
            raise TooLate("the deadline has passed, or the request cannot be served before it")
        job.reservation = reservation.hand_over(job.num_tokens)
        with self._changed:
            self._queue.add(job)
            self._changed.notify_all()
        job.future.add_done_callback(lambda _: self._forget(job))
        return job.future

    def close(self) -> None:
        """Compute the queued jobs, then end the threads."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _forget(self, job: Job) -> None:
        """Remove a job that is done, failed or cancelled; any thread may call this."""
        with self._changed:
            self._queue.remove(job)
        if job.reservation is not None:
            job.reservation.release()

    def _is_late(self, job: Job) -> bool:
        """Whether a job would miss its deadline even at the model's best pace."""
        pace = self._paces.get(job.runners[0])
        needed_s = 0.0 if pace is None else job.tokens_left * pace.best
        return time.monotonic() + needed_s >= job.deadline

    def _will_miss_deadline(self, job: Job) -> bool:
        """Whether a job would miss its deadline at the recent pace if it were started now.

        Under overload the earliest deadlines are the ones about to be missed: to start what ends
        too late would leave no time for what could end in time.
        """
        pace = self._paces.get(job.runners[0])
        if pace is None or job.is_started:
            return self._is_late(job)
        own, everything = job.tokens_left, max(job.tokens_left, self.queue_tokens)
        if job.is_small:  # it ends together with the jobs in its micro-batch
            num_tokens = min(everything, job.max_batch_tokens)
        else:  # its micro-batches alternate with those of other jobs
            num_beside = -(-len(self._queue) // min(job.num_engines, len(self._threads)))
            num_tokens = min(everything, own * min(num_beside, MAX_STARTED))
        return time.monotonic() + num_tokens * pace.safe + ANSWER_S >= job.deadline

    def _serve(self, engine: int) -> None:
        num_failures = 0  # in a row
        while True:
            with self._changed:
                if num_failures and len(self._threads) > 1 and not self._is_closing:
                    self._changed.wait_for(lambda: self._is_closing, _pause_s(num_failures))
                jobs, late = self._choose(engine)
                while not jobs and not late:
                    if self._is_closing:
                        return
                    self._changed.wait()
                    jobs, late = self._choose(engine)
                self._doubt_paces(late)
            for job in late:
                resolve(job, error=TooLate("the request cannot be served before its deadline"))
            if jobs:
                num_failures = 0 if self._run(jobs) else num_failures + 1

    def _choose(self, engine: int) -> tuple[list[Job], list[Job]]:
        """Return the next job with those that share its micro-batch, and the late jobs."""
        may_start_long = self._queue.num_started(engine) < MAX_STARTED
        job = self._queue.next(engine, may_start_long=may_start_long)
        if job is None:
            return [], []
        if self._will_miss_deadline(job):
            self._queue.remove(job)  # so that no other engine takes it
            return [], [job]
        if job.is_started:
            return [job], []
        jobs, late = [job], []
        room = job.max_batch_tokens - job.num_tokens
        others = islice(self._queue.batchable(job), MAX_CANDIDATES) if job.is_small else ()
        for other in others:
            if self._will_miss_deadline(other):
                late.append(other)
            elif other.num_tokens <= room:
                jobs.append(other)
                room -= other.num_tokens
        for chosen in jobs:
            self._queue.start(chosen, engine)
        for other in late:
            self._queue.remove(other)
        return jobs, late

    def _doubt_paces(self, late: list[Job]) -> None:
        for job in late:
            pace = self._paces.get(job.runners[0])
            if pace is not None and not job.is_started:
                pace.doubt()

    def _run(self, jobs: list[Job]) -> bool:
        """Compute the next micro-batch of a long job, or small jobs together.

        :return: whether the engine succeeded
        """
        started = time.monotonic()
        before = [job.tokens_left for job in jobs]
        try:
            if jobs[0].is_small:
                compute_together(jobs)
            else:
                compute_next(jobs[0])
        except Exception:
            log.exception("the engine failed", extra={"engine": jobs[0].engine})
            for job in jobs:
                resolve(job, error=EngineFailed("the engine failed"))
            return False
        seconds = time.monotonic() - started
        num_tokens = [left - job.tokens_left for left, job in zip(before, jobs, strict=True)]
        with self._changed:
            for job, computed in zip(jobs, num_tokens, strict=True):
                job.inference_s += seconds
                self._queue.charge(job, computed)
                if job.reservation is not None:
                    job.reservation.release(computed)
            self._note_pace(jobs[0].runners[0], seconds / max(sum(num_tokens), 1))
        most = jobs[0].max_batch_tokens
        self._observe(MicroBatchRun(sum(num_tokens), most, len(jobs), seconds))
        for job in jobs:
            if not job.scores_left:
                resolve(job)
        return True

    def _note_pace(self, runner: Runner, latest: float) -> None:
        self._pace = self._pace or Pace(latest, latest)
        self._pace.note(latest)
        self._paces.setdefault(runner, Pace(latest, latest)).note(latest)


def _pause_s(num_failures: int) -> float:
    """Return how long an engine waits after this many failures in a row."""
    return min(MIN_PAUSE_S * 2.0 ** min(num_failures - 1, 16), MAX_PAUSE_S)
