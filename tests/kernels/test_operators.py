"""The row-wise operators against NumPy, and against the stock operators that they stand for.

The references are those of ``tests/support/layers.py``; stock operators are held to them too, so
that both are right.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from quantize.graph.builder import Graph
from quantize.graph.int8 import FineInt8, Int8
from quantize.graph.layers import LEAST_GELU, FeedForward, feed_forward, linear, projection
from quantize.graph.parameters import Heads, Matrix, Norm
from quantize.graph.precision import Float32, Precision, RowRange, row_range
from quantize.rounding import mixing
from quantize.rounding.rounding import quantize_channels
from tests.support.layers import (
    ACTIVATIONS,
    biased,
    distance_from_ties,
    integer_rows,
    mixed,
    normalised,
    product,
    random_matrix,
    random_norm,
    rests_of_rows,
    rests_of_weights,
    rotated,
)
from tests.support.operators import all_kernels, compute, each_instruction_set, rows_input

SEEDS = st.integers(0, 2**32 - 1)
ROWS = st.integers(1, 70)
WIDTHS = st.integers(1, 200)
some_shapes = settings(deadline=None, max_examples=12)
REFINED = st.sampled_from(["none", "first", "last", "some", "all"])
PRECISIONS = st.sampled_from([Int8, FineInt8])


def refined_rows(which: str, rows: int, rng: np.random.Generator) -> np.ndarray:
    """Choose rows that are rounded in two terms."""
    some = np.flatnonzero(rng.random(rows) < 0.3)  # may be none of them
    chosen = {"none": [], "first": [0], "last": [rows - 1], "some": some, "all": range(rows)}
    return np.array(chosen[which], np.int64)


def refined_input(g: Graph) -> str:
    return g.input("refined", TensorProto.INT64, ["refined"])


# Linear


def write_linear(
    g: Graph,
    matrix: Matrix,
    least,
    residual: bool,
    scales,
    refined: bool = False,
    precision: type[Int8] = Int8,
) -> dict[str, str]:
    columns, depth = matrix.weight.shape
    y = linear(
        g,
        precision(),
        "site",
        rows_input(g, "x", depth),
        matrix,
        least=least,
        residual=rows_input(g, "residual", columns) if residual else "",
        residual_scales="" if scales is None else g.weight("residual_scales", scales),
        refined=refined_input(g) if refined else "",
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
    refined=REFINED,
    precision=PRECISIONS,
)
@example(0, 1, 1, 1, False, None, "none", "none", Int8)
@example(1, 70, 63, 65, True, None, "scaled", "some", Int8)
@example(2, 13, 129, 128, True, LEAST_GELU, "plain", "all", Int8)
@example(3, 70, 96, 100, True, None, "plain", "last", FineInt8)
@example(4, 70, 63, 65, True, LEAST_GELU, "scaled", "some", FineInt8)
@example(5, 13, 129, 128, False, None, "none", "all", FineInt8)
def test_a_linear_layer_rounds_as_is_documented_bit_for_bit(
    kernels, seed, rows, depth, columns, bias, least, residual, refined, precision
):
    rng = np.random.default_rng(seed)
    matrix = random_matrix(rng, "matrix", columns, depth, bias)
    scales = rng.standard_normal(columns, np.float32) if residual == "scaled" else None
    x = rng.standard_normal((rows, depth), np.float32) * rng.choice([0.1, 1, 30], (rows, 1))
    x = x.astype(np.float32) if least is None else np.maximum(x, least).astype(np.float32)
    chosen = refined_rows(refined, rows, rng)
    feeds = {"x": x, "residual": rng.standard_normal((rows, columns), np.float32)}
    feeds["refined"] = chosen
    y = compute(
        lambda g: write_linear(
            g, matrix, least, residual != "none", scales, refined=True, precision=precision
        ),
        kernels,
        feeds,
    )["y"]

    is_fine = precision is FineInt8
    first, both = (
        product(x, matrix, row_range(least), rows, refines_weights=is_fine) for rows in ((), chosen)
    )
    terms = [first, both - first, np.float64(0 if matrix.bias is None else matrix.bias)]
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
    rests = rests_of_rows(x[chosen], row_range(least)) @ values.T.astype(np.int64)
    units = np.float32(row_range(least).units)
    terms_of_rows = rests.astype(np.float32) * channel_scales / units
    if is_fine:
        others, other_scales = rests_of_weights(matrix)
        sums = integers[chosen] @ others.T.astype(np.int64)
        terms_of_rows = terms_of_rows + sums.astype(np.float32) * other_scales
    expected[chosen] += terms_of_rows * steps[chosen]
    np.testing.assert_array_equal(y, expected)
    assert expected.dtype == np.float32


@all_kernels
def test_a_refined_row_is_a_hundred_times_closer_to_what_its_float_would_give(kernels):
    rng = np.random.default_rng(7)
    matrix = random_matrix(rng, "matrix", 64, 384, False)
    x = rng.standard_normal((60, 384), np.float32)
    chosen = np.array([5, 17, 18, 59])
    y = compute(
        lambda g: write_linear(g, matrix, None, False, None, refined=True),
        kernels,
        {"x": x, "refined": chosen},
    )["y"]
    values, scales = quantize_channels(matrix.weight)
    errors = np.abs(y - np.float64(x) @ (np.float64(values.T) * scales)).mean(axis=1)
    assert errors[chosen].max() < np.delete(errors, chosen).min() / 100


@all_kernels
def test_a_row_in_two_terms_times_weights_in_two_terms_is_next_to_exact(kernels):
    rng = np.random.default_rng(7)
    matrix = random_matrix(rng, "matrix", 64, 384, False)
    x = rng.standard_normal((60, 384), np.float32)
    chosen = np.array([5, 17, 18, 59])
    y = compute(
        lambda g: write_linear(g, matrix, None, False, None, refined=True, precision=FineInt8),
        kernels,
        {"x": x, "refined": chosen},
    )["y"]
    errors = np.abs(y - np.float64(x) @ np.float64(matrix.weight.T)).mean(axis=1)
    assert errors[chosen].max() < np.delete(errors, chosen).min() / 50


@each_instruction_set
@pytest.mark.parametrize("numbers", [[-1], [5], [3, 2], [1, 1]])
def test_refined_rows_that_are_none_or_not_ascending_are_refused(kernels, numbers):
    matrix = random_matrix(np.random.default_rng(8), "matrix", 8, 8, False)
    feeds = {"x": np.ones((5, 8), np.float32), "refined": np.array(numbers, np.int64)}
    with pytest.raises(Exception, match="refined rows must be numbers of rows, ascending"):
        compute(lambda g: write_linear(g, matrix, None, False, None, refined=True), kernels, feeds)


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
@pytest.mark.parametrize("is_refined", [False, True])
def test_strange_rows_are_computed_as_by_stock_operators(kernels, least, bias, is_refined):
    matrix = random_matrix(np.random.default_rng(3), "matrix", 70, 37, bias)
    x = np.array([*STRANGE_ROWS.values()], np.float32)
    feeds = {"x": x, "refined": np.arange(len(x) if is_refined else 0)}
    got, stock = (
        compute(lambda g: write_linear(g, matrix, least, False, None, refined=True), name, feeds)[
            "y"
        ]
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


def rounding_of_means(x: np.ndarray, norm: Norm) -> np.ndarray:
    """Return what rounding a row's mean to float32 does to its norm, before the gain: [T, 1].

    It weighs more, the closer the numbers of a row lie.
    """
    if norm.kind != "layer":
        return np.zeros((len(x), 1))
    x = np.float64(x)
    deviation = np.sqrt(x.var(axis=1, keepdims=True) + norm.epsilon)
    return np.finfo(np.float32).eps * np.abs(x).max(axis=1, keepdims=True) / deviation


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
    refined=REFINED,
    precision=PRECISIONS,
)
@example(0, 70, 64, "rms", 128, 4, 1, False, True, True, "some", Int8)
@example(1, 5, 33, None, 6, 1, 0, True, False, False, "last", Int8)
@example(2, 1, 1, "layer", 2, 1, 1, True, True, True, "all", FineInt8)
@example(3, 70, 64, "rms", 64, 2, 1, True, False, True, "some", FineInt8)
@example(4, 9, 64, None, 64, 0, 1, True, False, False, "all", FineInt8)
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
    refined,
    precision,
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
        "refined": refined_rows(refined, rows, rng),
    }

    def write(g: Graph) -> dict[str, str]:
        shape = [1, "tokens", head_size // 2]
        angles = tuple(g.input(name, TensorProto.FLOAT, shape) for name in ("cosines", "sines"))
        projected = projection(
            g,
            precision(),
            "site",
            rows_input(g, "x", depth),
            norm=row_norm,
            queries=queries,
            keys_values=keys_values,
            angles=angles if is_rotated else None,
            keeps_normed=True,
            refined=refined_input(g),
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
        tolerance = 1e-5 + rounding_of_means(x, row_norm)
        assert (np.abs(got["normed"] - expected) <= tolerance * (1 + largest)).all()
        x = got["normed"]
    for name, part in (("queries", queries), ("keys_values", keys_values)):
        if part is None:
            continue
        is_fine = precision is FineInt8
        real = product(x, part.matrix, row_range(None), feeds["refined"], refines_weights=is_fine)
        y = biased(real, part.matrix)
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
    refined=REFINED,
    precision=PRECISIONS,
)
@example(0, 70, 64, 160, "rms", "silu", True, False, "the row", "last", Int8)
@example(
    1, 13, 65, 130, "layer with a bias", "gelu", False, True, "a scaled normalised row", "all", Int8
)
@example(2, 1, 1, 1, "layer", "gelu_tanh", False, True, "the normalised row", "first", FineInt8)
@example(3, 50, 96, 100, "layer", "gelu", True, False, "the row", "some", Int8)
@example(4, 20, 64, 96, "rms", "gelu_tanh", True, False, "nothing", "none", FineInt8)
@example(5, 40, 32, 512, "rms", "silu", True, False, "the row", "some", FineInt8)
@example(7, 13, 65, 130, "layer", "gelu", False, True, "the row", "all", FineInt8)
@example(6, 60, 32, 768, "rms", "silu", True, False, "the row", "none", Int8)
@example(  # the numbers of a row lie close
    362977, 7, 3, 200, "layer with a bias", "gelu", True, False, "the row", "none", Int8
)
def test_a_feed_forward_part_computes_its_function(
    kernels, seed, rows, width, inner, norm, activation, is_gated, bias, adds, refined, precision
):
    """Rows are compared in which no number lies where one more bit could round it otherwise.

    Tolerance: norms and activations are right to some units in the last place; where that makes a
    number round otherwise, a row is one step of one number off, and held to a percent. A refined
    row has so many more such borders that all are near one, but its steps are finer, too.
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
    chosen = refined_rows(refined, rows, rng)

    def write(g: Graph) -> dict[str, str]:
        g.weight("residual_scales", scales)
        y = feed_forward(g, precision(), rows_input(g, "x", width), part, refined_input(g))
        return {"y": y}

    y = compute(write, kernels, {"x": x, "refined": chosen})["y"]
    normed = normalised(x, part.norm)
    symmetric = row_range(None)
    inner_range = row_range(LEAST_GELU if activation == "gelu" and not is_gated else None)
    outer = normed.astype(np.float32)

    def multiply(x: np.ndarray, matrix: Matrix, range_: RowRange) -> np.ndarray:
        return product(x, matrix, range_, chosen, refines_weights=precision is FineInt8)

    up = biased(multiply(outer, part.activated, symmetric), part.activated)
    between, block = ACTIVATIONS[activation](up), 0
    size = np.abs(up).max() * np.abs(part.down.weight).max()
    if part.multiplied is not None:
        factors = multiply(outer, part.multiplied, symmetric)
        between, size = between * factors, size * np.abs(factors).max()
        block = next((size for size in (256, 128, 64, 32, 16) if inner % size == 0), 0)
    between = mixed(between, block).astype(np.float32)
    # by the quantizer's own arithmetic, or else a weight might round otherwise
    mixed_down = mixing.mixed(part.down.weight, block) / np.float32(block or 1)
    np.testing.assert_allclose(mixed(mixed_down, block), part.down.weight, rtol=0, atol=1e-5)
    down = replace(part.down, weight=mixed_down)
    expected = biased(multiply(between, down, inner_range), part.down)
    residual = {"row": x, "normed": normed, "nothing": np.zeros_like(normed)}[part.adds]
    expected = expected + residual * (scales if "scaled" in adds else 1)

    is_sure = (
        np.minimum(distance_from_ties(outer, symmetric), distance_from_ties(between, inner_range))
        > 1e-3
    )
    largest = np.abs(expected).max(axis=1, keepdims=True)
    # activation functions are exact to a part of what they read, not of the nearly 0 in their tails
    errors = np.abs(y - expected) / np.maximum(largest, max(0.01 * size, 1e-12))
    assert is_sure.any() or min(rows, width) < 20
    is_refined = np.isin(np.arange(rows), chosen)
    # the matrices and the products of a gated part multiply what a norm's mean was rounded by
    tolerance = 1e-5 + 10 * rounding_of_means(x, part.norm)
    assert (errors <= tolerance)[is_sure & ~is_refined].all()
    assert (errors[is_refined] <= 1e-3).all()
    assert (errors <= 0.1).all()


