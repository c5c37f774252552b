"""What does a busy neighbour on one of the cores cost?

The same documents with one thread and with several, by all kernels, in turns: alone, and beside a
process that computes without a pause on the first of the cores. It is stopped while others have
their turn alone. "beside / alone" is of the same round, "stock / these" of the same round and the
same company. NAMES are parts of models' names, whose weights are random.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.engines import Run, open_engine, random_documents
from benchmarks.common.random_models import build_random, geometries
from benchmarks.common.record import Row, median
from benchmarks.common.turns import Seconds, alternate, median_seconds, ratio
from edgerank.kernels import STOCK, choose_kernels
from edgerank.packing import Group

NAMES = "MiniLM", "v2-m3"
NUM_DOCUMENTS = 16
ALONE, BESIDE = "alone", "beside"
# it ends with the process that started it, also where that is killed
PROGRAM = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
parent = os.getppid()
print(flush=True)
while os.getppid() == parent:
    for _ in range(1 << 20):
        pass"""


@click.argument("names", nargs=-1)
@options.kernels
@options.layers(6)
@options.rounds(15)
@options.thread_counts
def measure(
    names: tuple[str, ...],
    kernels: list[str],
    layers: int,
    rounds: int,
    thread_counts: tuple[int, ...],
) -> Iterator[Row]:
    for geometry in geometries(names or NAMES):
        click.echo(geometry.model, err=True)
        with tempfile.TemporaryDirectory() as scratch:
            bundle = build_random(geometry, Path(scratch), layers)
            engines = {
                (threads, name): open_engine(bundle, threads, choose_kernels(name))
                for threads in thread_counts
                for name in dict.fromkeys([STOCK, *kernels])
            }
        times = time_both(engines, random_documents(NUM_DOCUMENTS), rounds)
        for threads, name in engines:
            alone, beside = (times[threads, name, company] for company in (ALONE, BESIDE))
            figures = {
                ALONE: median(alone * 1e3, "ms"),
                BESIDE: median(beside * 1e3, "ms"),
                "beside / alone": median(ratio(beside, alone), "×"),
            }
            if name != STOCK:
                for company, seconds in ((ALONE, alone), (BESIDE, beside)):
                    stock = times[threads, STOCK, company]
                    figures[f"stock / these, {company}"] = median(ratio(stock, seconds), "×")
            labels = {"geometry": f"{geometry.model}, {layers} layers", "threads": str(threads)}
            yield Row({**labels, "kernels": name}, figures)


def time_both(
    engines: dict[tuple[int, str], Run], group: Group, rounds: int
) -> dict[tuple[int, str, str], Seconds]:
    """Time every engine alone and beside the neighbour, by threads, kernels and company."""
    with neighbour() as process:

        def beside(run: Callable[[], object]) -> float:
            process.send_signal(signal.SIGCONT)
            try:
                return median_seconds(run, 1)
            finally:
                process.send_signal(signal.SIGSTOP)

        turns: dict[tuple[int, str, str], Callable[[], float]] = {}
        for (threads, name), engine in engines.items():
            run = partial(engine, group)
            turns[threads, name, ALONE] = partial(median_seconds, run, 1)
            turns[threads, name, BESIDE] = partial(beside, run)
        times = alternate(turns, rounds + 1)
    return {key: seconds[1:] for key, seconds in times.items()}


@contextmanager
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """Start the neighbour on the first core that this process may use, and stop it there."""
    core = min(os.sched_getaffinity(0))
    command = [sys.executable, "-c", PROGRAM, str(core)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it is there
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.kill()
        process.communicate()
