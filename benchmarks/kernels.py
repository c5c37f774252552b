"""Would numba pay in the runtime? The ragged kernels in NumPy, as they are, and compiled.

Prints microseconds a call, what numba costs to load (in a process of its own, its cache warm), and
how many micro-batches it takes until the time saved has paid for that.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from numba import njit

from edgerank.packing import attention_grid
from edgerank.scoring import best_of_each, top

ROUNDS, CALLS = 7, 100
GRIDS = {"2 x 250": (2, 250), "12 x 43": (12, 43), "50 x 10": (50, 10)}


@njit(cache=True)
def compiled_grid(lengths, lead_starts, lead_lengths, past_length, causal):
    longest, most_keys = lengths.max(), (lengths + lead_lengths).max()
    query_rows = np.zeros((len(lengths), longest), np.int64)
    key_rows = np.zeros((len(lengths), most_keys), np.int64)
    visible = np.ones((len(lengths), longest), np.int64)
    slots = np.empty(lengths.sum(), np.int64)
    positions = np.empty(lengths.sum(), np.int64)
    row = 0
    for segment in range(len(lengths)):
        lead = lead_lengths[segment]
        for key in range(lead):
            key_rows[segment, key] = lead_starts[segment] + key
        for column in range(lengths[segment]):
            query_rows[segment, column] = row
            key_rows[segment, lead + column] = past_length + row
            visible[segment, column] = lead + (column + 1 if causal else lengths[segment])
            slots[row] = segment * longest + column
            positions[row] = lead + column
            row += 1
    return query_rows, key_rows, visible, slots, positions


@njit(cache=True)
def compiled_best_of_each(raw, owners, num_documents):
    best = np.full(num_documents, -np.inf, np.float32)
    for index in range(len(raw)):
        best[owners[index]] = max(best[owners[index]], raw[index])
    return best


@njit(cache=True)
def compiled_top(scores, top_k):
    return np.argsort(-scores, kind="mergesort")[:top_k]


def main() -> None:
    rng = np.random.default_rng(0)
    saved = []
    print(f"{'microseconds a call':<34}{'NumPy':>9}{'numba':>9}")
    for label, (count, length) in GRIDS.items():
        lengths = rng.integers(length - length // 4, length + length // 4, count)
        arguments = (lengths, np.zeros(count, np.int64), np.full(count, 40), 40, True)
        for ours, theirs in zip(attention_grid(*arguments), compiled_grid(*arguments), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        ours = measure(lambda a=arguments: attention_grid(*a))
        theirs = measure(lambda a=arguments: compiled_grid(*a))
        saved.append(ours - theirs)
        print(f"{f'attention_grid, {label} tokens':<34}{ours:>9.1f}{theirs:>9.1f}")
    for count in (100, 1000):
        raw, owners = rng.standard_normal(count).astype(np.float32), np.arange(count)
        ours = measure(lambda r=raw, o=owners: best_of_each(r, o, len(r)))
        theirs = measure(lambda r=raw, o=owners: compiled_best_of_each(r, o, len(r)))
        print(f"{f'best_of_each, {count} sequences':<34}{ours:>9.1f}{theirs:>9.1f}")
        ours = measure(lambda r=raw: top(r, 10))
        theirs = measure(lambda r=raw: compiled_top(r, 10))
        print(f"{f'top, 10 of {count}':<34}{ours:>9.1f}{theirs:>9.1f}")
    seconds, megabytes = cost_of_loading()
    micro_batches = seconds * 1e6 / statistics.mean(saved)
    print(
        f"loading numba and its kernels: {seconds:.2f} s, {megabytes:.0f} MB;"
        f" paid back after {micro_batches:,.0f} micro-batches"
    )


def measure(call: Callable[[], object]) -> float:
    """Return the median microseconds of a call."""
    call()
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - start) / CALLS * 1e6)
    return statistics.median(times)


def cost_of_loading() -> tuple[float, float]:
    """Load the compiled grid kernel in a process that has NumPy already: seconds and megabytes."""
    program = """
import time, numpy as np, edgerank, benchmarks
memory = lambda: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS'))
before, start = memory(), time.perf_counter()
from benchmarks.kernels import compiled_grid
one = np.ones(1, np.int64)
compiled_grid(one, one, one, 0, True)
print(time.perf_counter() - start, (memory() - before) / 1e3)"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


if __name__ == "__main__":
    main()
