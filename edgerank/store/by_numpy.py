"""Comparison in NumPy: some rows of integers become float32 at a time, for its BLAS to multiply."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from edgerank.packing import Ids
from edgerank.store.arrays import ranges
from edgerank.store.backend import PooledComparison, Run, TokenComparison

BLOCK_ROWS = 1 << 13  # of vectors that become float32 at a time: they stay in the caches


def compare_tokens(comparison: TokenComparison) -> Run:
    """Compare tokens: see `Backend`."""
    rule, segment, query = comparison.rule, comparison.segment, comparison.query
    starts, ends = comparison.starts, comparison.ends
    lengths = ends - starts
    none = np.float32(rule.nearest_of_none) * query.shares.sum(dtype=np.float32)
    base, slope = rule.saturation

    def run(first: int, last: int) -> None:
        comparison.nearest[first:last] = none
        if len(query.shares) == 0:
            return
        for block in _blocks(lengths[first:last]):
            filled = first + block[lengths[first + block] > 0]
            if len(filled) == 0:
                continue
            rows = _rows(starts[filled], ends[filled])
            bounds = np.cumsum(lengths[filled]) - lengths[filled]
            cosines = segment.vectors[rows].astype(np.float32) @ query.vectors.T
            cosines *= segment.scales[rows][:, None]
            comparison.nearest[filled] = np.maximum.reduceat(cosines, bounds) @ query.shares
            if rule.has_token_ids:
                equal = segment.token_ids[rows][:, None] == query.token_ids
                counts = np.add.reduceat(equal, bounds, dtype=np.float32)
                sizes = lengths[filled].astype(np.float32)
                saturation = np.float32(base) + np.float32(slope) * sizes
                saturated = counts / (counts + saturation[:, None])
                comparison.exact[filled] = saturated @ query.shares

    return run


def compare_pooled(comparison: PooledComparison) -> Run:
    """Compare pooled vectors: see `Backend`."""
    segment, query = comparison.segment, comparison.query

    def run(first: int, last: int) -> None:
        for start in range(first, last, BLOCK_ROWS):
            block = slice(start, min(start + BLOCK_ROWS, last))
            places = comparison.places[block]
            products = segment.pooled[places].astype(np.float32) @ query.pooled
            comparison.cosines[block] = products * segment.pooled_scales[places]

    return run


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
