"""How fast is each compiled operator beside the stock operators that it stands for?

Row-wise parts of layers at the widths of real models, over a micro-batch's rows and over a short
document's, in turns; ``attention`` has attention. Rates are of the int8 products alone, over all of
the time. "stock / these" is how many times as long the stock operators took in the same round.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from onnx import TensorProto

from benchmarks.common import options
from benchmarks.common.record import Row, median
from benchmarks.common.turns import alternate, median_seconds, ratio
from edgerank.kernels import STOCK, choose_kernels
from edgerank.session import open_session
from quantize.graph.builder import Graph
from quantize.graph.int8 import Int8
from quantize.graph.layers import FeedForward, feed_forward, linear, projection
from quantize.graph.parameters import Heads, Matrix, Norm
from quantize.graph.rotary import rotary_angles, rotary_frequencies

NUM_ROWS = 512, 32
FEWEST_ROWS = 2048  # of a turn, which is the median of its calls


@dataclass(frozen=True)
class Part:
    """A part of a layer."""

    operator: str
    shape: str  # for people
    width: int  # of its rows
    weights: int  # of its int8 matrices
    write: Callable[[Graph, str], list[str]]  # from its rows to what it puts out


def matrix(name: str, depth: int, width: int, with_bias: bool = True) -> Matrix:
    """Draw a matrix."""
    rng = np.random.default_rng(depth + width)
    weight = rng.standard_normal((width, depth), np.float32) / np.float32(depth**0.5)
    return Matrix(name, weight, np.zeros(width, np.float32) if with_bias else None)


def norm(width: int, kind: str = "layer") -> Norm:
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    return Norm("norm", kind, ones, zeros if kind == "layer" else None, 1e-6)


def linear_part(depth: int, width: int) -> Part:
    def write(g: Graph, x: str) -> list[str]:
        residual = g.input("residual", TensorProto.FLOAT, ["tokens", width])
        down = matrix("matrix", depth, width)
        return [linear(g, Int8(), "site", x, down, residual=residual)]

    return Part("Linear, residual", f"{depth} to {width}", depth, depth * width, write)


def projection_part(width: int, num_heads: int, num_kv_heads: int, size: int) -> Part:
    """Project as an encoder does, and where keys have fewer heads, as a decoder."""
    queries, keys_values = num_heads * size, 2 * num_kv_heads * size
    is_decoder = num_kv_heads < num_heads

    def write(g: Graph, x: str) -> list[str]:
        positions = g.input("positions", TensorProto.INT64, ["tokens"]) if is_decoder else ""
        frequencies = rotary_frequencies(size, 10000)
        angles = rotary_angles(g, positions, frequencies) if is_decoder else None
        projected = projection(
            g,
            Int8(),
            "site",
            x,
            norm=norm(width, "rms") if is_decoder else None,
            queries=Heads(matrix("queries", width, queries), num_heads, size),
            keys_values=Heads(matrix("keys", width, keys_values), num_kv_heads, size),
            angles=angles,
        )
        return [projected.queries, projected.keys_values]

    shape = f"{width} to {queries} + {keys_values}"
    name = "Projection, normalised and rotated" if is_decoder else "Projection"
    return Part(name, shape, width, width * (queries + keys_values), write)


def feed_forward_part(width: int, inner: int, is_gated: bool) -> Part:
    def write(g: Graph, x: str) -> list[str]:
        part = FeedForward(
            site="site",
            inner_site="inner",
            norm=norm(width, "rms" if is_gated else "layer"),
            activation="silu" if is_gated else "gelu",
            activated=matrix("up", width, inner, with_bias=not is_gated),
            multiplied=matrix("gate", width, inner, with_bias=False) if is_gated else None,
            down=matrix("down", inner, width, with_bias=not is_gated),
            adds="row" if is_gated else "normed",
        )
        return [feed_forward(g, Int8(), x, part)]

    name = "FeedForward, gated SiLU" if is_gated else "FeedForward, GELU"
    weights = (3 if is_gated else 2) * width * inner
    return Part(name, f"{width}, {inner} inside", width, weights, write)


PARTS = (
    linear_part(384, 384),
    linear_part(1024, 1024),
    linear_part(1536, 1536),
    projection_part(384, 12, 12, 32),
    projection_part(1024, 16, 16, 64),
    projection_part(1536, 12, 2, 128),
    feed_forward_part(384, 1536, is_gated=False),
    feed_forward_part(1024, 4096, is_gated=False),
    feed_forward_part(1536, 1792, is_gated=True),  # a slice of 8960 inner channels
)


@options.kernels
@options.rounds(15)
@options.thread_counts
def measure(kernels: list[str], rounds: int, thread_counts: tuple[int, ...]) -> Iterator[Row]:
    for part in PARTS:
        with tempfile.TemporaryDirectory() as scratch:
            path = write_graph(part, Path(scratch))
            for threads in thread_counts:
                yield from compare(part, path, kernels, rounds, threads)


def write_graph(part: Part, scratch: Path) -> Path:
    """Write a graph of the part alone."""
    g = Graph(scratch / "part.onnx")
    x = g.input("x", TensorProto.FLOAT, ["tokens", part.width])
    for place, value in enumerate(part.write(g, x)):
        g.output(f"out.{place}", value, ["tokens", "width"])
    g.save()
    return g.path


def compare(part: Part, path: Path, kernels: list[str], rounds: int, threads: int) -> Iterator[Row]:
    """Time a part in turns; check that all kernels agree."""
    names = list(dict.fromkeys([STOCK, *kernels]))
    sessions = {
        name: open_session(path, threads=threads, kernels=choose_kernels(name)) for name in names
    }
    rng = np.random.default_rng(0)
    for num_rows in NUM_ROWS:
        feed = {
            value.name: np.arange(num_rows)
            if value.name == "positions"
            else rng.standard_normal((num_rows, value.shape[1]), np.float32)
            for value in sessions[STOCK].get_inputs()
        }
        runs = {name: partial(one.run, None, feed) for name, one in sessions.items()}
        expected = runs[STOCK]()
        for run in runs.values():
            for found, wanted in zip(run(), expected, strict=True):
                np.testing.assert_allclose(found, wanted, atol=0.1)  # rows may round another way
        turns = {
            name: partial(median_seconds, run, FEWEST_ROWS // num_rows)
            for name, run in runs.items()
        }
        times = {name: seconds[1:] for name, seconds in alternate(turns, rounds + 1).items()}
        for name, seconds in times.items():
            labels = {
                "operator": part.operator,
                "widths": part.shape,
                "rows": str(num_rows),
                "threads": str(threads),
                "kernels": name,
            }
            rate = 2.0 * part.weights * num_rows / seconds
            figures = {
                "time": median(seconds * 1e6, "µs"),
                "rate": median(rate / 1e9, "GOP/s"),
            }
            if name != STOCK:
                figures["stock / these"] = median(ratio(times[STOCK], seconds), "×")
            yield Row(labels, figures)
