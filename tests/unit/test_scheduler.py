"""The scheduler with an engine that is none: order, fairness, bounds, giving up."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerank.engine import Output
from edgerank.packing import EMPTY, Group, Tokens, pack
from edgerank.serving import fairness
from edgerank.serving.errors import EngineFailed, NoRoom, TooLate
from edgerank.serving.fairness import FairQueue
from edgerank.serving.jobs import Job
from edgerank.serving.pace import Pace
from edgerank.serving.scheduler import MicroBatchRun, Scheduler

MAX_TOKENS = 64
SCORES = Output("scores")
TOKEN_VECTORS = Output("token_vectors", per="token")


class Runner:
    """Scores a sequence with its last token, a micro-batch each time that it is let."""

    max_batch_tokens = MAX_TOKENS

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.let = threading.Semaphore(0)
        self.is_free = False
        self.batches: list[set[int]] = []  # the scores of each micro-batch

    def steps(self, groups, output):
        for batch in pack(groups, max_tokens=MAX_TOKENS, causal=True):
            self.begun.release()
            if not self.is_free:
                self.let.acquire()
            raw = batch.token_ids[batch.scored_rows].astype(np.float32)
            self.batches.append({int(score) for score in raw[batch.score_ids >= 0]})
            yield batch, raw if output.per == "sequence" else batch.token_ids.astype(np.float32)

    def free(self) -> None:
        """Hold nothing back any more."""
        self.is_free = True
        self.let.release(8)  # more than there are threads that wait


class Broken:
    max_batch_tokens = MAX_TOKENS

    def steps(self, groups, output):
        raise RuntimeError("out of order")
        yield


@pytest.fixture
def runner():
    return Runner()


@pytest.fixture
def runs():
    return []


@pytest.fixture
def scheduler(runner, runs):
    scheduler = Scheduler(max_queue_tokens=10_000, observe=runs.append)
    yield scheduler
    runner.free()
    scheduler.close()


def tokens(length: int, score: int) -> Tokens:
    ids = np.zeros(length, np.int64)
    ids[-1] = score
    return Tokens(ids, np.zeros(length, np.int64))


def job(runner, scores, *, length=10, client="a", deadline=inf, prefix=0, output=SCORES) -> Job:
    """A job of one query, whose documents are of a length and give these scores."""
    sequences = [tokens(length, score) for score in scores]
    head = tokens(prefix, 0) if prefix else EMPTY
    return Job(client, (runner,), [Group(head, sequences, range(len(sequences)))], output, deadline)


def submit(scheduler: Scheduler, job: Job) -> Future:
    """Submit a job whose tokens were estimated right."""
    return scheduler.submit(job, scheduler.reserve(job.num_tokens))


def blocked(scheduler: Scheduler, runner: Runner) -> Future:
    """Submit a job of a micro-batch, and return once the engine is at it."""
    future = submit(scheduler, job(runner, [0], length=MAX_TOKENS, client="first"))
    runner.begun.acquire()
    return future


def test_scores_come_back_to_their_own_jobs(scheduler, runner):
    runner.free()
    jobs = [job(runner, range(n, n + n % 7 + 1), client=f"{n % 3}") for n in range(60)]
    futures = [submit(scheduler, each) for each in jobs]
    for n, future in enumerate(futures):
        assert future.result(10).results.tolist() == list(range(n, n + n % 7 + 1))
    assert scheduler.queue_tokens == 0


def test_long_jobs_are_computed_step_by_step_and_whole(scheduler, runner):
    runner.free()
    future = submit(scheduler, job(runner, range(1, 41), length=20, prefix=7))
    computed = future.result(10)
    assert computed.results.tolist() == list(range(1, 41))
    assert len(runner.batches) > 10
    assert computed.inference_s > 0
    assert computed.queue_s >= 0


def test_small_jobs_that_wait_share_a_micro_batch(scheduler, runner, runs: list[MicroBatchRun]):
    blocked(scheduler, runner)
    futures = [submit(scheduler, job(runner, [n], client=f"{n}")) for n in range(1, 7)]
    runner.free()
    for future in futures:
        future.result(10)
    assert runner.batches == [{0}, {1, 2, 3, 4, 5, 6}]
    assert [(run.num_jobs, run.num_tokens) for run in runs] == [(1, 64), (6, 60)]


def test_jobs_of_different_engines_share_none(scheduler, runner):
    other = Runner()
    other.free()
    blocked(scheduler, runner)
    futures = [submit(scheduler, job(each, [n])) for n, each in ((1, runner), (2, other))]
    runner.free()
    assert [future.result(10).results.tolist() for future in futures] == [[1], [2]]
    assert other.batches == [{2}]


def test_jobs_of_different_outputs_share_none_and_get_their_own_kind_of_results(scheduler, runner):
    blocked(scheduler, runner)
    futures = [
        submit(scheduler, job(runner, scores, output=output, length=length))
        for scores, output, length in (
            ([1], SCORES, 10),
            ([2, 3], TOKEN_VECTORS, 8),
            ([4], SCORES, 10),
            ([5], TOKEN_VECTORS, 6),
        )
    ]
    runner.free()
    first, second, third, fourth = (future.result(10).results for future in futures)
    assert (first.tolist(), third.tolist()) == ([1], [4])
    assert [vectors.tolist() for vectors in second] == [[0] * 7 + [2], [0] * 7 + [3]]
    assert [vectors.tolist() for vectors in fourth] == [[0] * 5 + [5]]
    assert runner.batches == [{0}, {1, 4}, {2, 3, 5}]


def test_the_earliest_deadline_is_first(scheduler, runner):
    now = time.monotonic()
    blocked(scheduler, runner)
    futures = [
        submit(scheduler, job(runner, [n], length=50, client=f"{n}", deadline=now + deadline))
        for n, deadline in ((1, 300), (2, 100), (3, inf), (4, 200))
    ]
    runner.free()
    for future in futures:
        future.result(10)
    assert runner.batches == [{0}, {2}, {4}, {1}, {3}]


@pytest.mark.parametrize("client", ["a", "b"])
def test_a_long_job_does_not_keep_a_small_one_waiting(scheduler, runner, client):
    long = submit(scheduler, job(runner, range(1, 1001), length=8, client="a", deadline=1e12))
    for _ in range(3):
        runner.begun.acquire()
        runner.let.release()
    runner.begun.acquire()  # the fourth micro-batch is in the engine
    small = submit(scheduler, job(runner, [5000], client=client))
    runner.let.release(3)
    small.result(10)
    assert 5000 in set().union(*runner.batches[:7])
    assert not long.done()
    runner.free()
    assert long.result(10).results.tolist() == list(range(1, 1001))


def test_a_client_that_sends_much_does_not_push_another_back(scheduler, runner):
    blocked(scheduler, runner)
    many = [submit(scheduler, job(runner, [n], length=60)) for n in range(1, 21)]
    few = [submit(scheduler, job(runner, [n], length=60, client="b")) for n in (100, 101, 102)]
    runner.free()
    for future in many + few:
        future.result(10)
    served = [score for batch in runner.batches for score in batch]
    assert max(served.index(n) for n in (100, 101, 102)) <= 7


def test_a_late_job_costs_nothing(scheduler, runner):
    blocked(scheduler, runner)
    late = submit(scheduler, job(runner, [1], deadline=time.monotonic() + 0.01))
    served = submit(scheduler, job(runner, [2]))
    time.sleep(0.02)
    runner.free()
    with pytest.raises(TooLate):
        late.result(10)
    served.result(10)
    assert runner.batches == [{0}, {2}]
    with pytest.raises(TooLate):
        submit(scheduler, job(runner, [3], deadline=time.monotonic() - 1))


def test_what_cannot_be_done_in_time_is_refused_at_once(scheduler, runner):
    first = blocked(scheduler, runner)
    time.sleep(0.05)  # the pace is at most 64 tokens in 0.05 s
    runner.free()
    first.result(10)
    with pytest.raises(TooLate):
        submit(scheduler, job(runner, range(100), length=64, deadline=time.monotonic() + 1))


def test_a_pace_that_was_slow_once_is_doubted_where_it_refuses_work(monkeypatch):
    pace = Pace(0.001, 0.001)
    for _ in range(50):
        pace.note(0.1)
    for _ in range(100):
        pace.doubt()  # it is fresh
    assert pace.best == 0.001
    assert pace.mean == pytest.approx(0.1, rel=0.01)
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2)
    for _ in range(100):
        pace.doubt()
    assert pace.safe == pytest.approx(0.001, rel=0.01)


class Flooded:
    """An engine that moves the clock, and is asked for more than it can do as it goes."""

    max_batch_tokens = MAX_TOKENS

    def __init__(self, num_documents: int, num_asked: int, until: float) -> None:
        self.num_documents, self.num_asked, self.until = num_documents, num_asked, until
        self.now = 0.0
        self.futures: list[Future] = []
        self.scheduler = Scheduler(max_queue_tokens=1_000_000)

    def ask(self, patience: float) -> None:
        asked = job(self, range(self.num_documents), length=20, deadline=self.now + patience)
        with suppress(TooLate):
            self.futures.append(submit(self.scheduler, asked))

    def steps(self, groups, output):
        for batch in pack(groups, max_tokens=MAX_TOKENS, causal=True):
            self.now += len(batch.token_ids) / MAX_TOKENS
            if self.now < self.until:
                for _ in range(self.num_asked):
                    self.ask(patience=20.0)
            yield batch, batch.token_ids[batch.scored_rows].astype(np.float32)


@pytest.mark.parametrize("num_documents", [1, 3, 5, 9])
@pytest.mark.parametrize("num_asked", [2, 4])
def test_past_saturation_what_is_computed_still_ends_in_time(monkeypatch, num_documents, num_asked):
    engine = Flooded(num_documents, num_asked, until=400.0)
    monkeypatch.setattr(time, "monotonic", lambda: engine.now)
    engine.ask(patience=1e9)
    engine.futures[0].result(10)
    engine.scheduler.close()
    served = sum(future.exception(0) is None for future in engine.futures)
    capacity = engine.now * MAX_TOKENS / (20 * num_documents)
    assert served > 0.9 * capacity


def test_a_pace_that_varies_asks_for_more_time():
    steady, varied = Pace(0.1, 0.1), Pace(0.1, 0.1)
    for number in range(100):
        steady.note(0.1)
        varied.note(0.15 if number % 2 else 0.05)
    assert steady.safe == pytest.approx(0.1)
    assert varied.mean == pytest.approx(0.1, rel=0.05)
    assert varied.safe > 0.15


def test_a_job_given_up_while_it_waits_costs_nothing(scheduler, runner):
    blocked(scheduler, runner)
    given_up = submit(scheduler, job(runner, [1]))
    served = submit(scheduler, job(runner, [2]))
    assert given_up.cancel()
    assert scheduler.queue_tokens == MAX_TOKENS + 10
    runner.free()
    served.result(10)
    assert runner.batches == [{0}, {2}]


def test_a_job_given_up_on_its_way_stops_at_the_next_micro_batch(scheduler, runner):
    long = submit(scheduler, job(runner, range(1, 101), length=60))
    runner.begun.acquire()
    assert long.cancel()
    served = submit(scheduler, job(runner, [1000]))
    runner.free()
    served.result(10)
    assert len(runner.batches) == 2
    assert scheduler.queue_tokens == 0
    with pytest.raises(CancelledError):
        long.result(0)


def test_the_queue_is_bounded_in_tokens(scheduler, runner):
    blocked(scheduler, runner)
    waiting = [submit(scheduler, job(runner, range(100), length=32)) for _ in range(3)]
    with pytest.raises(NoRoom, match="full") as refused:
        submit(scheduler, job(runner, range(100), length=32))
    assert refused.value.retry_after_s > 0
    with pytest.raises(NoRoom):
        scheduler.reserve(400)
    with scheduler.reserve(300):
        assert scheduler.queue_tokens == MAX_TOKENS + 9600 + 300
    waiting[0].cancel()
    waiting.append(submit(scheduler, job(runner, range(100), length=32)))
    with pytest.raises(NoRoom, match="in parts") as refused:
        submit(scheduler, job(runner, range(400), length=32))
    assert refused.value.retry_after_s is None
    runner.free()
    for future in waiting[1:]:
        future.result(10)
    assert scheduler.queue_tokens == 0


def test_room_for_a_request_goes_over_to_its_job(scheduler, runner):
    blocked(scheduler, runner)
    waiting = submit(scheduler, job(runner, range(300), length=32))
    with scheduler.reserve(300) as reservation:
        assert scheduler.queue_tokens == MAX_TOKENS + 9600 + 300
        admitted = scheduler.submit(job(runner, [5], length=1000), reservation)
        assert scheduler.queue_tokens == MAX_TOKENS + 9600 + 1000  # over 10,000
    assert scheduler.queue_tokens == MAX_TOKENS + 9600 + 1000
    with pytest.raises(NoRoom):
        scheduler.reserve(1)
    runner.free()
    assert admitted.result(10).results.tolist() == [5]
    waiting.result(10)
    assert scheduler.queue_tokens == 0


def test_room_is_given_back_when_tokenizing_fails(scheduler):
    with pytest.raises(ValueError, match="broken text"), scheduler.reserve(300):
        raise ValueError("broken text")
    assert scheduler.queue_tokens == 0


Fate = Literal["served", "failed", "given up tokenizing", "given up waiting", "late", "empty"]


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 9), st.sampled_from(get_args(Fate))),
        max_size=20,
    )
)
@settings(max_examples=20, deadline=None)
def test_what_is_admitted_is_never_refused_as_overloaded_and_all_room_is_given_back(requests):
    scheduler, runner = Scheduler(max_queue_tokens=400), Runner()
    runner.free()

    def ask(estimate: int, num_documents: int, fate: Fate) -> None:
        try:
            reservation = scheduler.reserve(estimate)
        except NoRoom:
            return
        with reservation, suppress(TooLate, EngineFailed, CancelledError):
            if fate == "given up tokenizing":
                raise CancelledError
            asked = job(
                Broken() if fate == "failed" else runner,
                range(0 if fate == "empty" else num_documents),
                length=20,
                client=fate,
                deadline=0.0 if fate == "late" else inf,
            )
            future = scheduler.submit(asked, reservation)
            if fate == "given up waiting":
                future.cancel()
            future.result(10)

    with ThreadPoolExecutor(4) as callers:
        for _ in callers.map(lambda request: ask(*request), requests):
            pass
    scheduler.close()
    assert scheduler.queue_tokens == 0


def test_an_engine_that_fails_fails_its_job_and_no_other(scheduler, runner, caplog):
    runner.free()
    with pytest.raises(EngineFailed):
        submit(scheduler, job(Broken(), [1])).result(10)
    with pytest.raises(EngineFailed):
        submit(scheduler, job(Broken(), range(100))).result(10)
    assert submit(scheduler, job(runner, [2])).result(10).results.tolist() == [2]
    assert scheduler.queue_tokens == 0
    assert "out of order" in caplog.text


def test_closing_serves_what_is_queued(runner):
    scheduler = Scheduler(max_queue_tokens=10_000)
    futures = [submit(scheduler, job(runner, range(20), length=30)) for _ in range(5)]
    runner.free()
    scheduler.close()
    assert [future.result(0).results.tolist() for future in futures] == [[*range(20)]] * 5


@dataclass(eq=False)
class Piece:
    """Work that needs some micro-batches of 10 tokens."""

    client: str
    size: int
    deadline: float = inf
    virtual_time: float = 0.0
    batch_key: str = "model"
    engine: int | None = None
    num_engines: int = 1

    @property
    def is_small(self) -> bool:
        return self.size <= 10


def serve(queue: FairQueue[Piece], arrivals: dict[int, list[Piece]], num_steps: int) -> list[Piece]:
    """Serve for some steps of 10 tokens, work arriving before its step; return whose each was."""
    served: list[Piece] = []
    given: Counter[Piece] = Counter()
    for step in range(num_steps):
        for piece in arrivals.get(step, []):
            queue.add(piece)
        piece = queue.next(0, may_start_long=True)
        if piece is None:
            continue
        if not given[piece]:
            queue.start(piece, 0)
        given[piece] += 10
        queue.charge(piece, 10)
        served.append(piece)
        if given[piece] >= piece.size:
            queue.remove(piece)
    return served


@given(
    st.dictionaries(
        st.integers(0, 50),
        st.lists(
            st.builds(
                Piece, st.sampled_from("abc"), st.integers(1, 90), st.floats(0, 100), st.just(0.0)
            ),
            max_size=4,
        ),
        max_size=20,
    )
)
@settings(max_examples=100, deadline=None)
def test_all_work_is_served_and_the_engine_is_never_idle(arrivals):
    pieces = [piece for batch in arrivals.values() for piece in batch]
    need = sum(-(-piece.size // 10) for piece in pieces)
    queue: FairQueue[Piece] = FairQueue()
    served = serve(queue, arrivals, 51 + need)
    assert len(served) == need
    assert len(queue) == 0


@given(st.lists(st.floats(0, 1000), min_size=2, max_size=5))
def test_clients_with_endless_work_get_equal_shares_whatever_their_deadlines(deadlines):
    pieces = [Piece(f"{n}", 10_000, deadline) for n, deadline in enumerate(deadlines)]
    counts = Counter(serve(FairQueue(), {0: pieces}, 40 * len(pieces)))
    assert max(counts.values()) - min(counts[piece] for piece in pieces) <= 2


@pytest.mark.parametrize("client", ["a", "b"])
def test_a_stream_of_small_requests_does_not_starve_a_long_one(client, monkeypatch):
    monkeypatch.setattr(fairness, "MAX_LAG", 50)
    long = Piece("a", 10_000, 1e9)
    arrivals = {step: [Piece(client, 10, float(step))] for step in range(400)}
    arrivals[0] = [long]
    served = serve(FairQueue(), arrivals, 400)
    # clients get half each; within one client, small ones that pile up count as so many peers
    assert served.count(long) >= (190 if client == "b" else 20)
