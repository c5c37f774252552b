"""Blocks that architectures share: linear layers and attention over packed sequences.

Everything lies on one flat token axis T without padding. Only attention leaves it: queries and
keys are gathered into a grid with one sequence a row, attended to, and gathered back. At 512
tokens this takes a third of the time of attention on the flat axis under a mask, which computes
every document against every other (``benchmarks/micro/attention.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from quantize.graph.builder import Graph
from quantize.graph.precision import ChannelSlice, MatmulInput, Precision, Rows, scaled
from quantize.graph.relative_positions import Buckets, Positions

TINY = 1e-12  # the least norm that is divided by, as in torch.nn.functional.normalize
MASKED = -1e9  # added to the attention logit of a key that must not be seen; its weight becomes 0


@dataclass(frozen=True)
class Grid:
    """Where the flat axis sits during attention: B sequences, L query slots, S key slots."""

    query_rows: str  # int64 [B, L], the flat row in each query slot, 0 in empty slots
    key_rows: str  # int64 [B, S], the row of past ++ flat axis in each key slot
    slots: str  # int64 [T], the slot of each flat row in the flattened [B, L]
    mask: str  # float32 [B, 1, L, S], 0 where the key is visible
    buckets: Buckets | None = None  # of distances from query to key slots, if attention reads them


@dataclass(frozen=True)
class GraphInputs:
    """What a graph is fed besides the stream and the caches."""

    token_ids: str  # int64 [T]
    positions: str  # int64 [T]
    scored_rows: str  # int64 [R], the flat rows whose final state is read, one a sequence
    grid: Grid
    scored_grid: Grid  # that of the scored rows alone, with L = 1


def declare_inputs(g: Graph, *, with_past: bool) -> GraphInputs:
    """Declare the inputs that all architectures share.

    ``visible`` int64 [B, L] says how many of a sequence's leading keys each query slot sees. That
    one number covers causal and two-sided attention, a shared prefix and a chunk's past.

    Without a past, keys are the sequence's own tokens and share the query slots.
    """
    token_ids = g.input("token_ids", TensorProto.INT64, ["tokens"])
    positions = g.input("positions", TensorProto.INT64, ["tokens"])
    query_rows = g.input("query_rows", TensorProto.INT64, ["sequences", "length"])
    key_rows = (
        g.input("key_rows", TensorProto.INT64, ["sequences", "keys"]) if with_past else query_rows
    )
    slots = g.input("slots", TensorProto.INT64, ["tokens"])
    visible = g.input("visible", TensorProto.INT64, ["sequences", "length"])
    scored_rows = g.input("scored_rows", TensorProto.INT64, ["scored"])

    g.scope = "grid"
    grid = Grid(query_rows, key_rows, slots, _mask(g, visible, key_rows))
    scored_slots = g.op("Gather", slots, scored_rows)
    length = g.op("Shape", query_rows, start=1, end=2)
    sequence = g.op("Div", scored_slots, length)
    scored_keys = g.op("Gather", key_rows, sequence)
    flat_visible = g.op("Reshape", visible, g.constant([-1]))
    scored_visible = g.op("Unsqueeze", g.op("Gather", flat_visible, scored_slots), g.constant([1]))
    count = g.op("Shape", scored_rows)
    every_scored = g.op(
        "Range",
        g.constant(np.int64(0)),
        g.op("Squeeze", count),
        g.constant(np.int64(1)),
    )
    scored_grid = Grid(
        query_rows=g.op("Unsqueeze", every_scored, g.constant([1])),
        key_rows=scored_keys,
        slots=every_scored,
        mask=_mask(g, scored_visible, scored_keys),
    )
    return GraphInputs(token_ids, positions, scored_rows, grid, scored_grid)


def _mask(g: Graph, visible: str, key_rows: str) -> str:
    """Return float32 [B, 1, L, S]: 0 for the first ``visible`` keys, MASKED for the others."""
    keys = _slot_numbers(g, key_rows)
    is_visible = g.op("Less", keys, g.op("Unsqueeze", visible, g.constant([1, 3])))
    return g.op("Where", is_visible, g.constant(0.0), g.constant(MASKED))


def _slot_numbers(g: Graph, rows: str) -> str:
    """Number the slots of ``rows`` [B, L]: int64 [L]."""
    count = g.op("Squeeze", g.op("Shape", rows, start=1, end=2))
    return g.op("Range", g.constant(np.int64(0)), count, g.constant(np.int64(1)))


def within_window(g: Graph, grid: Grid, window: int) -> Grid:
    """Mask the keys that are more than ``window`` tokens away too.

    Slots must be positions: without a past, and in a scored grid, whose one slot is then slot 0,
    for first tokens alone.
    """
    g.scope = "window"
    queries = g.op("Unsqueeze", _slot_numbers(g, grid.query_rows), g.constant([1]))
    distances = g.op("Abs", g.op("Sub", queries, _slot_numbers(g, grid.key_rows)))  # [L, S]
    is_near = g.op("LessOrEqual", distances, g.constant(np.int64(window)))
    return replace(grid, mask=g.op("Where", is_near, grid.mask, g.constant(MASKED)))


def attention(
    g: Graph,
    grid: Grid,
    query: str,
    keys_values: str,
    *,
    num_heads: int,
    num_kv_heads: int,
    positions: Positions | None = None,
) -> str:
    """Attend within each sequence of the grid.

    query [T, H·D]  ── Gather(query_rows) ── [B, L, H·D] ─────────┐
    keys_values     ── Gather(key_rows) ── Split ─ [B, S, KV·D] ×2 ┴ Attention ─ Gather(slots)

    :param query: float32 [T, num_heads * head_size]
    :param keys_values: float32 [past + T, 2 * num_kv_heads * head_size], keys left of values
    :param positions: what is added to the logits; the grid then has buckets
    :return: float32 [T, num_heads * head_size]
    """
    queries = g.op("Gather", query, grid.query_rows)
    keys, values = g.ops(
        "Split", g.op("Gather", keys_values, grid.key_rows), count=2, num_outputs=2, axis=2
    )
    mask, scale = grid.mask, None
    if positions is not None:
        assert grid.buckets is not None
        bias = positions.write(g, grid.buckets, queries, keys)
        mask, scale = g.op("Add", bias, mask), positions.scale
    attended = g.op(
        "Attention",
        queries,
        keys,
        values,
        mask,
        q_num_heads=num_heads,
        kv_num_heads=num_kv_heads,
        scale=scale,
    )
    width = g.op("Shape", attended, start=2, end=3)
    flat = g.op("Reshape", attended, g.op("Concat", g.constant([-1]), width, axis=0))
    return g.op("Gather", flat, grid.slots)


def linear(
    g: Graph,
    precision: Precision,
    rows: Rows,
    name: str,
    weight: NDArray[np.float32],
    bias: NDArray[np.float32] | None = None,
) -> str:
    """Compute rows · weightᵀ + bias: float32 [T, N] from ``weight`` [N, K] and ``bias`` [N]."""
    product = scaled(g, precision.matmul(g, rows, name, weight))
    return product if bias is None else g.op("Add", product, g.weight(f"{name}.bias", bias))


def in_slices(
    g: Graph,
    precision: Precision,
    name: str,
    weight: NDArray[np.float32],
    inner: Callable[[ChannelSlice], MatmulInput],
) -> str:
    """Compute inner(x) · weightᵀ a slice of the inner channels after the other: float32 [T, N].

    What lies between two matrices of a feed-forward part is its widest tensor, which several
    operators go over: a slice of it stays in the cache meanwhile. It also has row scales of its
    own.

    :param weight: float32 [N, K]
    :param inner: writes those of the K channels that it is given
    """
    total = ""
    for part in precision.slices(weight.shape[1]):
        rows = precision.rows(g, inner(part))
        added = linear(g, precision, rows, part.name(name), weight[:, part.channels])
        total = g.op("Add", total, added) if total else added
    return total


def gather_rows(g: Graph, rows: Rows, indices: str) -> Rows:
    """Keep only the rows at ``indices``."""
    if not rows.integers:
        return replace(rows, real=g.op("Gather", rows.real, indices))
    real, integers, scale = (
        g.op("Gather", part, indices) for part in (rows.real, rows.integers, rows.scale)
    )
    return replace(rows, real=real, integers=integers, scale=scale)


def split_columns(g: Graph, x: str, sizes: Sequence[int]) -> list[str]:
    """Cut float32 [T, sum(sizes)] along its columns."""
    return g.ops("Split", x, g.constant(sizes), count=len(sizes), axis=1)


def mean_rows(g: Graph, x: str, grid: Grid) -> str:
    """Average each sequence's rows: float32 [T, H] to [B, H].

    A row of the grid's mask is 0 for the sequence's own tokens and hugely negative elsewhere, so
    its softmax is 1/n on each of the n tokens.
    """
    first = g.op("Gather", grid.mask, g.constant([0]), axis=2)  # [B, 1, 1, L]
    weights = g.op("Softmax", g.op("Squeeze", first, g.constant([1])), axis=-1)  # [B, 1, L]
    rows = g.op("Gather", x, grid.query_rows)  # [B, L, H]
    return g.op("Squeeze", g.op("MatMul", weights, rows), g.constant([1]))


def unit_rows(g: Graph, x: str) -> str:
    """Scale rows, float32 [R, H], to length 1."""
    norm = g.op("ReduceL2", x, g.constant([-1]), keepdims=1)
    return g.op("Div", x, g.op("Max", norm, g.constant(TINY)))
