"""The scheduler with several engines: what runs where, at once, and beside one that fails."""

from __future__ import annotations

import threading
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerank.engine import Output
from edgerank.packing import EMPTY, Group, Tokens, pack
from edgerank.serving import scheduler as scheduling
from edgerank.serving.errors import EngineFailed, TooLate
from edgerank.serving.fairness import FairQueue
from edgerank.serving.jobs import Computed, Job
from edgerank.serving.parts import join, split
from edgerank.serving.scheduler import MAX_STARTED, MicroBatchRun, Scheduler

MAX_TOKENS = 64
SCORES = Output("scores")
WAIT_S = 10


class Runner:
    """Scores a sequence with its last token; a gate holds it back if it has one."""

    max_batch_tokens = MAX_TOKENS

    def __init__(self, gate: threading.Barrier | None = None) -> None:
        self.gate = gate
        self.scores: list[set[int]] = []  # of each micro-batch
        self.threads: set[int] = set()

    def steps(self, groups, output):
        for batch in pack(groups, max_tokens=MAX_TOKENS, causal=True):
            self.threads.add(threading.get_ident())
            if self.gate is not None:
                self.gate.wait(WAIT_S)
            raw = batch.token_ids[batch.scored_rows].astype(np.float32)
            self.scores.append({int(score) for score in raw[batch.score_ids >= 0]})
            yield batch, raw


class Broken(Runner):
    def steps(self, groups, output):
        self.scores.append(set())
        raise RuntimeError("out of order")
        yield


def job(runners, scores, *, length=10, prefix=0, client="a", deadline=inf) -> Job:
    sequences = []
    for score in scores:
        ids = np.zeros(length, np.int64)
        ids[-1] = score
        sequences.append(Tokens(ids, np.zeros(length, np.int64)))
    zeros = np.zeros(prefix, np.int64)
    head = Tokens(zeros, zeros) if prefix else EMPTY
    group = Group(head, sequences, range(len(sequences)))
    return Job(client, tuple(runners), [group], SCORES, deadline)


def submit(scheduler: Scheduler, *jobs: Job):
    return [scheduler.submit(each, scheduler.reserve(each.num_tokens)) for each in jobs]


@pytest.fixture
def runs() -> list[MicroBatchRun]:
    return []


@pytest.fixture
def scheduler(runs):
    scheduler = Scheduler(max_queue_tokens=1_000_000, num_engines=2, observe=runs.append)
    yield scheduler
    scheduler.close()


def test_engines_compute_at_once_each_in_a_thread_of_its_own(scheduler):
    gate = threading.Barrier(2)  # opens when both engines are at it
    runners = Runner(gate), Runner(gate)
    futures = submit(
        scheduler,
        job(runners, range(1, 5), length=40),
        job(runners, range(11, 15), length=40, client="b"),
    )
    assert [future.result(WAIT_S).results.tolist() for future in futures] == [
        [1, 2, 3, 4],
        [11, 12, 13, 14],
    ]
    assert len(runners[0].threads) == len(runners[1].threads) == 1
    assert runners[0].threads != runners[1].threads


