"""Where the tokens of a flat axis sit during attention.

Everything lies on one flat token axis T without padding. Only stock attention leaves it: queries
and keys are gathered into a grid with one sequence a row, attended to, and gathered back. At 512
tokens this takes a third of the time of attention on the flat axis under a mask, which computes
every document against every other (``benchmarks/micro/attention.py``). Compiled attention reads
from the grid where the sequences lie, and stays on the flat axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import TensorProto

from quantize.graph.builder import Graph
from quantize.graph.precision import Precision, RefinedRows
from quantize.graph.relative_positions import Buckets, distance_biases
from quantize.graph.substitutes import equal

MASKED = -6e4  # added to the logit of a key that must not be seen; float16 ends at 65504


# of what a plain graph has: ONNX Runtime's fused attention for CUDA needs a multiple of 4
KEY_MULTIPLE = 8

Refines = Literal["scored", "all", "all if fine"]


@dataclass(frozen=True)
class Grid:
    """Where the flat axis sits during attention: B sequences, L query slots, S key slots."""

    query_rows: str  # int64 [B, L], the flat row in each query slot, 0 in empty slots
    key_rows: str  # int64 [B, S], the row of past ++ flat axis in each key slot
    slots: str  # int64 [T], the slot of each flat row in the flattened [B, L]
    visible: str  # int64 [B, L], how many leading keys each query slot sees
    mask: str  # float32 [B, 1 or H, L, S], added to logits; empty for compiled attention
    window: int | None = None  # a query sees keys at most so many tokens away, None for any
    is_causal: bool = False  # whether the last key that a query sees is its own, if it has a window
    parts: str = ""  # int64 [T], a query sees keys of its own part alone; "" if there is one
    biases: str = ""  # float32 [H, 2N - 1], what distances from 1 - N on add to logits; a weight
    buckets: Buckets | None = None  # of distances from query to key slots, if attention reads them


@dataclass(frozen=True)
class GraphInputs:
    """What a graph is fed besides the stream and the caches."""

    token_ids: str  # int64 [T]
    positions: str  # int64 [T]
    scored_rows: str  # int64 [R], the flat rows whose final state is read, one a sequence
    refined_rows: RefinedRows  # what may be rounded in two terms
    grid: Grid
    scored_grid: Grid  # that of the scored rows alone, with L = 1

    def refined_scored_rows(self, precision: Precision) -> str:
        """Choose the rows to round in two terms where only scored rows are left: all, or none."""
        return precision.refined(self.refined_rows) and self.scored_grid.slots


def declare_inputs(g: Graph, *, with_past: bool, refines: Refines = "all if fine") -> GraphInputs:
    """Declare the inputs that all architectures share.

    ``visible`` int64 [B, L] says how many of a sequence's leading keys each query slot sees. That
    one number covers causal and two-sided attention, a shared prefix and a chunk's past.

    Without a past, keys are the sequence's own tokens and share the query slots.

    :param refines: which rows may be rounded in two terms: those that scores depend on most, all,
        or all in precisions that are finer than int8
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
    refined_rows = RefinedRows()
    if refines == "scored":
        names = ("refined_rows", "fine_rows")
        refined_rows = RefinedRows(*(g.input(name, TensorProto.INT64, [name]) for name in names))

    g.scope = "grid"
    if g.is_plain:
        key_rows = _filled_up(g, key_rows)
    if refines != "scored":
        every = _every(g, token_ids)
        refined_rows = RefinedRows(every if refines == "all" else "", every)
    grid = with_mask(g, Grid(query_rows, key_rows, slots, visible, mask=""))
    scored_slots = g.op("Gather", slots, scored_rows)
    length = g.op("Shape", query_rows, start=1, end=2)
    sequence = g.op("Div", scored_slots, length)
    flat_visible = g.op("Reshape", visible, g.constant([-1]))
    scored_visible = g.op("Gather", flat_visible, scored_slots)
    every_scored = _every(g, scored_rows)
    scored_grid = Grid(
        query_rows=g.op("Unsqueeze", every_scored, g.constant([1])),
        key_rows=g.op("Gather", key_rows, sequence),
        slots=every_scored,
        visible=g.op("Unsqueeze", scored_visible, g.constant([1])),
        mask="",
    )
    return GraphInputs(
        token_ids, positions, scored_rows, refined_rows, grid, with_mask(g, scored_grid)
    )


