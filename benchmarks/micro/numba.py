"""Would numba pay in the runtime, whose ragged helpers are NumPy?

Microseconds of the helpers in NumPy and compiled; what numba costs to load, in a process of its own
with its cache warm; and how many micro-batches it takes until the time saved has paid for that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.common import options
from benchmarks.common.processes import run_program
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import Seconds, take_turns
from benchmarks.micro.numba_functions import compiled_best_of_each, compiled_grid, compiled_top
from edgerank.packing import attention_grid
from edgerank.ranking import top
from edgerank.scoring import best_of_each

Helper = Callable[..., Any]
CALLS = 100  # of a turn
GRIDS = {"2 × 250": (2, 250), "12 × 43": (12, 43), "50 × 10": (50, 10)}
LOADING = """
import time, numpy as np, edgerank, benchmarks.micro
memory = lambda: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS'))
before, start = memory(), time.perf_counter()
from benchmarks.micro.numba_functions import compiled_grid
one = np.ones(1, np.int64)
compiled_grid(one, one, one, 0, True)
print(time.perf_counter() - start, (memory() - before) / 1e3)"""


@options.rounds(7)
def measure(rounds: int) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    saved = []
    for label, (count, length) in GRIDS.items():
        lengths = rng.integers(length - length // 4, length + length // 4, count)
        arguments = (lengths, np.zeros(count, np.int64), np.full(count, 40), 40, True)
        numpy, numba = compare(attention_grid, compiled_grid, arguments, rounds)
        saved.append(np.median(numpy) - np.median(numba))
        yield helper_row("attention_grid", f"{label} tokens", numpy, numba)
    for count in (100, 1000):
        raw = rng.standard_normal(count).astype(np.float32)
        both = compare(best_of_each, compiled_best_of_each, (raw, np.arange(count), count), rounds)
        yield helper_row("best_of_each", f"{count} sequences", *both)
        both = compare(top, compiled_top, (raw, 10), rounds)
        yield helper_row("top", f"10 of {count}", *both)
    seconds, megabytes = map(float, run_program(LOADING).output.split())
    figures = {
        "time": Figure(seconds, "s"),
        "memory": Figure(megabytes, "MB"),
        "paid back after": Figure(seconds / float(np.mean(saved)), "micro-batches"),
    }
    yield Row({"loaded": "numba and its functions"}, figures)


def compare(
    plain: Helper, compiled: Helper, arguments: tuple[Any, ...], rounds: int
) -> tuple[Seconds, Seconds]:
    """Check that both give the same, and time a call of each in turns."""
    results = plain(*arguments), compiled(*arguments)
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, theirs)

    def calls(helper: Helper) -> Callable[[], None]:
        def run() -> None:
            for _ in range(CALLS):
                helper(*arguments)

        return run

    times = take_turns({"NumPy": calls(plain), "numba": calls(compiled)}, rounds)
    return times["NumPy"] / CALLS, times["numba"] / CALLS


def helper_row(helper: str, size: str, numpy: Seconds, numba: Seconds) -> Row:
    figures = {"NumPy": median(numpy * 1e6, "µs"), "numba": median(numba * 1e6, "µs")}
    return Row({"helper": helper, "size": size}, figures)
