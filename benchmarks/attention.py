"""Two ways for packed sequences to attend, by the milliseconds of one layer's attention.

* flat: all tokens against all tokens, under a mask that hides other documents
* grid: sequences gathered into a padded grid, attended to, and gathered back

Both on ONNX Runtime's CPU provider: ai.onnx Attention for both, and com.microsoft
GroupQueryAttention, which takes the prefix as its past, for flat decoders.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto

from edgerank.cpu import physical_cores
from edgerank.packing import attention_grid
from quantize.graph.blocks import attention, declare_inputs
from quantize.graph.builder import CONTRIB, Graph

PREFIX = 40


@dataclass(frozen=True)
class Heads:
    """A model's attention geometry."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_size: int
    causal: bool


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
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=physical_cores())
    arguments = parser.parse_args()
    print(
        f"{'ms a layer':<24}{'documents':>10}{'flat':>9}{'flat GQA':>10}{'grid':>9}"
        f"{'flat/grid':>11}"
    )
    for heads in MODELS:
        for label, lengths in LENGTHS.items():
            times = measure(heads, lengths, arguments.rounds, arguments.threads)
            best = min(value for name, value in times.items() if name != "grid")
            gqa = f"{times['flat GQA']:.2f}" if heads.causal else ""
            print(
                f"{heads.name:<24}{label:>10}{times['flat']:>9.2f}{gqa:>10}{times['grid']:>9.2f}"
                f"{best / times['grid']:>11.1f}"
            )


def measure(heads: Heads, lengths: list[int], rounds: int, threads: int) -> dict[str, float]:
    """Time all ways in turns; check that they agree."""
    feeds = inputs(heads, lengths)
    writers = {"flat": write_flat, "grid": write_grid}
    if heads.causal:
        writers["flat GQA"] = write_flat_gqa
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")  # sessions take turns
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    sessions, outputs = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, write in writers.items():
            g = Graph(Path(scratch) / f"{name}.onnx")
            write(g, heads)
            g.save()
            sessions[name] = ort.InferenceSession(
                str(g.path), options, providers=["CPUExecutionProvider"]
            )
    seconds: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(rounds + 2):
        for name, session in sessions.items():
            feed = {value.name: feeds[value.name] for value in session.get_inputs()}
            start = time.perf_counter()
            (outputs[name],) = session.run(["attended"], feed)
            seconds[name].append(time.perf_counter() - start)
    for output in outputs.values():
        np.testing.assert_allclose(output, outputs["grid"], atol=1e-4)
    return {name: statistics.median(times[2:]) * 1e3 for name, times in seconds.items()}


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
    shape = [1, heads.num_kv_heads, "past", heads.head_size]
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


if __name__ == "__main__":
    main()
