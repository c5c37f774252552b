"""Disentangled attention (He et al. 2021, arXiv 2006.03654): logits that depend on distances.

To the product of query i and key j are added those of query i with a key of positions (c2p) and of
key j with a query of positions (p2c), both of the bucket that i - j falls into:

    Q [B, H, L, D] · keysᵀ    ── [B, H, L, W] ── GatherElements ─┐
    queries · Kᵀ [B, H, D, S] ── [B, H, W, S] ── GatherElements ─┴ Add ── bias [B, H, L, S]

Only the W rows of the tables that occur between sequences of this length are multiplied. One index
[B, H, L, S] serves both products and all layers. Milliseconds for 12 heads of 64 on two busy cores,
medians of rounds in turns, so that only the columns' order means something:

    sequences                               16 x 64   8 x 128   4 x 256   2 x 512
    as here                                    20.0      35.9      47.4      80.2
    W = all rows of the tables                 36.5      50.5      47.7      76.3
    a row a distance and relative shifts       20.0      37.1      61.4     111.5
    an index expanded anew in each layer       19.9      41.0      50.0      91.7

Compiled attention reads the tables and the buckets of distances, and no index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from quantize.graph.builder import Graph
from quantize.graph.functions import CONTRIB
from quantize.rounding.rounding import Floats


@dataclass(frozen=True)
class Buckets:
    """The rows of tables of positions that a grid's slots read of each other."""

    first: str  # int64 [1], the first row that occurs
    end: str  # int64 [1], one more than the last
    rows: str  # int32 [B, H, L, S], counted from ``first``
    of_distances: str  # int32 [2 * max_length - 1], the buckets they were looked up in; constant


@dataclass(frozen=True)
class Positions:
    """What a layer's queries and keys are multiplied with, besides each other."""

    name: str
    keys: Floats  # [H, P, D], times ``scale``; H heads and P buckets
    queries: Floats  # [H, P, D], likewise
    scale: float  # of the products of queries and keys

    def tables(self, g: Graph, like: str) -> list[str]:
        """Add the layer's two tables, ``keys`` and ``queries``, to the graph's weights.

        :param like: a value of their type
        """
        return [
            g.parameter(f"{self.name}.keys", self.keys, like),
            g.parameter(f"{self.name}.queries", self.queries, like),
        ]

    def write(
        self, g: Graph, tables: Sequence[str], buckets: Buckets, queries: str, keys: str
    ) -> str:
        """Write what is added to the logits, [B, H, L, S].

        :param tables: the two of this layer, of the type of queries and keys
        :param queries: [B, L, H·D]
        :param keys: [B, S, H·D]
        """
        num_heads, _, size = self.keys.shape
        shape = g.constant([0, 0, num_heads, size])
        per_head = [
            g.op("Transpose", g.op("Reshape", x, shape), perm=[0, 2, 1, 3]) for x in (queries, keys)
        ]
        sliced = [
            g.op("Slice", table, buckets.first, buckets.end, g.constant([1])) for table in tables
        ]
        by_query = _product(g, per_head[0], sliced[0])
        by_key = _product(g, sliced[1], per_head[1])
        return g.op(
            "Add",
            g.op("GatherElements", by_query, buckets.rows, axis=3),
            g.op("GatherElements", by_key, buckets.rows, axis=2),
        )


def _product(g: Graph, left: str, right: str) -> str:
    """Compute left · rightᵀ."""
    return g.op("FusedMatMul", left, right, domain=CONTRIB, transB=1)


def log_buckets(
    distances: NDArray[np.int64], num_buckets: int, max_distance: int
) -> NDArray[np.int32]:
    """Return the buckets of distances, from 0 to 2 * num_buckets - 1.

    Half of the buckets of a sign are for one distance each, the others for logarithmic ranges, as
    in transformers' ``make_log_bucket_position``, whose rounding is that of float32.
    """
    middle = num_buckets // 2
    magnitudes = np.maximum(np.abs(distances), middle).astype(np.float32) / np.float32(middle)
    span = np.log(np.float32((max_distance - 1) / middle))
    far = np.ceil(np.log(magnitudes) / span * np.float32(middle - 1)) + middle
    signed = np.where(np.abs(distances) <= middle, distances, np.sign(distances) * far)
    return np.asarray(np.clip(signed + num_buckets, 0, 2 * num_buckets - 1), np.int32)


