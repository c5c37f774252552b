"""Rounding of weights: within its bounds, and better where it knows the inputs."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from quantize.rounding.rounding import (
    ldl_factor,
    quantize_blocks,
    quantize_channels,
)


def correlated(rows: int, depth: int, seed: int = 0) -> np.ndarray:
    """Rows like a network's: a few directions hold most of their power."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((depth, depth)) * np.exp(-np.arange(depth) / (depth / 6))
    return (rng.standard_normal((rows, depth)) @ mixing.T).astype(np.float32)


def output_error(weight: np.ndarray, rounded: np.ndarray, inputs: np.ndarray) -> float:
    return float(np.square(inputs @ (rounded - weight).T).mean())


def unpacked(values: np.ndarray, scales: np.ndarray) -> np.ndarray:
    halves = np.stack([values & 15, values >> 4], axis=-1).astype(np.float32) - 8
    return (halves.reshape(*scales.shape, -1) * scales[:, :, None]).reshape(len(values), -1)


@settings(deadline=None, max_examples=60)
@given(
    channels=st.integers(1, 9),
    depth=st.integers(1, 80),
    spread=st.floats(0.01, 4),
    seed=st.integers(0, 999),
    is_compensated=st.booleans(),
)
def test_integers_are_as_near_as_their_range_allows(channels, depth, spread, seed, is_compensated):
    rng = np.random.default_rng(seed)
    weight = np.exp(spread * rng.standard_normal((channels, depth))).astype(np.float32)
    weight *= rng.choice([-1, 1], weight.shape)
    ldl = ldl_factor(correlated(40, depth, seed)) if is_compensated else None
    values, scales = quantize_channels(weight, ldl)
    assert (values.dtype, values.shape) == (np.int8, weight.shape)
    assert values.min() >= -127
    np.testing.assert_allclose(scales, np.abs(weight).max(axis=1) / 127, rtol=1e-6)
    if not is_compensated:
        assert (np.abs(values).max(axis=1) == 127).all()
        worst = np.abs(values * scales[:, None] - weight).max(axis=1)
        assert (worst <= 0.501 * scales).all()


@pytest.mark.parametrize("depth", [64, 65, 200])
def test_compensation_cuts_the_error_on_rows_it_has_not_seen(depth):
    weight = np.random.default_rng(1).standard_normal((48, depth)).astype(np.float32)
    inputs = correlated(4000, depth)
    seen, unseen = inputs[:2000], inputs[2000:]
    nearest, compensated = (
        values * scales[:, None]
        for values, scales in (
            quantize_channels(weight),
            quantize_channels(weight, ldl_factor(seen)),
        )
    )
    assert output_error(weight, compensated, unseen) < 0.6 * output_error(weight, nearest, unseen)


def test_compensation_is_as_good_as_gptq_in_its_published_form():
    """GPTQ inverts the moments and pushes errors on; ours factors them and pulls errors in."""
    depth = 96
    weight = np.random.default_rng(1).standard_normal((32, depth)).astype(np.float32)
    inputs = correlated(2000, depth)
    values, scales = quantize_channels(weight, ldl_factor(inputs))

    moments = (inputs.T @ inputs).astype(np.float64)
    damping = np.clip(0.25 * depth / len(inputs), 0.01, 1)
    moments += damping * np.diag(moments).mean() * np.eye(depth)
    reverse = slice(None, None, -1)  # from the last column to the first, as ours
    inverse = np.linalg.inv(moments[reverse, reverse])
    upper = np.linalg.cholesky(inverse).T
    work = weight[:, reverse].astype(np.float64)
    expected = np.empty_like(work)
    for k in range(depth):
        integers = np.clip(np.rint(work[:, k] / scales), -127, 127)
        expected[:, k] = integers
        error = (work[:, k] - integers * scales) / upper[k, k]
        work[:, k:] -= error[:, None] * upper[k, k:]
    assert (expected[:, reverse] == values).mean() > 0.99


def test_more_weights_than_rows_is_no_obstacle():
    weight = np.random.default_rng(1).standard_normal((16, 128)).astype(np.float32)
    values, scales = quantize_channels(weight, ldl_factor(correlated(4, 128)))
    assert np.abs(values * scales[:, None] - weight).max() < 0.2


def test_zeros_stay_zeros():
    zeros = np.zeros((4, 64), np.float32)
    for ldl in (None, ldl_factor(np.zeros((5, 64), np.float32))):
        values, scales = quantize_channels(zeros, ldl)
        assert not values.any()
        assert np.isfinite(scales).all()
    packed, scales = quantize_blocks(zeros, 32)
    assert not unpacked(packed, scales).any()


@pytest.mark.parametrize("is_compensated", [False, True])
def test_four_bits_are_laid_out_as_onnx_runtime_reads_them(is_compensated):
    weight = np.random.default_rng(0).standard_normal((24, 96)).astype(np.float32)
    inputs = correlated(300, 96)
    values, scales = quantize_blocks(weight, 32, ldl_factor(inputs) if is_compensated else None)
    node = helper.make_node(
        "MatMulNBits",
        ["x", "values", "scales"],
        ["y"],
        domain="com.microsoft",
        K=96,
        N=24,
        bits=4,
        block_size=32,
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [300, 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [300, 24])],
        [numpy_helper.from_array(values, "values"), numpy_helper.from_array(scales, "scales")],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (product,) = session.run(None, {"x": inputs})
    expected = inputs @ unpacked(values, scales).T
    np.testing.assert_allclose(product, expected, rtol=1e-4, atol=1e-3 * np.abs(expected).max())
    assert (
        output_error(weight, unpacked(values, scales), inputs)
        < 0.02 * np.square(inputs @ weight.T).mean()
    )
