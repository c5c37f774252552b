"""Processes that score shards, each with a reranker of its own; their weights are shared."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from edgerank.batch.job import Job, Source
from edgerank.batch.opening import Opening
from edgerank.batch.reading import Indexes, Reader
from edgerank.batch.shards import ShardResult, score_shards
from edgerank.errors import BatchError, EdgerankError

AHEAD = 2  # shards that a process has: one is computed, and the next one is read


@dataclass(frozen=True)
class Task:
    """What a process needs to score the shards of a job."""

    job: Job
    source: Source
    indexes: Indexes | None
    opening: Opening


def score_in_processes(
    task: Task, numbers: Iterable[int], processes: int, tell: Callable[[int], None]
) -> Generator[ShardResult, None, None]:
    """Score shards in so many processes, in any order.

    Closing the iterator ends them. They end by themselves if this process is killed.

    :param tell: called with the number of pairs that were scored since the last call
    :raises BatchError: a process was killed, or failed at something that has no name
    :raises EdgerankError: as raised in a process
    """
    context = multiprocessing.get_context("spawn")
    started: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process: BaseProcess = context.Process(target=_work, args=(task, theirs))
            process.start()
            theirs.close()
            started[ours] = process
        yield from _results(started, iter(numbers), tell)
    finally:
        for connection, process in started.items():
            process.kill()
            process.join()
            connection.close()


def _results(
    started: dict[Connection, BaseProcess], numbers: Iterator[int], tell: Callable[[int], None]
) -> Iterator[ShardResult]:
    """Hand numbers out, and pass on what comes back."""
    busy = dict.fromkeys(started, 0)  # how many shards each process has

    def hand_out(connection: Connection) -> None:
        number = next(numbers, None)
        if number is not None:
            busy[connection] += 1
            connection.send(number)

    for _ in range(AHEAD):
        for connection in started:
            hand_out(connection)
    while any(busy.values()):
        for ready in wait([each for each, count in busy.items() if count]):
            assert isinstance(ready, Connection)
            try:
                answer = ready.recv()
                if isinstance(answer, ShardResult):
                    busy[ready] -= 1
                    hand_out(ready)
            except (EOFError, ConnectionError):
                raise _death(started[ready]) from None
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, ShardResult):
                yield answer
            else:
                tell(answer)


def _death(process: BaseProcess) -> BatchError:
    process.join()
    code = process.exitcode or 0
    how = f"ended with status {code}"
    if code < 0:
        how = f"was killed by signal {-code}"
        if -code == getattr(signal, "SIGKILL", None):
            how += ", perhaps because memory ran out; fewer processes take less"
    return BatchError(
        f"a process that scores {how}. Shards that are done stay, and the same command goes on with"
        " the others"
    )


def _work(task: Task, connection: Connection) -> None:
    """Score the shards whose numbers come, until this or the other process is ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other process ends this one
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # a process tokenises with as many threads as it computes with
    os.environ["RAYON_NUM_THREADS"] = str(task.opening.threads or 1)
    try:
        reranker = task.opening.open()
        reader = Reader(task.source, task.job.format, task.indexes)
        numbers = iter(connection.recv, None)
        for result in score_shards(reranker, reader, task.job, numbers, tell=connection.send):
            connection.send(result)
    except (EOFError, ConnectionError):
        pass  # the other process has gone
    except EdgerankError as error:
        connection.send(error)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        connection.send(BatchError(f"a process that scores failed: {error!r}"))
    os._exit(0)  # without waiting for a thread that waits for numbers


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
