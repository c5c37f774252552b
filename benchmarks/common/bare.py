"""The machine's bare matrix rates: a layer's products and nothing else, int8 or float32."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from benchmarks.common.checkpoints import MXBAI_LARGE_V2
from benchmarks.common.layers import Layer, decoder_layer
from edgerank.session import open_session

LARGE = decoder_layer(MXBAI_LARGE_V2)
ROWS, CALLS = 512, 8  # of a run


@dataclass(frozen=True)
class Products:
    """A layer's matrix products on ROWS rows, CALLS times a run."""

    run: Callable[[], object]
    operations: float  # multiplications and additions of a run

    def best_seconds(self, seconds: float) -> float:
        """Run for so long, twice at least: the least seconds of a run.

        A limit is what the machine does at its best.
        """
        times: list[float] = []
        while sum(times) < seconds or len(times) < 2:
            start = time.perf_counter()
            self.run()
            times.append(time.perf_counter() - start)
        return min(times)


def bare_products(dtype: type, threads: int, layer: Layer = LARGE) -> Products:
    """Set up the products of a layer.

    :param dtype: np.int8 for uint8 rows by int8 weights, or np.float32
    """
    is_rounded = dtype == np.int8
    rng = np.random.default_rng(0)
    model = _products_model(rng, is_rounded, layer).SerializeToString()
    session = open_session(model, threads=threads)
    kind = np.uint8 if is_rounded else np.float32
    feed = {
        f"rows.{depth}": rng.integers(0, 256, (ROWS, depth)).astype(kind)
        for depth in {depth for depth, _ in layer.matrices.values()}
    }
    weights = sum(depth * width for depth, width in layer.matrices.values())
    return Products(
        lambda: [session.run(None, feed) for _ in range(CALLS)], 2.0 * ROWS * CALLS * weights
    )


def _products_model(rng: np.random.Generator, is_rounded: bool, layer: Layer) -> ModelProto:
    nodes, outputs = [], []
    constants: dict[str, np.ndarray] = {
        "one": np.array(1, np.float32),
        "zero": np.array(128, np.uint8),
    }
    for name, (depth, width) in layer.matrices.items():
        weight = rng.integers(-64, 65, (depth, width))
        constants[name] = weight.astype(np.int8 if is_rounded else np.float32)
        constants[f"{name}.scales"] = np.ones(width, np.float32)
        if is_rounded:
            inputs = [f"rows.{depth}", name, "one", f"{name}.scales", "zero"]
            node = helper.make_node("MatMulIntegerToFloat", inputs, [f"{name}.out"])
            node.domain = "com.microsoft"
        else:
            node = helper.make_node("MatMul", [f"rows.{depth}", name], [f"{name}.out"])
        nodes.append(node)
        outputs.append(helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, None))
    element = TensorProto.UINT8 if is_rounded else TensorProto.FLOAT
    rows = [
        helper.make_tensor_value_info(f"rows.{depth}", element, [ROWS, depth])
        for depth in sorted({depth for depth, _ in layer.matrices.values()})
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bare", rows, outputs, initializers)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
