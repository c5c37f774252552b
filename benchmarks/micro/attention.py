"""How should packed sequences attend: on the flat axis, or gathered into a grid?

Milliseconds of one layer's attention:

* flat: all tokens against all tokens, under a mask that hides other documents
* grid: sequences gathered into a padded grid, attended to, and gathered back
* each of the compiled kernels, which stay on the flat axis and compute no mask

The first two are of ONNX Runtime's operators: ai.onnx Attention for both, and com.microsoft
GroupQueryAttention, which takes the prefix as its past, for flat decoders. A model computes the
grid's mask once; here it is part of the time. Rates are of the products of queries with keys and of
weights with values, for keys that a query sees.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from benchmarks.common import options
from benchmarks.common.record import Row, median
from benchmarks.common.turns import ratio, take_turns
from edgerank.kernels import STOCK, choose_kernels
from edgerank.packing import attention_grid
from edgerank.session import open_session
from quantize.graph.attention import attention
from quantize.graph.builder import Graph
from quantize.graph.functions import CONTRIB
from quantize.graph.grid import declare_inputs

PREFIX = 40


@dataclass(frozen=True)
class Heads:
    """A model's attention geometry."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_size: int
    causal: bool

    def operations(self, lengths: list[int]) -> float:
        """Count multiplications and additions of queries with the keys that they see."""
        pairs = sum(n * PREFIX + n * (n + 1) / 2 if self.causal else n * n for n in lengths)
        return 4.0 * pairs * self.num_heads * self.head_size


Writer = Callable[[Graph, Heads], None]
MODELS = (
    Heads("mxbai-rerank-large-v2", 12, 2, 128, causal=True),
    Heads("mxbai-rerank-base-v2", 14, 2, 64, causal=True),
    Heads("MiniLM-L6", 12, 12, 32, causal=False),
    Heads("BERT base", 12, 12, 64, causal=False),
)
LENGTHS = {
    "1 x 128": [128],
    "2 x 256": [260, 252],
    "4 x 128": [140, 130, 124, 118],
    "16 x 32": list(range(40, 24, -1)),
    "8 x 128": [140, 138, 135, 130, 126, 123, 118, 114],
    "4 x 60 to 250": [250, 142, 60, 60],
}
GRID = "grid"


@options.kernels
@options.rounds(15)
@options.thread_counts
def measure(kernels: list[str], rounds: int, thread_counts: tuple[int, ...]) -> Iterator[Row]:
    compiled = [name for name in kernels if name != STOCK]
    for heads, threads in product(MODELS, thread_counts):
        for documents, lengths in LENGTHS.items():
            times = time_ways(heads, lengths, compiled, rounds, threads)
            flat = [seconds for way, seconds in times.items() if way.startswith("flat")]
            fastest = min(flat, key=np.median)
            figures = {way: median(seconds * 1e3, "ms") for way, seconds in times.items()}
            figures["fastest flat / grid"] = median(ratio(fastest, times[GRID]))
            for name in compiled:
                rates = heads.operations(lengths) / times[name]
                figures[f"grid / {name}"] = median(ratio(times[GRID], times[name]))
                figures[f"rate of {name}"] = median(rates / 1e9, "GOP/s")
            labels = {"geometry": heads.name, "documents": documents, "threads": str(threads)}
            yield Row(labels, figures)


def time_ways(
    heads: Heads, lengths: list[int], compiled: list[str], rounds: int, threads: int
) -> dict[str, NDArray[np.float64]]:
    """Time one layer's attention in all ways, in turns; check that they agree."""
    feeds = inputs(heads, lengths)
    ways: dict[str, tuple[Writer, str]] = {"flat": (write_flat, STOCK), GRID: (write_grid, STOCK)}
    if heads.causal:
        ways["flat GQA"] = write_flat_gqa, STOCK
    ways |= {name: (write_grid, name) for name in compiled}
    runs = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (write, kernels) in ways.items():
            g = Graph(Path(scratch) / f"{name}.onnx")
            write(g, heads)
            g.save()
            session = open_session(g.path, threads=threads, kernels=choose_kernels(kernels))
            names = [value.name for value in session.get_inputs()]
            runs[name] = partial(session.run, None, {name: feeds[name] for name in names})
    (expected,) = runs[GRID]()
    for name, run in runs.items():
        # bfloat16 has eight significant bits
        np.testing.assert_allclose(run()[0], expected, atol=0.05 if "bf16" in name else 1e-4)
    return take_turns(runs, rounds, warm_up=2)


