"""How long do operators take beside the parts that they could be made of?

* SkipLayerNormalization and BiasGelu, which ONNX Runtime's optimiser would put in, against Add with
  LayerNormalization and Gelu
* Softmax with none and with half of its keys masked: exp leaves denormals for masked keys
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto

from benchmarks.common import options
from benchmarks.common.record import Row, median
from benchmarks.common.turns import take_turns
from edgerank.manifest import CPU_PROVIDER
from quantize.graph.builder import Graph
from quantize.graph.functions import CONTRIB

SHAPES = ((512, 384), (512, 1536), (256, 768))
Writer = Callable[[Graph, str, str, str], str]


@options.rounds(30)
@options.threads
def measure(rounds: int, threads: int) -> Iterator[Row]:
    for rows, columns in SHAPES:
        rng = np.random.default_rng(0)
        x, y = (rng.standard_normal((rows, columns), np.float32) for _ in range(2))
        masked = np.where(np.arange(columns) < columns // 2, x, np.float32(-1e9))
        cases: dict[str, tuple[Writer, np.ndarray]] = {
            "SkipLayerNormalization": (skip_norm, x),
            "Add, Add, LayerNormalization": (add_norm, x),
            "BiasGelu": (bias_gelu, x),
            "Add, Gelu": (add_gelu, x),
            "Softmax": (softmax, x),
            "Softmax, half masked": (softmax, masked),
        }
        runs = {
            name: open_operators(write, {"x": values, "y": y}, threads)
            for name, (write, values) in cases.items()
        }
        for name, seconds in take_turns(runs, rounds).items():
            labels = {"operators": name, "rows × columns": f"{rows} × {columns}"}
            yield Row(labels, {"time": median(seconds * 1e6, "µs")})


def open_operators(
    write: Writer, values: dict[str, np.ndarray], threads: int
) -> Callable[[], object]:
    """Return a run of operators in a session like the engine's, but that leaves denormals."""
    rows, columns = values["x"].shape
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session_options.add_session_config_entry("session.force_spinning_stop", "1")
    with tempfile.TemporaryDirectory() as scratch:
        g = Graph(Path(scratch) / "operators.onnx")
        inputs = [g.input(name, TensorProto.FLOAT, [rows, columns]) for name in values]
        vector = g.weight("vector", np.ones(columns, np.float32))
        g.output("out", write(g, *inputs, vector), [rows, columns])
        g.save()
        session = ort.InferenceSession(str(g.path), session_options, providers=[CPU_PROVIDER])
    taken = [value.name for value in session.get_inputs()]
    return partial(session.run, None, {name: values[name] for name in taken})


def skip_norm(g: Graph, x: str, y: str, vector: str) -> str:
    return g.op("SkipLayerNormalization", x, y, vector, vector, vector, domain=CONTRIB)


def add_norm(g: Graph, x: str, y: str, vector: str) -> str:
    total = g.op("Add", g.op("Add", x, vector), y)
    return g.op("LayerNormalization", total, vector, vector, axis=-1)


def bias_gelu(g: Graph, x: str, y: str, vector: str) -> str:
    return g.op("BiasGelu", x, vector, domain=CONTRIB)


def add_gelu(g: Graph, x: str, y: str, vector: str) -> str:
    return g.op("Gelu", g.op("Add", x, vector))


def softmax(g: Graph, x: str, y: str, vector: str) -> str:
    return g.op("Softmax", x, axis=-1)
