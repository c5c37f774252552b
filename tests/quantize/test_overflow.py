"""int8 products are exact on every CPU, because no pair of weights can saturate 16 bits."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import TensorProto, helper, numpy_helper

from quantize.rounding.rounding import (
    PAIR_BOUND,
    SMALLEST_SCALE,
    quantize_channels,
    quantize_rows_blockwise,
)


def product(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Multiply uint8 [T, K] (zero point 128) by int8 [K, N] with ONNX Runtime's CPU kernel."""
    constants = {
        "weight": weight,
        "one": np.float32(1),
        "ones": np.ones(weight.shape[1], np.float32),
        "zero": np.uint8(128),
    }
    node = helper.make_node(
        "MatMulIntegerToFloat",
        ["rows", "weight", "one", "ones", "zero"],
        ["product"],
        domain="com.microsoft",
    )
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, list(rows.shape))],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"rows": rows})[0]


def worst_cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Rows and weights at the bound, in every sign and every split of a pair."""
    cases = []
    for left in (64, 127, 1, 128 - 32):
        for sign in (1, -1):
            weight = np.empty((256, 24), np.int8)
            weight[0::2], weight[1::2] = sign * left, sign * (PAIR_BOUND - left)
            for value in (0, 255):
                cases.append((np.full((5, 256), value, np.uint8), weight))
    return cases


def exact(rows: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return (rows.astype(np.int64) - 128) @ weight.astype(np.int64)


def check_worst_cases() -> None:
    for rows, weight in worst_cases():
        np.testing.assert_array_equal(product(rows, weight), exact(rows, weight))


def saturates() -> bool:
    """Whether this CPU's kernel gets weights above the bound wrong."""
    rows, weight = np.full((4, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    return bool((product(rows, weight) != exact(rows, weight)).any())


def test_worst_case_products_are_exact_on_this_cpu():
    check_worst_cases()


def test_worst_case_products_are_exact_on_a_cpu_without_vnni():
    """valgrind presents an AVX2 CPU without VNNI, whatever the machine has."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("valgrind is not installed; it stands in for a CPU without VNNI")
    program = (
        "from tests.quantize.test_overflow import check_worst_cases, saturates;"
        "assert saturates(), 'not a saturating CPU, so this proves nothing';"
        "check_worst_cases()"
    )
    subprocess.run(
        [valgrind, "--tool=none", "-q", sys.executable, "-c", program],
        check=True,
        cwd=Path(__file__).parents[2],
    )


def largest_pair(values: np.ndarray) -> int:
    """The largest sum of magnitudes of two neighbours along K, of int8 [K, N]."""
    magnitudes = np.abs(np.pad(values, ((0, values.shape[0] % 2), (0, 0))).astype(int))
    return int((magnitudes[0::2] + magnitudes[1::2]).max())


weights = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=17),
    elements=st.floats(-1e4, 1e4, width=32),
)


@settings(deadline=None)
@given(weight=weights)
def test_rounded_channels_keep_the_bound_and_stay_close(weight):
    values, scale = quantize_channels(weight)
    assert largest_pair(values) <= PAIR_BOUND
    assert np.abs(values.astype(int)).max() <= 127
    steps = np.abs(values - weight.T / scale.astype(np.float64))
    assert (steps <= 1.01).all()  # one step where a pair was lowered, else half
    assert (steps <= 0.51).mean() >= 0.5


@settings(deadline=None)
@given(weight=weights)
def test_scales_are_no_larger_than_the_bound_asks_for(weight):
    magnitudes = np.abs(np.pad(weight, ((0, 0), (0, weight.shape[1] % 2)))).astype(np.float64)
    pairs = magnitudes[:, 0::2] + magnitudes[:, 1::2]
    least = np.maximum(magnitudes.max(axis=1) / 127, pairs.max(axis=1) / PAIR_BOUND)
    _, scale = quantize_channels(weight)
    np.testing.assert_allclose(scale, np.where(least >= SMALLEST_SCALE, least, 1), rtol=1e-6)


@settings(deadline=None)
@given(table=arrays(np.float32, (5, 32), elements=st.floats(-1e4, 1e4, width=32)))
def test_embedding_rows_are_rounded_to_half_a_step(table):
    values, scale = quantize_rows_blockwise(table, 16)
    restored = (values.astype(np.float64) - 128) * np.repeat(scale, 16, axis=1)
    assert (np.abs(restored - table) <= 0.501 * np.repeat(scale, 16, axis=1)).all()


@pytest.mark.parametrize("name", ["qwen2", "cross-encoder", "embedding"])
def test_every_linear_layer_of_a_bundle_keeps_the_bound(bundles, name):
    model = onnx.load(bundles / f"{name}.int8" / "model.int8.onnx")
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    floats = [
        node
        for node in model.graph.node
        if node.op_type == "MatMul"
        and node.input[1] in weights
        and "classifier" not in node.input[1]
    ]
    assert len(layers) >= 6
    assert not floats
    for node in layers:
        values = numpy_helper.to_array(weights[node.input[1]])  # [K, N]
        assert values.dtype == np.int8
        assert largest_pair(values) <= PAIR_BOUND