def inputs(heads: Heads, lengths: list[int]) -> dict[str, np.ndarray]:
    """Draw projections of a micro-batch, and lay out its grid and its flat mask."""
    rng = np.random.default_rng(0)
    past = PREFIX if heads.causal else 0
    counts = np.array(lengths)
    total, kv_width = int(counts.sum()), heads.num_kv_heads * heads.head_size
    leads = np.full(len(lengths), past)
    query_rows, key_rows, visible, slots, _ = attention_grid(
        counts, np.zeros_like(leads), leads, past, heads.causal
    )
    document = np.repeat(np.arange(len(lengths)), lengths)
    mask = document[:, None] == document
    if heads.causal:
        mask = np.hstack([np.ones((total, past), bool), np.tril(mask)])
    kv = rng.standard_normal((past + total, 2 * kv_width), np.float32)
    kept = kv[:past].reshape(1, past, 2, heads.num_kv_heads, heads.head_size)
    return {
        "query": rng.standard_normal((total, heads.num_heads * heads.head_size), np.float32),
        "keys_values": kv,
        "past_key": np.ascontiguousarray(kept[:, :, 0].transpose(0, 2, 1, 3)),
        "past_value": np.ascontiguousarray(kept[:, :, 1].transpose(0, 2, 1, 3)),
        "mask": np.where(mask, 0, -1e9).astype(np.float32)[None, None],
        "last": np.array([past + total - 1], np.int32),
        "total": np.array(past + total, np.int32),
        "query_rows": query_rows,
        "key_rows": key_rows,
        "slots": slots,
        "visible": visible,
        "scored_rows": np.cumsum(counts) - 1,
    }


def _projections(g: Graph, heads: Heads) -> tuple[str, str]:
    kv_width = 2 * heads.num_kv_heads * heads.head_size
    query = g.input("query", TensorProto.FLOAT, ["tokens", heads.num_heads * heads.head_size])
    return query, g.input("keys_values", TensorProto.FLOAT, ["rows", kv_width])


def write_grid(g: Graph, heads: Heads) -> None:
    query, keys_values = _projections(g, heads)
    grid = declare_inputs(g, with_past=heads.causal).grid
    attended = attention(
        g, grid, query, keys_values, num_heads=heads.num_heads, num_kv_heads=heads.num_kv_heads
    )
    g.output("attended", attended, ["tokens", "width"])


def write_flat(g: Graph, heads: Heads) -> None:
    query, keys_values = _projections(g, heads)
    mask = g.input("mask", TensorProto.FLOAT, [1, 1, "tokens", "rows"])
    first = g.constant([0])
    keys, values = g.ops("Split", keys_values, count=2, num_outputs=2, axis=1)
    attended = g.op(
        "Attention",
        *(g.op("Unsqueeze", part, first) for part in (query, keys, values)),
        mask,
        q_num_heads=heads.num_heads,
        kv_num_heads=heads.num_kv_heads,
    )
    g.output("attended", g.op("Squeeze", attended, first), ["tokens", "width"])


def write_flat_gqa(g: Graph, heads: Heads) -> None:
    query, keys_values = _projections(g, heads)
    mask = g.input("mask", TensorProto.FLOAT, [1, 1, "tokens", "rows"])
    shape: list[int | str] = [1, heads.num_kv_heads, "past", heads.head_size]
    past_key = g.input("past_key", TensorProto.FLOAT, shape)
    past_value = g.input("past_value", TensorProto.FLOAT, shape)
    last = g.input("last", TensorProto.INT32, [1])
    total = g.input("total", TensorProto.INT32, [])
    first = g.constant([0])
    own = g.op(
        "Slice", keys_values, g.constant([PREFIX]), g.constant([np.iinfo(np.int64).max]), first
    )
    keys, values = g.ops("Split", own, count=2, num_outputs=2, axis=1)
    parts = (g.op("Unsqueeze", part, first) for part in (query, keys, values))
    outputs = g.ops(
        "GroupQueryAttention",
        *parts,
        past_key,
        past_value,
        last,
        total,
        "",
        "",
        "",
        mask,
        count=3,
        domain=CONTRIB,
        num_heads=heads.num_heads,
        kv_num_heads=heads.num_kv_heads,
    )
    g.output("attended", g.op("Squeeze", outputs[0], first), ["tokens", "width"])
