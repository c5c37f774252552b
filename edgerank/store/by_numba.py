"""Comparison by functions that numba compiles when they are first used, and then caches.

Two tokens of a document are compared with four of the query at a time: each int8 is converted once
for the four, and each number of the query is read once for the two. Larger tiles and products of
integers are slower in what LLVM makes of them. The functions let go of Python's lock: threads
share the parts. A loop over what several threads share, numba's ``prange``, would need its
threading layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from edgerank.store.backend import PooledComparison, Run, TokenComparison

TOKENS_AT_ONCE = 4  # of the query, which is filled up to a multiple of them
FAST = {"reassoc", "contract", "nsz"}  # sums in any order; infinities and NaN stay what they are


def compare_tokens(comparison: TokenComparison) -> Run:
    """Compare tokens: see `Backend`."""
    rule, segment, query = comparison.rule, comparison.segment, comparison.query
    missing = -len(query.shares) % TOKENS_AT_ONCE
    vectors = np.pad(query.vectors, ((0, missing), (0, 0)))
    shares = np.pad(query.shares, (0, missing))
    token_ids = np.pad(query.token_ids, (0, missing), constant_values=-1).astype(np.int32)
    compiled = _compiled(_nearest)

    def run(first: int, last: int) -> None:
        compiled(
            segment.vectors,
            segment.scales,
            segment.token_ids,
            comparison.starts,
            comparison.ends,
            vectors,
            shares,
            token_ids,
            rule.has_token_ids,
            np.float32(rule.saturation[0]),
            np.float32(rule.saturation[1]),
            np.float32(rule.nearest_of_none),
            comparison.nearest,
            comparison.exact,
            first,
            last,
        )

    return run


def compare_pooled(comparison: PooledComparison) -> Run:
    """Compare pooled vectors: see `Backend`."""
    segment, places, query = comparison.segment, comparison.places, comparison.query
    compiled = _compiled(_pooled)

    def run(first: int, last: int) -> None:
        vectors, scales = segment.pooled, segment.pooled_scales
        compiled(vectors, scales, places, query.pooled, comparison.cosines, first, last)

    return run


@cache
def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    import numba

    compiled: Callable[..., None]
    try:
        compiled = numba.njit(cache=True, nogil=True, fastmath=FAST)(function)
    except RuntimeError:  # there is no directory to cache in
        compiled = numba.njit(nogil=True, fastmath=FAST)(function)
    return compiled


def _nearest(
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
        for row in range(start, end, 2):
            other = min(row + 1, end - 1)  # the same one again at an odd end
            v, w, v_scale, w_scale = vectors[row], vectors[other], scales[row], scales[other]
            for i in range(0, count, TOKENS_AT_ONCE):
                qa, qb, qc, qd = query[i], query[i + 1], query[i + 2], query[i + 3]
                va = vb = vc = vd = wa = wb = wc = wd = np.float32(0)
                for k in range(width):
                    x, y = np.float32(v[k]), np.float32(w[k])
                    va += x * qa[k]
                    wa += y * qa[k]
                    vb += x * qb[k]
                    wb += y * qb[k]
                    vc += x * qc[k]
                    wc += y * qc[k]
                    vd += x * qd[k]
                    wd += y * qd[k]
                best[i] = max(best[i], va * v_scale, wa * w_scale)
                best[i + 1] = max(best[i + 1], vb * v_scale, wb * w_scale)
                best[i + 2] = max(best[i + 2], vc * v_scale, wc * w_scale)
                best[i + 3] = max(best[i + 3], vd * v_scale, wd * w_scale)
        if has_token_ids:
            for row in range(start, end):
                for i in range(count):
                    counts[i] += np.float32(token_ids[row] == query_ids[i])
        near = exact = np.float32(0)
        saturation = base + slope * length
        for i in range(count):
            near += shares[i] * best[i]
            exact += shares[i] * (counts[i] / (counts[i] + saturation))
        out_nearest[part] = near
        out_exact[part] = exact


def _pooled(
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
