"""Operators against their parts, in microseconds: the measurements behind the graphs' shape.

* SkipLayerNormalization and BiasGelu, which ONNX Runtime's optimiser would put in, against Add with
  LayerNormalization and Gelu
* Softmax with none and with half of its keys masked: exp leaves denormals for masked keys
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnx import TensorProto

from edgerank.cpu import physical_cores
from quantize.graph.builder import CONTRIB, Graph

ROUNDS = 30
SHAPES = ((512, 384), (512, 1536), (256, 768))


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


Writer = Callable[[Graph, str, str, str], str]


def main() -> None:
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
        print(f"{rows} x {columns}")
        for name, microseconds in measure(cases, y).items():
            print(f"  {name:<30}{microseconds:>8.0f}")


def measure(cases: dict[str, tuple[Writer, np.ndarray]], y: np.ndarray) -> dict[str, float]:
    """Time all cases in turns, by the median."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = physical_cores()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.force_spinning_stop", "1")  # sessions take turns
    sessions = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, (write, x) in cases.items():
            g = Graph(Path(scratch) / "operators.onnx")
            inputs = [g.input(value, TensorProto.FLOAT, list(x.shape)) for value in ("x", "y")]
            vector = g.weight("vector", np.ones(x.shape[1], np.float32))
            g.output("out", write(g, *inputs, vector), list(x.shape))
            g.save()
            sessions[name] = ort.InferenceSession(
                str(g.path), options, providers=["CPUExecutionProvider"]
            )
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            values = {"x": cases[name][1], "y": y}
            feed = {given.name: values[given.name] for given in session.get_inputs()}
            start = time.perf_counter()
            session.run(None, feed)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) * 1e6 for name, times in seconds.items()}


if __name__ == "__main__":
    main()