def t5_buckets(
    distances: NDArray[np.int64], num_buckets: int, max_distance: int = 128
) -> NDArray[np.int64]:
    """Return the buckets of distances from key to query, from 0 to num_buckets - 1.

    Half of the buckets are for keys after the query; of either half the first half is for one
    distance each and the others for logarithmic ranges, as in MPNet's ``relative_position_bucket``
    of transformers, whose rounding is that of float32.
    """
    half = num_buckets // 2
    exact = half // 2
    magnitudes = np.abs(distances)
    far = np.log(np.maximum(magnitudes, exact).astype(np.float32) / np.float32(exact))
    far = far / np.float32(np.log(max_distance / exact)) * np.float32(half - exact)
    rows = np.where(magnitudes < exact, magnitudes, exact + far.astype(np.int64))
    return np.minimum(rows, half - 1) + np.where(distances < 0, half, 0)


def write_buckets(
    g: Graph, query_rows: str, key_rows: str, *, num_heads: int, buckets: str, max_length: int
) -> Buckets:
    """Write the buckets of a grid whose slots are positions.

    :param query_rows: int64 [B, L]
    :param key_rows: int64 [B, S]
    :param buckets: int32 [2 * max_length - 1], those of distances from 1 - max_length on; a weight
    """
    start = g.num_nodes
    num_sequences, length = (
        g.op("Shape", query_rows, start=axis, end=axis + 1) for axis in range(2)
    )
    num_keys = g.op("Shape", key_rows, start=1, end=2)
    from_query = g.op("Unsqueeze", _range(g, length), g.constant([1]))
    distances = g.op("Sub", from_query, _range(g, num_keys))  # [L, S]
    zero = g.constant([max_length - 1])  # where distance 0 lies
    rows = g.op("Gather", buckets, g.op("Add", distances, zero))
    first = g.op("Gather", buckets, g.op("Sub", g.constant([max_length]), num_keys))
    last = g.op("Gather", buckets, g.op("Add", g.constant([max_length - 2]), length))
    shape = g.op("Concat", num_sequences, g.constant([num_heads]), length, num_keys, axis=0)
    found = Buckets(
        first=g.op("Cast", first, to=TensorProto.INT64),
        end=g.op("Add", g.op("Cast", last, to=TensorProto.INT64), g.constant([1])),
        rows=g.op("Expand", g.op("Sub", rows, first), shape),
        of_distances=buckets,
    )
    inputs, outputs = [query_rows, key_rows, buckets], [found.first, found.end, found.rows]
    g.outline("PositionBuckets", start, inputs, outputs)
    return found


def distance_biases(g: Graph, biases: str, num_queries: str, num_keys: str) -> str:
    """Look up what distances add to the logits, where slots are positions: float32 [H, L, S].

    :param biases: float32 [H, 2N - 1] for distances from key to query of 1 - N to N - 1; a weight
    :param num_queries: L, int64 [1]
    :param num_keys: S, int64 [1]
    """
    num_distances = g.op("Shape", biases, start=1, end=2)
    zero = g.op("Div", num_distances, g.constant([2]))  # where distance 0 lies
    queries = g.op("Unsqueeze", _range(g, num_queries), g.constant([1]))
    distances = g.op("Sub", g.op("Add", queries, zero), _range(g, num_keys))
    return g.op("Gather", biases, distances, axis=1)


def _range(g: Graph, count: str) -> str:
    """Count from 0 to ``count`` int64 [1], exclusive."""
    return g.op("Range", g.constant(np.int64(0)), g.op("Squeeze", count), g.constant(np.int64(1)))
