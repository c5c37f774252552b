"""Attention over packed sequences."""

from __future__ import annotations

from quantize.graph.builder import Graph
from quantize.graph.grid import Grid
from quantize.graph.relative_positions import Positions


def attention(
    g: Graph,
    grid: Grid,
    query: str,
    keys_values: str,
    *,
    num_heads: int,
    num_kv_heads: int,
    past: str = "",
    positions: Positions | None = None,
) -> str:
    """Attend within each sequence of the grid.

    query [T, H·D]  ── Gather(query_rows) ── [B, L, H·D] ─────────┐
    keys_values     ── Gather(key_rows) ── Split ─ [B, S, KV·D] ×2 ┴ Attention ─ Gather(slots)

    :param query: [T, num_heads * head_size], of any floating-point type
    :param keys_values: [T, 2 * num_kv_heads * head_size], keys left of values; of the same type
    :param past: those of earlier rows, [P, likewise], to which key rows count too
    :param positions: what is added to the logits; the grid then has buckets
    :return: [T, num_heads * head_size], likewise
    """
    start = g.num_nodes
    every = g.op("Concat", past, keys_values, axis=0) if past else keys_values
    queries = g.op("Gather", query, grid.query_rows)
    keys, values = g.ops(
        "Split", g.op("Gather", every, grid.key_rows), count=2, num_outputs=2, axis=2
    )
    mask, scale = g.cast(grid.mask, g.float_type(query)), None
    by_distance: list[str] = []
    if positions is not None:
        buckets, tables = grid.buckets, positions.tables(g, query)
        assert buckets is not None
        bias = positions.write(g, tables, buckets, queries, keys)
        mask, scale = g.op("Add", bias, mask), positions.scale
        by_distance = [*tables, buckets.of_distances, buckets.first, buckets.end, buckets.rows]
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
    output = g.op("Gather", flat, grid.slots)
    g.outline(
        "RaggedAttention",
        start,
        [
            query,
            keys_values,
            grid.query_rows,
            grid.key_rows,
            grid.slots,
            grid.visible,
            grid.mask,
            past,
            grid.parts,
            grid.biases,
            *by_distance,
        ],
        [output],
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        window=grid.window,
        is_causal=1 if grid.is_causal else None,
        scale=scale,
    )
    return output
