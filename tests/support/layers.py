"""Layers in NumPy, as the compiled operators are documented, and random parameters of them.

Rounding is done in float32 as ``edgerank/kernels/src/kernels.h`` has it, all else in float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import erf, expit

from quantize.graph.parameters import Matrix, Norm
from quantize.graph.precision import RowRange
from quantize.rounding.rounding import quantize_channels

EPSILON = 1e-6


def integer_rows(x: np.ndarray, range_: RowRange) -> tuple[np.ndarray, np.ndarray]:
    """Round rows as is documented: integers less their zero point, int64, and steps."""
    assert x.dtype == np.float32
    scaled, peak = scaled_rows(x, range_)
    return clamped(np.rint(scaled), range_), peak * np.float32(1 / range_.levels)


def rests_of_rows(x: np.ndarray, range_: RowRange) -> np.ndarray:
    """Round what ``integer_rows`` takes from rows; int64, in units of ``2 * zero_point`` a step."""
    scaled, _ = scaled_rows(x, range_)
    rests = np.rint((scaled - np.rint(scaled)) * np.float32(2 * range_.zero_point))
    return clamped(rests, range_)


def scaled_rows(x: np.ndarray, range_: RowRange) -> tuple[np.ndarray, np.ndarray]:
    """Return rows in steps, before they are rounded, and their peaks."""
    if range_.floor is None:
        peak = np.abs(x).max(axis=-1, keepdims=True)
    else:
        peak = np.maximum(x.max(axis=-1, keepdims=True), np.float32(range_.floor))
    with np.errstate(all="ignore"):
        scaled = x * (np.float32(range_.levels) / peak)
    return np.nan_to_num(scaled, nan=0.0), peak  # a row of zeros has a step of 0


def clamped(integers: np.ndarray, range_: RowRange) -> np.ndarray:
    """Cut integers off at the ends of uint8 around the zero point: int64."""
    zero = range_.zero_point
    return (np.clip(integers + zero, 0, 255) - zero).astype(np.int64)


def product(
    x: np.ndarray,
    matrix: Matrix,
    range_: RowRange,
    refined: Sequence[int] = (),
    *,
    refines_weights: bool = False,
) -> np.ndarray:
    """Multiply float32 rows by a matrix, both rounded; float64, without the bias.

    :param refined: rows that are rounded in two terms
    :param refines_weights: whether they are multiplied by the weights in two terms, too
    """
    integers, steps = integer_rows(x, range_)
    values, scales = quantize_channels(matrix.weight)
    sums = np.float64(integers @ values.T.astype(np.int64))
    for row in refined:
        rests = rests_of_rows(x[row], range_)
        sums[row] += rests @ values.T.astype(np.int64) / (2 * range_.zero_point)
    y = sums * np.float64(scales) * np.float64(steps)
    if refines_weights:
        others, other_scales = rests_of_weights(matrix)
        for row in refined:
            sum_of_row = integers[row] @ others.T.astype(np.int64)
            y[row] += sum_of_row * np.float64(other_scales) * np.float64(steps[row])
    return y


def rests_of_weights(matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Round what rounding takes from a matrix: int8 [N, K] and scales float32 [N]."""
    values, scales = quantize_channels(matrix.weight)
    return quantize_channels(matrix.weight - values * scales[:, None])


def mixed(x: np.ndarray, block: int) -> np.ndarray:
    """Multiply blocks of the last axis by a Hadamard matrix, whose signs are parities; float64."""
    if block == 0:
        return np.float64(x)
    places = np.arange(block)
    parity = np.array([[(i & j).bit_count() % 2 for j in places.tolist()] for i in places.tolist()])
    return (np.float64(x).reshape(-1, block) @ (1.0 - 2 * parity)).reshape(x.shape)


def distance_from_ties(x: np.ndarray, range_: RowRange) -> np.ndarray:
    """How near to half between two integers each row has a number, in steps: [T]."""
    levels = np.float64(range_.levels)
    if range_.floor is None:
        peak = np.abs(x).max(axis=-1, keepdims=True)
    else:
        peak = np.maximum(x.max(axis=-1, keepdims=True), range_.floor)
    scaled = np.float64(x) * levels / np.where(peak == 0, 1, peak)
    return np.abs(np.abs(scaled - np.floor(scaled)) - 0.5).min(axis=-1)


def biased(y: np.ndarray, matrix: Matrix) -> np.ndarray:
    return y if matrix.bias is None else y + np.float64(matrix.bias)


def normalised(x: np.ndarray, norm: Norm) -> np.ndarray:
    x = np.float64(x)
    if norm.kind == "layer":
        x = x - x.mean(axis=-1, keepdims=True)
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + norm.epsilon) * norm.gain
    return y if norm.bias is None else y + norm.bias


def rotated(heads: np.ndarray, cosines: np.ndarray, sines: np.ndarray) -> np.ndarray:
    """Rotate the halves of heads [T, H, D] by angles [1, T, D / 2]."""
    left, right = np.split(np.float64(heads), 2, axis=2)
    cosines, sines = np.float64(cosines[0, :, None]), np.float64(sines[0, :, None])
    return np.concatenate([left * cosines - right * sines, right * cosines + left * sines], 2)


ACTIVATIONS = {
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * expit(x),
}


def random_matrix(rng: np.random.Generator, name: str, columns: int, depth: int, bias: bool):
    weight = rng.standard_normal((columns, depth), np.float32)
    return Matrix(name, weight, rng.standard_normal(columns, np.float32) if bias else None)


def random_norm(rng: np.random.Generator, name: str, kind: str, width: int, bias: bool) -> Norm:
    gain = (1 + 0.3 * rng.standard_normal(width)).astype(np.float32)
    shift = rng.standard_normal(width, np.float32) if bias and kind == "layer" else None
    return Norm(name, kind, gain, shift, EPSILON)
