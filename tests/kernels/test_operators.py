"""The row-wise operators against NumPy, and against the stock operators that they stand for.

The references are those of ``tests/support/layers.py``; stock operators are held to them too, so
that both are right.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from quantize.graph.builder import Graph
from quantize.graph.layers import (
    LEAST_GELU,
    FeedForward,
    Heads,
    Matrix,
    feed_forward,
    linear,
    projection,
)
from quantize.graph.precision import Int8, row_range
from quantize.rounding.rounding import quantize_channels
from tests.support.layers import (
    ACTIVATIONS,
    biased,
    distance_from_ties,
    integer_rows,
    normalised,
    product,
    random_matrix,
    random_norm,
    rotated,
)
from tests.support.operators import all_kernels, compute, each_instruction_set, rows_input

SEEDS = st.integers(0, 2**32 - 1)
ROWS = st.integers(1, 70)
WIDTHS = st.integers(1, 200)
some_shapes = settings(deadline=None, max_examples=12)

# Linear


def write_linear(g: Graph, matrix: Matrix, least, residual: bool, scales) -> dict[str, str]:
    columns, depth = matrix.weight.shape
    y = linear(
        g,
        Int8(),
        "site",
        rows_input(g, "x", depth),
        matrix,
        least=least,
        residual=rows_input(g, "residual", columns) if residual else "",
        residual_scales="" if scales is None else g.weight("residual_scales", scales),
    )
    return {"y": y}


@all_kernels
@some_shapes
@given(
    seed=SEEDS,
    rows=ROWS,
    depth=WIDTHS,
    columns=WIDTHS,
    bias=st.booleans(),
    least=st.sampled_from([None, LEAST_GELU]),
    residual=st.sampled_from(["none", "plain", "scaled"]),
)
@example(0, 1, 1, 1, False, None, "none")
@example(1, 70, 63, 65, True, None, "scaled")
@example(2, 13, 129, 128, True, LEAST_GELU, "plain")
def test_a_linear_layer_rounds_as_is_documented_bit_for_bit(
    kernels, seed, rows, depth, columns, bias, least, residual
):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, "matrix", columns, depth, bias)
    scales = rng.standard_normal(columns, np.float32) if residual == "scaled" else None
    x = rng.standard_normal((rows, depth), np.float32) * rng.choice([0.1, 1, 30], (rows, 1))
    x = x.astype(np.float32) if least is None else np.maximum(x, least).astype(np.float32)
    feeds = {"x": x, "residual": rng.standard_normal((rows, columns), np.float32)}
    y = compute(
        lambda g: write_linear(g, matrix, least, residual != "none", scales), kernels, feeds
    )["y"]

    real = product(x, matrix, row_range(least))
    terms = [real, np.float64(0 if matrix.bias is None else matrix.bias)]
    if residual != "none":
        terms.append(feeds["residual"] * np.float64(1 if scales is None else scales))
    assert (np.abs(y - sum(terms)) <= 1e-6 * sum(np.abs(term) for term in terms)).all()

    # the same in float32, operation by operation
    integers, steps = integer_rows(x, row_range(least))
    values, channel_scales = quantize_channels(matrix.weight)
    expected = (integers @ values.T.astype(np.int64)).astype(np.float32) * channel_scales * steps
    if matrix.bias is not None:
        expected = expected + matrix.bias
    if residual != "none":
        expected = expected + (feeds["residual"] if scales is None else feeds["residual"] * scales)
    np.testing.assert_array_equal(y, expected)


STRANGE_ROWS = {
    "of one number": np.full(37, 0.3),
    "of zeros": np.zeros(37),
    "of denormals": np.linspace(-1e-40, 1e-40, 37),
    "of tiny numbers": np.linspace(-1e-30, 1e-30, 37),
    "of huge numbers": np.linspace(-1e30, 1e30, 37),
    "of one huge number": np.where(np.arange(37) == 5, 3e38, 1.0),
    "of halves": np.append(np.arange(-17.5, 18), 127.0),  # all are ties
    "of negative numbers": np.linspace(-3, -1, 37),
    "with a negative zero": np.where(np.arange(37) == 5, -0.0, 1.0),
}


@each_instruction_set
@pytest.mark.parametrize("least", [None, LEAST_GELU])
@pytest.mark.parametrize("bias", [False, True])
def test_strange_rows_are_computed_as_by_stock_operators(kernels, least, bias):
    matrix = random_matrix(np.random.default_rng(3), "matrix", 70, 37, bias)
    x = np.array([*STRANGE_ROWS.values()], np.float32)
    got, stock = (
        compute(lambda g: write_linear(g, matrix, least, False, None), name, {"x": x})["y"]
        for name in (kernels, "stock")
    )
    # below the smallest normal number it depends on the thread whether there is anything
    got, stock = (np.where(np.abs(y) < 1e-37, 0, y) for y in (got, stock))
    for name, row, expected in zip(STRANGE_ROWS, got, stock, strict=True):
        np.testing.assert_array_equal(row, expected, err_msg=f"a row {name}")
    alone = compute(lambda g: write_linear(g, matrix, least, False, None), kernels, {"x": x[1:2]})
    np.testing.assert_array_equal(alone["y"], 0 * got[:1] if not bias else matrix.bias[None])


@each_instruction_set
def test_a_row_with_nan_or_infinity_leaves_the_others_alone(kernels):
    """What becomes of the row itself is not said: of NaN, stock operators make one or another."""
    rng = np.random.default_rng(4)
    matrix = random_matrix(rng, "matrix", 70, 37, True)
    x = rng.standard_normal((5, 37), np.float32)
    spoilt = x.copy()
    spoilt[1, 3], spoilt[2, 36], spoilt[4, 0] = np.nan, np.nan, np.inf
    whole, others = (
        compute(lambda g: write_linear(g, matrix, None, False, None), kernels, {"x": rows})["y"]
        for rows in (x, spoilt)
    )
    np.testing.assert_array_equal(others[[0, 3]], whole[[0, 3]])
    assert not np.isfinite(others[4]).any()


# Projection


@all_kernels
@some_shapes
@given(
    seed=SEEDS,
    rows=ROWS,
    depth=WIDTHS,
    norm=st.sampled_from([None, "layer", "layer with a bias", "rms"]),
    head_size=st.sampled_from([2, 6, 32, 64, 128]),
    num_heads=st.integers(0, 4),  # of queries, 0 for none
    num_kv_heads=st.integers(0, 2),
    bias=st.booleans(),
    head_norm=st.booleans(),
    is_rotated=st.booleans(),
)
@example(0, 70, 64, "rms", 128, 4, 1, False, True, True)
@example(1, 5, 33, None, 6, 1, 0, True, False, False)
@example(2, 1, 1, "layer", 2, 1, 1, True, True, True)
def test_a_projection_normalises_multiplies_and_places_heads(
    kernels,
    seed,
    rows,
    depth,
    norm,
    head_size,
    num_heads,
    num_kv_heads,
    bias,
    head_norm,
    is_rotated,
):
    """The normalised rows that the operator puts out are those that it rounds.

    Tolerance: a norm's and a rotation's few operations, of what a row or head has at most.
    """
    num_heads += not num_heads and not num_kv_heads
    rng = np.random.default_rng(seed)
    row_norm = norm and random_norm(rng, "norm", norm[:5].strip(), depth, "bias" in norm)

    def heads(name: str, count: int, columns: int) -> Heads | None:
        if not count:
            return None
        matrix = random_matrix(rng, name, columns, depth, bias)
        own = random_norm(rng, f"{name}.norm", "rms", head_size, False) if head_norm else None
        return Heads(matrix, count, head_size, own)

    queries = heads("query", num_heads, num_heads * head_size)
    keys_values = heads("key", num_kv_heads, 2 * num_kv_heads * head_size)
    turns = rng.uniform(-3, 3, (1, rows, head_size // 2))
    feeds = {
        "x": rng.standard_normal((rows, depth), np.float32) * np.float32(3) + np.float32(0.5),
        "cosines": np.cos(turns).astype(np.float32),
        "sines": np.sin(turns).astype(np.float32),
    }

    def write(g: Graph) -> dict[str, str]:
        shape = [1, "tokens", head_size // 2]
        angles = tuple(g.input(name, TensorProto.FLOAT, shape) for name in ("cosines", "sines"))
        projected = projection(
            g,
            Int8(),
            "site",
            rows_input(g, "x", depth),
            norm=row_norm,
            queries=queries,
            keys_values=keys_values,
            angles=angles if is_rotated else None,
            keeps_normed=True,
        )
        outputs = {"queries": projected.queries, "keys_values": projected.keys_values}
        if row_norm is not None:
            outputs["normed"] = projected.normed
        return {name: value for name, value in outputs.items() if value}

    got = compute(write, kernels, feeds)
    x = feeds["x"]
    if row_norm is not None:
        expected = normalised(x, row_norm)
        largest = np.abs(expected).max(axis=1, keepdims=True)
        assert (np.abs(got["normed"] - expected) <= 1e-5 * (1 + largest)).all()
        x = got["normed"]
    for name, part in (("queries", queries), ("keys_values", keys_values)):
        if part is None:
            continue
        y = biased(product(x, part.matrix, row_range(None)), part.matrix)
        placed = y[:, : part.count * head_size].reshape(rows, part.count, head_size)
        if part.norm is not None:
            placed = normalised(placed, part.norm)
        if is_rotated:
            placed = rotated(placed, feeds["cosines"], feeds["sines"])
        expected = np.concatenate([placed.reshape(rows, -1), y[:, part.count * head_size :]], 1)
        largest = np.abs(expected).max(axis=1, keepdims=True)
        assert (np.abs(got[name] - expected) <= 1e-5 * largest).all(), name


# FeedForward

RESIDUALS = {
    "the row": "row",
    "the normalised row": "normed",
    "a scaled normalised row": "normed",
    "nothing": "nothing",
}


@all_kernels
@some_shapes
@given(
    seed=SEEDS,
    rows=ROWS,
    width=WIDTHS,
    inner=WIDTHS,
    norm=st.sampled_from(["layer", "layer with a bias", "rms"]),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    is_gated=st.booleans(),
    bias=st.booleans(),
    adds=st.sampled_from(sorted(RESIDUALS)),
)
@example(0, 70, 64, 160, "rms", "silu", True, False, "the row")
@example(1, 13, 65, 130, "layer with a bias", "gelu", False, True, "a scaled normalised row")
@example(2, 1, 1, 1, "layer", "gelu_tanh", False, True, "the normalised row")
@example(3, 50, 96, 100, "layer", "gelu", True, False, "the row")
@example(4, 20, 64, 96, "rms", "gelu_tanh", True, False, "nothing")
def test_a_feed_forward_part_computes_its_function(
    kernels, seed, rows, width, inner, norm, activation, is_gated, bias, adds
):
    """Rows are compared in which no number lies where one more bit could round it otherwise.

    Tolerance: norms and activations are right to some units in the last place; where that makes a
    number round otherwise, a row is one step of one number off, and held to a percent.
    """
    rng = np.random.default_rng(seed)
    scales = rng.standard_normal(width, np.float32)
    part = FeedForward(
        "site",
        "inner site",
        random_norm(rng, "norm", norm[:5].strip(), width, "bias" in norm),
        activation,
        random_matrix(rng, "up", inner, width, bias),
        random_matrix(rng, "gate", inner, width, False) if is_gated else None,
        random_matrix(rng, "down", width, inner, bias),
        adds=RESIDUALS[adds],
        residual_scales="residual_scales" if "scaled" in adds else "",
    )
    x = rng.standard_normal((rows, width), np.float32)

    def write(g: Graph) -> dict[str, str]:
        g.weight("residual_scales", scales)
        return {"y": feed_forward(g, Int8(), rows_input(g, "x", width), part)}

    y = compute(write, kernels, {"x": x})["y"]
    normed = normalised(x, part.norm)
    symmetric = row_range(None)
    inner_range = row_range(LEAST_GELU if activation == "gelu" and not is_gated else None)
    outer = normed.astype(np.float32)
    up = biased(product(outer, part.activated, symmetric), part.activated)
    between = ACTIVATIONS[activation](up)
    if part.multiplied is not None:
        between = between * product(outer, part.multiplied, symmetric)
    between = between.astype(np.float32)
    expected = biased(product(between, part.down, inner_range), part.down)
    residual = {"row": x, "normed": normed, "nothing": np.zeros_like(normed)}[part.adds]
    expected = expected + residual * (scales if "scaled" in adds else 1)

    is_sure = (
        np.minimum(distance_from_ties(outer, symmetric), distance_from_ties(between, inner_range))
        > 1e-3
    )
    largest = np.abs(expected).max(axis=1, keepdims=True)
    errors = np.abs(y - expected) / np.maximum(largest, 1e-30)  # a row of zeros is right or not
    assert is_sure.any() or min(rows, width) < 20
    assert (errors[is_sure] <= 1e-5).all()
    assert (errors <= 0.1).all()
