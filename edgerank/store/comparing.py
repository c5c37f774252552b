"""A query compared with parts of documents, by the backend that is chosen.

All backends give the same features up to rounding.
"""

from __future__ import annotations

import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from edgerank.errors import InputError
from edgerank.kernels import AUTO, choose_kernels
from edgerank.packing import Ids
from edgerank.ranking import Scores
from edgerank.store import by_numba, by_numpy
from edgerank.store.backend import Backend, PooledComparison, Run, TokenComparison
from edgerank.store.by_kernels import kernels_backend
from edgerank.store.features import Features, Query, StoreRule
from edgerank.store.segments import Segment

KERNELS, NUMBA, NUMPY = "kernels", "numba", "numpy"
CHOICES = AUTO, KERNELS, NUMBA, NUMPY
VARIABLE = "EDGERANK_STORE"
MIN_TASK_ROWS = 1 << 12  # of vectors; less is not worth another thread


def choose_backend(name: str | None = None) -> Backend:
    """Choose what compares vectors.

    :param name: "kernels", "numba", "numpy", or "auto" for the first of them that there is; by
        default what the variable EDGERANK_STORE says, and "auto" where it says nothing. The
        kernels are those of `edgerank.kernels.choose_kernels`
    :raises InputError: there is none of that name, or it cannot be used here
    """
    place = f" in {VARIABLE}" if name is None else ""
    name = name or os.environ.get(VARIABLE) or AUTO
    if name not in CHOICES:
        raise InputError("backend", f"{name!r}{place} is unknown; choose {', '.join(CHOICES)}")
    if name in (AUTO, KERNELS):
        kernels = choose_kernels()
        if kernels.are_compiled:
            return kernels_backend(kernels)
        if name == KERNELS:
            reason = f"there are no compiled kernels ({kernels}); choose {NUMBA} or {NUMPY}"
            raise InputError("backend", f"{name!r}{place} cannot be used here: {reason}")
    if name in (AUTO, NUMBA):
        if _is_installed("numba"):
            return Backend(NUMBA, by_numba.compare_tokens, by_numba.compare_pooled)
        if name == NUMBA:
            reason = "numba is not installed: pip install 'edgerank[store]'"
            raise InputError("backend", f"{name!r}{place} cannot be used here: {reason}")
    return Backend(NUMPY, by_numpy.compare_tokens, by_numpy.compare_pooled, is_shared=False)


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # of a finder that hides it
        return False


class Comparer:
    """Compares queries with the parts of segments; safe to share between threads."""

    def __init__(self, rule: StoreRule, threads: int, backend: Backend) -> None:
        self.backend = backend
        self._rule = rule
        self._threads = threads if backend.is_shared else 1
        self._pool = ThreadPoolExecutor(threads, "store") if self._threads > 1 else None

    def features(self, segment: Segment, parts: Ids, query: Query) -> Features:
        """Compare a query with some parts of a segment.

        :param parts: int64 [parts], their places
        """
        nearest, exact = (np.zeros(len(parts), np.float32) for _ in range(2))
        cosine = self.pooled(segment, query, parts)
        if self._rule.has_tokens:
            starts, ends = segment.part_tokens[parts], segment.part_tokens[parts + 1]
            comparison = TokenComparison(self._rule, segment, starts, ends, query, nearest, exact)
            self._share(self.backend.compare_tokens(comparison), ends - starts)
        return Features(cosine, nearest, exact)

    def pooled(self, segment: Segment, query: Query, parts: Ids | None = None) -> Scores:
        """Compare a query's pooled vector with those of some parts, or of all: float32 [parts]."""
        places = np.arange(len(segment.pooled)) if parts is None else parts
        found = np.empty(len(places), np.float32)
        run = self.backend.compare_pooled(PooledComparison(segment, places, query, found))
        self._share(run, np.ones(len(places), np.int64))
        return found

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _share(self, run: Run, lengths: Ids) -> None:
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