def with_mask(g: Graph, grid: Grid) -> Grid:
    """Compute the mask: MASKED for keys that a query does not see, what distances add for others.

    Slots are positions where there are parts, biases or a window that is not causal: without a
    past, and in a scored grid, whose one slot is then slot 0, for first tokens alone.
    """
    start = g.num_nodes
    keys = _slot_numbers(g, grid.key_rows)
    is_seen = g.op("Less", keys, g.op("Unsqueeze", grid.visible, g.constant([1, 3])))
    if grid.window is not None:
        if grid.is_causal:
            own = g.op("Sub", grid.visible, g.constant([1]))
            queries = g.op("Unsqueeze", own, g.constant([1, 3]))  # [B, 1, L, 1]
        else:
            queries = g.op("Unsqueeze", _slot_numbers(g, grid.query_rows), g.constant([1]))
        distances = g.op("Abs", g.op("Sub", queries, keys))  # [..., L, S]
        is_near = g.op("LessOrEqual", distances, g.constant(np.int64(grid.window)))
        is_seen = g.op("And", is_seen, is_near)
    if grid.parts:
        of_queries = of_keys = g.op("Gather", grid.parts, grid.query_rows)  # [B, L]
        if grid.key_rows != grid.query_rows:
            of_keys = g.op("Gather", grid.parts, grid.key_rows)  # [B, S]
        rows = g.op("Unsqueeze", of_queries, g.constant([2]))
        columns = g.op("Unsqueeze", of_keys, g.constant([1]))
        is_same = g.op("Unsqueeze", equal(g, rows, columns), g.constant([1]))
        is_seen = g.op("And", is_seen, is_same)
    mask = g.op("Where", is_seen, g.constant(0.0), g.constant(MASKED))
    if grid.biases:
        counts = (g.op("Shape", rows, start=1, end=2) for rows in (grid.query_rows, grid.key_rows))
        mask = g.op("Add", mask, distance_biases(g, grid.biases, *counts))
    inputs = [grid.query_rows, grid.key_rows, grid.visible, grid.parts, grid.biases]
    g.outline("AttentionMask", start, inputs, [mask])
    return replace(grid, mask=mask)


def token_slots(g: Graph, grid: Grid) -> str:
    """Say which slots of a grid hold tokens, if all tokens of a sequence see all of it.

    :return: bool [B, L]
    """
    lengths = g.op("Gather", grid.visible, g.constant([0]), axis=1)  # the first slot has a token
    return g.op("Less", _slot_numbers(g, grid.query_rows), lengths)


def mean_rows(g: Graph, x: str, grid: Grid) -> str:
    """Average each sequence's rows: float32 [T, H] to [B, H]."""
    is_token = g.op("Cast", token_slots(g, grid), to=TensorProto.FLOAT)
    count = g.op("ReduceSum", is_token, g.constant([1]), keepdims=1)
    weights = g.op("Unsqueeze", g.op("Div", is_token, count), g.constant([1]))  # [B, 1, L]
    rows = g.op("Gather", x, grid.query_rows)  # [B, L, H]
    return g.op("Squeeze", g.op("MatMul", weights, rows), g.constant([1]))


def reach(num_positions: int) -> int:
    """Return how many key slots there may be for so many positions."""
    return -(-num_positions // KEY_MULTIPLE) * KEY_MULTIPLE


def _filled_up(g: Graph, key_rows: str) -> str:
    """Add key slots, which no query sees, up to a multiple: int64 [B, S] to [B, S + 0..7]."""
    sequences, count = (g.op("Shape", key_rows, start=at, end=at + 1) for at in range(2))
    multiple = g.constant([KEY_MULTIPLE])
    rest = g.op("Mod", g.op("Sub", multiple, g.op("Mod", count, multiple)), multiple)
    shape = g.op("Concat", sequences, rest, axis=0)
    empty = g.op("Expand", g.constant(np.zeros((1, 1), np.int64)), shape)
    return g.op("Concat", key_rows, empty, axis=1)


def _every(g: Graph, rows: str) -> str:
    """Number all of some rows: int64 [T]."""
    count = g.op("Squeeze", g.op("Shape", rows))
    return g.op("Range", g.constant(np.int64(0)), count, g.constant(np.int64(1)))


def _slot_numbers(g: Graph, rows: str) -> str:
    """Number the slots of ``rows`` [B, L]: int64 [L]."""
    count = g.op("Squeeze", g.op("Shape", rows, start=1, end=2))
    return g.op("Range", g.constant(np.int64(0)), count, g.constant(np.int64(1)))