# Mixed channels


@all_kernels
@pytest.mark.parametrize("width", [16, 48, 256, 640])
def test_outliers_in_a_few_channels_cost_mixed_rows_less(kernels, width):
    """Each operator computes its function, and is closer to it than without mixing."""
    rng = np.random.default_rng(width)
    x = rng.standard_normal((30, width), np.float32)
    x[:, [3, width // 2]] *= 40
    norm = replace(random_norm(rng, "norm", "rms", width, False), gain=np.ones(width, np.float32))
    query, matrix = (random_matrix(rng, name, 64, width, True) for name in ("query", "matrix"))
    up, gate = (random_matrix(rng, name, 96, width, False) for name in ("up", "gate"))
    down = random_matrix(rng, "down", 64, 96, False)
    part = FeedForward(
        "s", "i", replace(norm, name="other"), "silu", up, gate, down, adds="nothing"
    )

    def write(g: Graph, mixes: bool, precision: Precision) -> dict[str, str]:
        rows = rows_input(g, "x", width)
        heads = Heads(query, 1, 64)
        projected = projection(g, precision, "s", rows, norm=norm, queries=heads, mixes=mixes)
        outputs = {"projection": projected.queries}
        g.scope = "linear"
        outputs["linear"] = linear(g, precision, "s", rows, matrix, mixes=mixes)
        g.scope = "feed-forward"
        outputs["feed-forward"] = feed_forward(g, precision, rows, replace(part, mixes=mixes))
        return outputs

    exact = compute(lambda g: write(g, False, Float32()), kernels, {"x": x})
    plain, better = (
        compute(lambda g, mixes=mixes: write(g, mixes, Int8()), kernels, {"x": x})
        for mixes in (False, True)
    )
    for name, expected in exact.items():
        spread = expected.std()
        mistakes = [np.sqrt(np.square(got[name] - expected).mean()) for got in (plain, better)]
        assert mistakes[1] < 0.02 * spread, name
        assert mistakes[1] < 0.8 * mistakes[0], name
