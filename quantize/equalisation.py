"""Changes to weights that leave a model's function alone and make its numbers easier to round.

Two kinds, both folded into the weights, so that they cost nothing when the model runs:

* a rotation spreads an outlier over all channels (QuaRot, Ashkboos et al. 2024, arXiv 2404.00456);
* channel scales move range from the rows that a matrix reads into the matrix (SmoothQuant, Xiao et
  al. 2022, arXiv 2211.10438).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from quantize.weights import INT8_MAX, quantize_channels

FACTOR = 128  # a rotation is a product of matrices up to about this size
MIGRATIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # shares of an activation's range that go to the weight
OUTLIER = 5  # times the median rms
SAMPLE_ROWS = 256  # rows and
SAMPLE_CHANNELS = 1024  # output channels: enough to tell the errors of two scalings apart
SMALLEST = 1e-6  # of the largest: what a channel without activations is taken to have

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rotation:
    """x → (x * signs) · (F₁ ⊗ F₂ ⊗ ...) on some channels, orthogonal; the others stay."""

    channels: NDArray[np.intp]  # those that are rotated
    signs: Floats  # [len(channels)], 1 or -1
    factors: Sequence[Floats]  # square and orthogonal; the product of their sizes is as many

    @staticmethod
    def random(size: int, seed: int, fixed: Sequence[int] = ()) -> Rotation:
        """Draw a randomised Hadamard rotation, or the nearest thing that the size allows.

        :param size: channels
        :param fixed: those that are left alone
        """
        channels = np.setdiff1d(np.arange(size), fixed)
        rng = np.random.default_rng(seed)
        signs = rng.choice(np.array([-1, 1], np.float32), len(channels))
        return Rotation(channels, signs, [_spreading(part) for part in _factor(len(channels))])

    def apply(self, x: Floats) -> Floats:
        """Rotate the last axis, [..., size]."""
        rotated = x[..., self.channels] * self.signs
        shape = (-1, *(len(factor) for factor in self.factors))
        for axis, factor in enumerate(self.factors, start=1):
            moved = np.moveaxis(rotated.reshape(shape), axis, -1)
            rotated = np.moveaxis(moved @ factor, -1, axis)
        result: Floats = x.copy()
        result[..., self.channels] = rotated.reshape(*x.shape[:-1], len(self.channels))
        return result


def outlier_channels(rows: Floats) -> list[int]:
    """Return the channels of [T, H] whose rms stands far above the median's."""
    rms = np.sqrt(np.square(rows).mean(axis=0))
    return [int(channel) for channel in np.flatnonzero(rms > OUTLIER * np.median(rms))]


def _factor(size: int) -> list[int]:
    """Write ``size`` as a product: the smallest Hadamard order that leaves a power of two, then it.

    1536 = 12 · 128, 896 = 28 · 32.
    """
    power = size & -size
    odd = size // power
    orders = [odd << shift for shift in range(power.bit_length())]
    first = next((order for order in orders if _hadamard(order) is not None), odd)
    rest = size // first
    powers = []
    while rest > 1:
        powers.append(min(rest, FACTOR))
        rest //= powers[-1]
    return [part for part in (first, *powers) if part > 1] or [1]


def _spreading(order: int) -> Floats:
    """Return an orthogonal matrix of even magnitudes: Hadamard's, or else the DCT's."""
    matrix = _hadamard(order)
    if matrix is not None:
        return np.asarray(matrix / np.sqrt(order), np.float32)
    k, n = np.mgrid[:order, :order]
    cosines = np.cos(np.pi * k * (2 * n + 1) / (2 * order)) * np.sqrt(2 / order)
    cosines[0] /= np.sqrt(2)
    return np.asarray(cosines, np.float32)


@cache
def _hadamard(order: int) -> NDArray[np.float64] | None:
    """Construct a Hadamard matrix by Sylvester's or one of Paley's two ways; None if none does."""
    if order & (order - 1) == 0:
        matrix = np.ones((1, 1))
        while len(matrix) < order:
            matrix = np.kron(matrix, np.array([[1.0, 1], [1, -1]]))
        return matrix
    if order % 4 == 0 and _is_prime(order - 1):
        skew = _conference(order - 1)  # order - 1 is 3 modulo 4
        skew[1:, 0] *= -1
        return np.eye(order) + skew
    if order % 4 == 0 and order // 2 % 4 == 2 and _is_prime(order // 2 - 1):
        symmetric = _conference(order // 2 - 1)
        off_diagonal = np.kron(symmetric, np.array([[1.0, 1], [1, -1]]))
        return off_diagonal + np.kron(np.eye(order // 2), np.array([[1.0, -1], [-1, -1]]))
    return None


def _conference(prime: int) -> NDArray[np.float64]:
    """Border the matrix of quadratic characters of a - b modulo a prime with ones."""
    squares = {value * value % prime for value in range(1, prime)}
    character = np.array([0] + [1 if value in squares else -1 for value in range(1, prime)])
    matrix = np.zeros((prime + 1, prime + 1))
    matrix[0, 1:] = matrix[1:, 0] = 1
    index = np.arange(prime)
    matrix[1:, 1:] = character[(index[:, None] - index) % prime]
    return matrix


def _is_prime(number: int) -> bool:
    return number > 1 and all(number % k for k in range(2, int(number**0.5) + 1))


def channel_scales(rows: Floats, weight: Floats, owners: NDArray[np.intp] | None = None) -> Floats:
    """Choose by what to divide each channel of the rows, and multiply it in the weight.

    Each candidate is tried on the rows, rounded as the int8 graph rounds; the least error wins.

    :param rows: [T, K], rows of calibration text
    :param weight: [N, K], all the matrices that read the rows, one on the other
    :param owners: [K], for each channel the one before the attention that it comes from, where
        several come from one; its own index by default
    :return: float32 [number of owners], geometric mean 1; all 1 if nothing does better
    """
    owners = np.arange(rows.shape[1]) if owners is None else owners
    size = int(owners.max()) + 1
    ranges = []
    for magnitudes in (np.abs(rows).max(axis=0), np.abs(weight).max(axis=0)):
        largest = np.zeros(size, np.float32)
        np.maximum.at(largest, owners, magnitudes)
        ranges.append(np.maximum(largest, SMALLEST * max(float(largest.max()), SMALLEST)))
    rows = rows[:: max(1, len(rows) // SAMPLE_ROWS)]
    weight = weight[:: max(1, len(weight) // SAMPLE_CHANNELS)]
    exact = rows @ weight.T
    best = np.ones(size, np.float32)
    least = _rounding_error(rows, weight, exact)
    for migration in MIGRATIONS:
        ratio = ranges[0] ** migration / ranges[1] ** (1 - migration)
        scales = np.asarray(ratio / np.exp(np.log(ratio).mean()), np.float32)
        spread = scales[owners]
        error = _rounding_error(rows / spread, weight * spread, exact)
        if error < least:
            best, least = scales, error
    return best


def _rounding_error(rows: Floats, weight: Floats, exact: Floats) -> float:
    values, scales = quantize_channels(weight)
    peak = np.abs(rows).max(axis=1, keepdims=True) / INT8_MAX
    integers = np.rint(np.divide(rows, peak, out=np.zeros_like(rows), where=peak > 0))
    product = (integers @ values.astype(np.float32)) * peak * scales
    return float(np.square(product - exact).sum())
