"""The row-wise parts of layers: projections, linear layers, feed-forward parts.

Each is written in stock operators by the precision at hand. Where it multiplies by int8 matrices it
then becomes the body of one compiled operator, whose sources are in ``edgerank/kernels/src``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from quantize.graph.builder import Graph
from quantize.graph.functions import CONTRIB
from quantize.graph.parameters import Heads, Matrix, Norm
from quantize.graph.precision import (
    ALL,
    ChannelSlice,
    MatmulInput,
    Precision,
    add_rests,
    row_range,
)
from quantize.graph.rotary import Angles

NORMS = {"layer": 1, "rms": 2}  # numbers of the compiled operators
ACTIVATIONS = {"gelu": 1, "gelu_tanh": 2, "silu": 3}
LEAST_GELU = -0.17  # x Φ(x) has its minimum of -0.16997 at x = -0.7518


@dataclass(frozen=True)
class Projected:
    """Results of ``projection``."""

    queries: str  # [T, heads · size], "" if there are none
    keys_values: str  # float32 [T, 2 · kv heads · size], likewise
    normed: str  # float32 [T, K], the rows that were multiplied


def projection(
    g: Graph,
    precision: Precision,
    site: str,
    x: str,
    *,
    norm: Norm | None = None,
    queries: Heads | None = None,
    keys_values: Heads | None = None,
    angles: Angles | None = None,
    keeps_normed: bool = False,
    mixes: bool = False,
    refined: str = "",
) -> Projected:
    """Normalise rows and multiply them to queries, and to keys and values.

    :param x: float32 [T, K]
    :param angles: by which queries and keys are rotated
    :param keeps_normed: whether something else reads the normalised rows
    :param mixes: whether the rows' channels are mixed before they are rounded
    :param refined: int64 [R], ascending, the rows that are rounded in two terms; "" for none
    """
    start = g.num_nodes
    normed = x if norm is None else norm.write(g, x)
    parts = [part for part in (queries, keys_values) if part is not None]
    width = parts[0].matrix.weight.shape[1]
    block = precision.mixed_block(width) if mixes else 0
    rows = precision.rows(g, MatmulInput(site, normed, mixed_block=block, refined=refined))
    products = [part.write(g, precision, rows, angles) for part in parts]
    if precision.has_kernels([part.matrix.name for part in parts]):
        outputs = [*products, normed] if keeps_normed and norm is not None else products
        inputs = [x, rows.zero_point, *(norm.weights if norm else ("", "")), *(angles or ("", ""))]
        for part in (queries, keys_values):
            inputs += [""] * 5 if part is None else part.weights
        inputs += [rows.mixing, rows.refined]
        for part in (queries, keys_values):
            inputs += [""] * 3 if part is None else part.matrix.rests(g)
        head_norm = next((part.norm for part in parts if part.norm), None)
        g.outline(
            "Projection",
            start,
            inputs,
            outputs,
            width=width,
            norm=NORMS[norm.kind] if norm else None,
            epsilon=norm.epsilon if norm else None,
            head_epsilon=head_norm.epsilon if head_norm else None,
            head_size=parts[0].size,
            num_heads=queries.count if queries else None,
            num_kv_heads=keys_values.count if keys_values else None,
            mixed_block=block or None,
        )
    named = dict(zip(map(id, parts), products, strict=True))
    return Projected(named.get(id(queries), ""), named.get(id(keys_values), ""), normed)


def linear(
    g: Graph,
    precision: Precision,
    site: str,
    x: str,
    matrix: Matrix,
    *,
    least: float | None = None,
    residual: str = "",
    residual_scales: str = "",
    mixes: bool = False,
    refined: str = "",
) -> str:
    """Compute x · weightᵀ + bias + residual * residual_scales: [..., N].

    It has the type of the residual, or of what the precision has between matrices.

    :param x: [..., K]
    :param least: a small negative number that no element of ``x`` is below
    :param residual: float32 [..., N], "" for none
    :param residual_scales: float32 [N], "" for ones
    :param mixes: whether channels of an ``x`` [T, K] are mixed before they are rounded
    :param refined: int64 [R], ascending, the rows of an ``x`` [T, K] that are rounded in two terms
    """
    start = g.num_nodes
    width = matrix.weight.shape[1]
    block = precision.mixed_block(width) if mixes else 0
    rows = precision.rows(g, MatmulInput(site, x, None, least, ALL, block, refined))
    added = _scaled_residual(g, residual, residual_scales) if residual else ""
    y = matrix.write(g, precision, rows, added)
    if precision.has_kernels([matrix.name]):
        inputs = [x, rows.zero_point, *matrix.weights, residual, residual_scales]
        inputs += [rows.mixing, rows.refined, *matrix.rests(g)]
        floor = row_range(least).floor
        g.outline("Linear", start, inputs, [y], width=width, floor=floor, mixed_block=block or None)
    return y


@dataclass(frozen=True)
class FeedForward:
    """down(activation(activated(n)) * multiplied(n)) + residual, where n is the normalised row.

    The residual is the row, n, or nothing.
    """

    site: str  # of the normalised rows
    inner_site: str  # of what down reads
    norm: Norm
    activation: Literal["gelu", "gelu_tanh", "silu"]
    activated: Matrix  # [I, H]
    multiplied: Matrix | None  # [I, H], without a bias; None for a factor of 1
    down: Matrix  # [H, I]
    adds: Literal["row", "normed", "nothing"] = "row"
    residual_scales: str = ""  # of the normalised row, float32 [H]; "" for ones
    mixes: bool = False  # whether channels of the normalised rows are mixed before rounding


def feed_forward(
    g: Graph, precision: Precision, x: str, part: FeedForward, refined: str = ""
) -> str:
    """Write a feed-forward part, with its residual if it has one: [T, H] to [T, H].

    The result has the type of the residual, or of what the precision has between matrices.

    What lies between the matrices is the widest tensor, which several stock operators go over. A
    slice of its channels after the other stays in the cache meanwhile, and has steps of its own.

    :param refined: int64 [R], ascending, the rows that are rounded in two terms; "" for none
    """
    part.norm.declare(g, x)
    total = x if part.adds == "row" else ""
    for channels in precision.slices(part.down.weight.shape[1]):
        total = _slice(g, precision, x, part, channels, total, refined)
    return total


def _slice(
    g: Graph,
    precision: Precision,
    x: str,
    part: FeedForward,
    channels: ChannelSlice,
    residual: str,
    refined: str,
) -> str:
    """Write a slice of the inner channels, added to ``residual``.

    For "" it is added to the rows' norm or to nothing, as the part says.
    """
    start = g.num_nodes
    activated = _outputs(part.activated, channels)
    multiplied = part.multiplied and _outputs(part.multiplied, channels)
    is_first = channels.start == 0
    down = Matrix(
        channels.name(part.down.name),
        part.down.weight[:, channels.channels],
        part.down.bias if is_first else None,
    )
    normed = part.norm.apply(g, x)  # ONNX Runtime computes what slices share once
    width, inner_width = part.activated.weight.shape[1], part.down.weight.shape[1]
    block = precision.mixed_block(width) if part.mixes else 0
    rows = precision.rows(g, MatmulInput(part.site, normed, mixed_block=block, refined=refined))
    inner = _activate(g, part.activation, activated.write(g, precision, rows))
    carried = None
    if multiplied:
        # a row's step does not change how the row rounds, so that it can wait for down's rows
        product = precision.matmul(g, rows, multiplied.name, multiplied.weight)
        factors = add_rests(g, replace(product, step=None), product.values)
        inner, carried = g.op("Mul", inner, factors), product.step
    least = LEAST_GELU if multiplied is None and part.activation == "gelu" else None
    # products of two numbers stand out most; all slices are mixed alike
    inner_block = precision.mixed_block(inner_width) if multiplied else 0
    operand = MatmulInput(part.inner_site, inner, carried, least, channels, inner_block, refined)
    inner_rows = precision.rows(g, operand)
    scales = part.residual_scales if not residual else ""
    added = ""
    if residual or part.adds == "normed":
        added = _scaled_residual(g, residual or normed, scales)
    y = down.write(g, precision, inner_rows, added)
    matrices = [activated, *([multiplied] if multiplied else []), down]
    if precision.has_kernels([matrix.name for matrix in matrices]):
        inputs = [x, rows.zero_point, inner_rows.zero_point, *part.norm.weights]
        inputs += activated.weights
        inputs += multiplied.weights[:3] if multiplied else ["", "", ""]
        inputs += [*down.weights, residual, scales, rows.mixing, inner_rows.mixing, rows.refined]
        for matrix in (activated, multiplied, down):
            inputs += [""] * 3 if matrix is None else matrix.rests(g)
        g.outline(
            "FeedForward",
            start,
            inputs,
            [y],
            width=width,
            norm=NORMS[part.norm.kind],
            epsilon=part.norm.epsilon,
            activation=ACTIVATIONS[part.activation],
            inner_floor=row_range(least).floor,
            adds_normed=0 if part.adds == "nothing" else None,
            mixed_block=block or None,
            inner_mixed_block=inner_block or None,
        )
    return y


def _activate(g: Graph, activation: str, x: str) -> str:
    if activation == "silu":
        return g.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x)
    return g.op("Gelu", x, approximate="tanh" if activation == "gelu_tanh" else "none")


def _scaled_residual(g: Graph, residual: str, scales: str) -> str:
    return g.op("Mul", residual, scales) if scales else residual


def _outputs(matrix: Matrix, part: ChannelSlice) -> Matrix:
    """Return some of a matrix's output channels."""
    if part == ALL:
        return matrix
    bias = None if matrix.bias is None else matrix.bias[part.channels]
    return Matrix(part.name(matrix.name), matrix.weight[part.channels], bias)
