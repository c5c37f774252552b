"""A query compared with parts of documents, in NumPy or compiled by numba.

Both give the same features up to rounding. numba takes the integers as they are; NumPy makes
float32 of them first, some parts at a time.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from edgerank.errors import InputError
from edgerank.packing import Ids
from edgerank.ranking import Scores
from edgerank.store.arrays import ranges
from edgerank.store.features import Features, Query, StoreRule
from edgerank.store.segments import Segment

Backend = Literal["numpy", "numba"]
VARIABLE = "EDGERANK_STORE"
BLOCK_ROWS = 1 << 13  # of vectors that NumPy makes float32 of at a time: they stay in the caches
MIN_TASK_ROWS = 1 << 12  # of vectors; less is not worth another thread


def choose_backend(name: str | None = None) -> Backend:
    """Choose what compares: numba where it is installed, or what EDGERANK_STORE says.

    :raises InputError: there is none of that name, or numba is not installed
    """
    name = name or os.environ.get(VARIABLE) or "auto"
    has_numba = _is_installed("numba")
    if name == "auto":
        return "numba" if has_numba else "numpy"
    if name == "numba" and not has_numba:
        raise InputError("backend", "numba is not installed: pip install 'edgerank[store]'")
    for known in get_args(Backend):
        if name == known:
            return name  # type: ignore[return-value]
    raise InputError("backend", f"{name!r} is unknown; choose auto, {', '.join(get_args(Backend))}")


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # of a finder that hides it
        return False


class Comparer:
    """Compares queries with the parts of segments; safe to share between threads."""

    def __init__(self, rule: StoreRule, threads: int, backend: Backend) -> None:
        """:param threads: to compare with, for numba; NumPy's BLAS has its own"""
        self.backend: Backend = backend
        self._rule = rule
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, "store") if threads > 1 else None

    def features(self, segment: Segment, parts: Ids, query: Query) -> Features:
        """Compare a query with some parts of a segment.

        :param parts: int64 [parts], their places
        """
        zeros = np.zeros(len(parts), np.float32)
        cosine = self.pooled(segment, query, parts)
        if not self._rule.has_tokens:
            return Features(cosine, zeros, zeros)
        starts, ends = segment.part_tokens[parts], segment.part_tokens[parts + 1]
        compare = _numpy_nearest if self.backend == "numpy" else self._numba_nearest
        nearest, exact = compare(self._rule, segment, starts, ends, query)
        return Features(cosine, nearest, exact)

    def pooled(self, segment: Segment, query: Query, parts: Ids | None = None) -> Scores:
        """Compare a query's pooled vector with those of some parts, or of all: float32 [parts]."""
        count = len(segment.pooled) if parts is None else len(parts)
        found = np.empty(count, np.float32)
        if self.backend == "numpy":
            for start in range(0, count, BLOCK_ROWS):
                block = slice(start, start + BLOCK_ROWS)
                rows = segment.pooled[block if parts is None else parts[block]]
                found[block] = rows.astype(np.float32) @ query.pooled
            return found * segment.pooled_scales[slice(None) if parts is None else parts]
        from edgerank.store.compiled import functions

        places = np.arange(count) if parts is None else parts

        def run(first: int, last: int) -> None:
            functions().pooled(
                segment.pooled, segment.pooled_scales, places, query.pooled, found, first, last
            )

        self._share(run, np.ones(count, np.int64))
        return found

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _numba_nearest(
        self, rule: StoreRule, segment: Segment, starts: Ids, ends: Ids, query: Query
    ) -> tuple[Scores, Scores]:
        from edgerank.store.compiled import TOKENS_AT_ONCE, functions

        nearest, exact = (np.empty(len(starts), np.float32) for _ in range(2))
        missing = -len(query.shares) % TOKENS_AT_ONCE
        vectors = np.pad(query.vectors, ((0, missing), (0, 0)))
        shares = np.pad(query.shares, (0, missing))
        token_ids = np.pad(query.token_ids, (0, missing), constant_values=-1).astype(np.int32)

        def run(first: int, last: int) -> None:
            functions().nearest(
                segment.vectors,
                segment.scales,
                segment.token_ids,
                starts,
                ends,
                vectors,
                shares,
                token_ids,
                rule.has_token_ids,
                np.float32(rule.saturation[0]),
                np.float32(rule.saturation[1]),
                np.float32(rule.nearest_of_none),
                nearest,
                exact,
                first,
                last,
            )

        self._share(run, ends - starts)
        return nearest, exact

    def _share(self, run: Callable[[int, int], None], lengths: Ids) -> None:
        """Have the threads run over as many rows each."""
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        num_tasks = min(self._threads, max(1, total // MIN_TASK_ROWS))
        if self._pool is None or num_tasks == 1:
            run(0, len(lengths))
            return
        cuts = np.searchsorted(ends, np.arange(1, num_tasks) * total / num_tasks)
        bounds = [0, *cuts.tolist(), len(lengths)]
        tasks = [self._pool.submit(run, *pair) for pair in pairwise(bounds)]
        for task in tasks:
            task.result()


def _numpy_nearest(
    rule: StoreRule, segment: Segment, starts: Ids, ends: Ids, query: Query
) -> tuple[Scores, Scores]:
    """Return nearest and exact of parts whose tokens are from ``starts`` to ``ends``."""
    lengths = ends - starts
    none = np.float32(rule.nearest_of_none) * query.shares.sum(dtype=np.float32)
    nearest = np.full(len(starts), none, np.float32)
    exact = np.zeros(len(starts), np.float32)
    if len(query.shares) == 0:
        return nearest, exact
    base, slope = rule.saturation
    for block in _blocks(lengths):
        filled = block[lengths[block] > 0]
        if len(filled) == 0:
            continue
        rows = _rows(starts[filled], ends[filled])
        bounds = np.cumsum(lengths[filled]) - lengths[filled]
        cosines = segment.vectors[rows].astype(np.float32) @ query.vectors.T
        cosines *= segment.scales[rows][:, None]
        nearest[filled] = np.maximum.reduceat(cosines, bounds) @ query.shares
        if rule.has_token_ids:
            equal = segment.token_ids[rows][:, None] == query.token_ids
            counts = np.add.reduceat(equal, bounds, dtype=np.float32)
            saturation = np.float32(base) + np.float32(slope) * lengths[filled].astype(np.float32)
            exact[filled] = (counts / (counts + saturation[:, None])) @ query.shares
    return nearest, exact


def _rows(starts: Ids, ends: Ids) -> slice | NDArray[np.int64]:
    """Return the rows of parts, as a slice where they follow each other."""
    if (starts[1:] == ends[:-1]).all():
        return slice(int(starts[0]), int(ends[-1]))
    return ranges(starts, ends)


def _blocks(lengths: Ids) -> Iterator[Ids]:
    """Cut parts into runs of about BLOCK_ROWS rows: their places."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.arange(BLOCK_ROWS, total, BLOCK_ROWS))
    yield from np.split(np.arange(len(lengths)), np.unique(cuts))