def test_a_long_request_stays_in_the_engine_that_has_its_prefix(scheduler):
    runners = Runner(), Runner()
    jobs = [
        job(runners, range(100 * n, 100 * n + 20), length=30, prefix=20, client=f"{n % 3}")
        for n in range(1, 9)
    ]
    for number, future in enumerate(submit(scheduler, *jobs), 1):
        expected = list(range(100 * number, 100 * number + 20))
        assert future.result(WAIT_S).results.tolist() == expected
    computed = [{score // 100 for batch in each.scores for score in batch} for each in runners]
    assert computed[0] | computed[1] == set(range(1, 9))
    assert not computed[0] & computed[1]
    assert scheduler.queue_tokens == 0


def test_a_model_that_one_engine_has_is_not_run_in_another(scheduler):
    only, both = (Runner(),), (Runner(), Runner())
    jobs = [job(runners, [n], length=20) for n in range(40) for runners in (only, both)]
    jobs += [job(only, range(20), length=20), job(both, range(20), length=20)]
    for each, future in zip(jobs, submit(scheduler, *jobs), strict=True):
        assert len(future.result(WAIT_S).results) == each.num_scores
    assert len(only[0].threads) == 1
    assert not only[0].threads & both[1].threads


@given(
    requests=st.lists(
        st.tuples(st.integers(1, 12), st.integers(1, 90), st.sampled_from("abc")), max_size=25
    ),
    num_engines=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None)
def test_every_request_is_served_once_and_right_whatever_the_engines(requests, num_engines):
    scheduler = Scheduler(max_queue_tokens=1_000_000, num_engines=num_engines)
    runners = [Runner() for _ in range(num_engines)]
    jobs = [
        job(runners, range(100 * n, 100 * n + count), length=length, client=client)
        for n, (count, length, client) in enumerate(requests)
    ]
    futures = submit(scheduler, *jobs)
    scheduler.close()
    for n, (future, (count, _, _)) in enumerate(zip(futures, requests, strict=True)):
        assert future.result(0).results.tolist() == list(range(100 * n, 100 * n + count))
    scored = [score for each in runners for batch in each.scores for score in batch]
    assert len(scored) == len(set(scored)) == sum(count for count, _, _ in requests)
    assert scheduler.queue_tokens == 0


@given(
    groups=st.lists(
        st.tuples(st.integers(0, 30), st.lists(st.integers(1, 90), max_size=12)), max_size=6
    ),
    num_engines=st.integers(1, 4),
    is_ragged=st.booleans(),
)
@settings(deadline=None)
def test_a_large_request_is_cut_into_parts_of_like_size_and_put_together_again(
    groups, num_engines, is_ragged
):
    made, count = [], 0
    for prefix, lengths in groups:
        sequences = [
            Tokens(np.full(n, count + place), np.zeros(n)) for place, n in enumerate(lengths)
        ]
        made.append(
            Group(
                Tokens(np.zeros(prefix), np.zeros(prefix)),
                sequences,
                range(count, count + len(lengths)),
            )
        )
        count += len(lengths)
    whole = Job("a", tuple(Runner() for _ in range(num_engines)), made, SCORES, 7.0)
    parts = split(whole)
    assert 1 <= len(parts) <= num_engines
    computed = []
    for part in parts:
        own = [row for group in part.job.groups for row in group.sequences]
        assert [int(row.ids[0]) for row in own] == list(part.score_ids)
        assert [n for group in part.job.groups for n in group.score_ids] == list(range(len(own)))
        rows = [np.float32(row.ids[0]) for row in own]
        computed.append(Computed(rows if is_ragged else np.array(rows), 0.0, float(len(own))))
        assert (part.job.client, part.job.runners, part.job.deadline) == ("a", whole.runners, 7.0)
    joined = join(parts, computed)
    assert isinstance(joined.results, list) == is_ragged
    assert list(joined.results) == list(range(count))
    assert joined.inference_s == max(one.inference_s for one in computed)
    if len(parts) > 1:
        again = sum(part.job.num_tokens for part in parts) - whole.num_tokens
        longest = max(prefix + max(lengths, default=0) for prefix, lengths in groups)
        assert again <= (len(parts) - 1) * max(prefix for prefix, _ in groups)
        assert whole.num_tokens >= len(parts) * MAX_TOKENS
        for part in parts:
            assert part.job.num_tokens <= whole.num_tokens / len(parts) + 2 * longest


def test_an_engine_that_fails_stands_aside_and_the_others_serve(monkeypatch, runs, caplog):
    monkeypatch.setattr(scheduling, "MIN_PAUSE_S", 1e6)
    monkeypatch.setattr(scheduling, "MAX_PAUSE_S", 1e6)
    scheduler = Scheduler(max_queue_tokens=1_000_000, num_engines=2)
    gate = threading.Barrier(2)
    blocked, broken = Runner(gate), Broken()
    (held,) = submit(scheduler, job((blocked,), [7]))  # in engine 0, until the gate opens
    (failed,) = submit(scheduler, job((blocked, broken), range(1, 9), length=40))
    with pytest.raises(EngineFailed):
        failed.result(WAIT_S)
    later = submit(scheduler, *(job((Runner(), broken), [n]) for n in range(20)))
    gate.wait(WAIT_S)
    assert held.result(WAIT_S).results.tolist() == [7]
    assert [future.result(WAIT_S).results.tolist() for future in later] == [[n] for n in range(20)]
    assert len(broken.scores) == 1  # it was not asked again
    scheduler.close()  # does not wait for the pause to end
    assert scheduler.queue_tokens == 0
    assert "out of order" in caplog.text


def test_an_engine_is_asked_again_after_its_pause(monkeypatch):
    monkeypatch.setattr(scheduling, "MIN_PAUSE_S", 1e-3)
    scheduler = Scheduler(max_queue_tokens=1_000_000, num_engines=2)
    broken = Broken(), Broken()
    for _ in range(6):
        (future,) = submit(scheduler, job(broken, [1]))
        with pytest.raises(EngineFailed):
            future.result(WAIT_S)
    scheduler.close()
    assert sum(len(each.scores) for each in broken) == 6


def test_pauses_double_up_to_the_longest():
    assert [scheduling._pause_s(count) for count in (1, 2, 3)] == [0.1, 0.2, 0.4]
    assert scheduling._pause_s(1000) == 30.0


def test_a_request_that_is_late_is_refused_once(scheduler):
    runners = Runner(), Runner()
    futures = submit(scheduler, *(job(runners, range(30), length=20) for _ in range(8)))
    with pytest.raises(TooLate):
        submit(scheduler, job(runners, [1], deadline=0.0))
    for future in futures:
        future.result(WAIT_S)
    assert scheduler.queue_tokens == 0


def test_each_engine_starts_so_many_long_requests_and_no_more():
    queue: FairQueue[Job] = FairQueue()
    runners = Runner(), Runner()
    jobs = [job(runners, range(10), length=40) for _ in range(2 * MAX_STARTED + 1)]
    for each in jobs:
        queue.add(each)
    for _ in range(MAX_STARTED):
        for engine in (0, 1):
            found = next(each for each in jobs if each.engine is None)
            queue.start(found, engine)
    assert queue.num_started(0) == queue.num_started(1) == MAX_STARTED
    for engine in (0, 1):
        chosen = queue.next(engine, may_start_long=False)
        assert chosen is not None and chosen.engine == engine
        assert queue.next(engine, may_start_long=True) is not None
    assert queue.next(2, may_start_long=True) is None  # the model is not there
