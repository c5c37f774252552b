"""What numba compiles, when it is first asked for: a second or two, and then from its cache.

Parts of documents are compared one by one, eight tokens of the query at a time, so that each int8
is read and converted once for the eight. The functions let go of Python's lock: threads share the
parts. A loop over what several threads share, numba's ``prange``, would need its threading layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

TOKENS_AT_ONCE = 8  # of the query; it has a multiple of them
FAST = {"reassoc", "contract", "nsz"}  # sums in any order; infinities and NaN stay what they are


@dataclass(frozen=True)
class Functions:
    """The compiled functions."""

    nearest: Callable[..., None]
    pooled: Callable[..., None]


@cache
def functions() -> Functions:
    """Compile, or load what was compiled before."""
    return Functions(_compiled(nearest), _compiled(pooled))


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    import numba

    compiled: Callable[..., None]
    try:
        compiled = numba.njit(cache=True, nogil=True, fastmath=FAST)(function)
    except RuntimeError:  # there is no directory to cache in
        compiled = numba.njit(nogil=True, fastmath=FAST)(function)
    return compiled


def nearest(
    vectors: Any,  # int8 [T, D]
    scales: Any,  # float32 [T]
    token_ids: Any,  # int32 [T], or [0]
    starts: Any,  # int64 [P]
    ends: Any,
    query: Any,  # float32 [n, D], n a multiple of TOKENS_AT_ONCE
    shares: Any,  # float32 [n], 0 for rows that fill it up
    query_ids: Any,  # int32 [n]
    has_token_ids: bool,
    base: Any,
    slope: Any,
    none: Any,
    out_nearest: Any,  # float32 [P]
    out_exact: Any,
    first: int,
    last: int,
) -> None:
    """Compare a query's tokens with those of parts ``first`` to ``last``."""
    count, width = query.shape
    best = np.empty(count, np.float32)
    counts = np.empty(count, np.float32)
    for part in range(first, last):
        start, end = starts[part], ends[part]
        length = np.float32(end - start)
        best[:] = none if start == end else np.float32(-np.inf)
        counts[:] = np.float32(0)
        for row in range(start, end):
            vector, scale = vectors[row], scales[row]
            for i in range(0, count, TOKENS_AT_ONCE):
                a = b = c = d = e = f = g = h = np.float32(0)
                qa, qb, qc, qd = query[i], query[i + 1], query[i + 2], query[i + 3]
                qe, qf, qg, qh = query[i + 4], query[i + 5], query[i + 6], query[i + 7]
                for k in range(width):
                    x = np.float32(vector[k])
                    a += x * qa[k]
                    b += x * qb[k]
                    c += x * qc[k]
                    d += x * qd[k]
                    e += x * qe[k]
                    f += x * qf[k]
                    g += x * qg[k]
                    h += x * qh[k]
                best[i] = max(best[i], a * scale)
                best[i + 1] = max(best[i + 1], b * scale)
                best[i + 2] = max(best[i + 2], c * scale)
                best[i + 3] = max(best[i + 3], d * scale)
                best[i + 4] = max(best[i + 4], e * scale)
                best[i + 5] = max(best[i + 5], f * scale)
                best[i + 6] = max(best[i + 6], g * scale)
                best[i + 7] = max(best[i + 7], h * scale)
            if has_token_ids:
                for i in range(count):
                    if token_ids[row] == query_ids[i]:
                        counts[i] += np.float32(1)
        near = exact = np.float32(0)
        saturation = base + slope * length
        for i in range(count):
            near += shares[i] * best[i]
            exact += shares[i] * (counts[i] / (counts[i] + saturation))
        out_nearest[part] = near
        out_exact[part] = exact


def pooled(
    vectors: Any,  # int16 [P, D]
    scales: Any,  # float32 [P]
    places: Any,  # int64 [parts]
    query: Any,  # float32 [D]
    out: Any,  # float32 [parts]
    first: int,
    last: int,
) -> None:
    """Compare a query's pooled vector with those of parts ``first`` to ``last``."""
    width = len(query)
    for i in range(first, last):
        vector = vectors[places[i]]
        total = np.float32(0)
        for k in range(width):
            total += np.float32(vector[k]) * query[k]
        out[i] = total * scales[places[i]]
