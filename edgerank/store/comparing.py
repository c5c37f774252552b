"""A query compared with parts of documents, by the backend that is chosen.

All backends give the same features up to rounding.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Protocol

import numpy as np

from edgerank.errors import InputError
from edgerank.kernels import Kernels, choose_kernels
from edgerank.packing import Ids
from edgerank.ranking import Scores
from edgerank.store import by_kernels, by_numba, by_numpy
from edgerank.store.features import Features, Query, StoreRule
from edgerank.store.segments import Segment

AUTO, KERNELS, NUMBA, NUMPY = "auto", "kernels", "numba", "numpy"
VARIABLE = "EDGERANK_STORE"
MIN_TASK_ROWS = 1 << 12  # of vectors; less is not worth another thread

Run = Callable[[int, int], None]  # compares parts from the first to before the second


class Nearest(Protocol):
    """Fills the arrays float32 [parts] with the features "nearest" and "exact"."""

    def __call__(
        self,
        rule: StoreRule,
        segment: Segment,
        starts: Ids,  # int64 [parts], of tokens
        ends: Ids,
        query: Query,
        out_nearest: Scores,
        out_exact: Scores,
    ) -> Run: ...


class Pooled(Protocol):
    """Fills the array float32 [parts] with the cosines of pooled vectors, int64 ``places``."""

    def __call__(self, segment: Segment, places: Ids, query: Query, out: Scores) -> Run: ...


@dataclass(frozen=True)
class Backend:
    """What compares vectors."""

    name: str
    nearest: Nearest
    pooled: Pooled
    is_shared: bool = True  # among threads; NumPy's BLAS has its own


def choose_backend(name: str | None = None) -> Backend:
    """Choose what compares vectors.

    :param name: "kernels", "numba", "numpy", or "auto" for the first of them that there is; by
        default what the variable EDGERANK_STORE says, and "auto" where it says nothing. The
        kernels are those of `edgerank.kernels.choose_kernels`
    :raises InputError: there is none of that name, or it cannot be used here
    """
    place = f" in {VARIABLE}" if name is None else ""
    name = name or os.environ.get(VARIABLE) or AUTO
    if name not in (AUTO, KERNELS, NUMBA, NUMPY):
        known = ", ".join((AUTO, KERNELS, NUMBA, NUMPY))
        raise InputError("backend", f"{name!r}{place} is unknown; choose {known}")
    if name in (AUTO, KERNELS):
        kernels = choose_kernels()
        if kernels.are_compiled:
            return kernels_backend(kernels)
        if name == KERNELS:
            reason = f"there are no compiled kernels ({kernels}); choose {NUMBA} or {NUMPY}"
            raise InputError("backend", f"{name!r}{place} cannot be used here: {reason}")
    if name in (AUTO, NUMBA):
        if _is_installed("numba"):
            return Backend(NUMBA, by_numba.nearest, by_numba.pooled)
        if name == NUMBA:
            reason = "numba is not installed: pip install 'edgerank[store]'"
            raise InputError("backend", f"{name!r}{place} cannot be used here: {reason}")
    return Backend(NUMPY, by_numpy.nearest, by_numpy.pooled, is_shared=False)


def kernels_backend(kernels: Kernels) -> Backend:
    """Return the backend of compiled kernels."""
    nearest, pooled = (partial(each, kernels) for each in (by_kernels.nearest, by_kernels.pooled))
    return Backend(KERNELS, nearest, pooled)


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
            compare = self.backend.nearest
            run = compare(self._rule, segment, starts, ends, query, nearest, exact)
            self._share(run, ends - starts)
        return Features(cosine, nearest, exact)

    def pooled(self, segment: Segment, query: Query, parts: Ids | None = None) -> Scores:
        """Compare a query's pooled vector with those of some parts, or of all: float32 [parts]."""
        places = np.arange(len(segment.pooled)) if parts is None else parts
        found = np.empty(len(places), np.float32)
        run = self.backend.pooled(segment, places, query, found)
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
