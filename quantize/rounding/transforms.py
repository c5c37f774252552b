"""Changes of weights that keep a model's function and reduce rounding errors.

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
from numba import njit, prange
from numpy.typing import NDArray

from quantize.rounding.mixing import mixed
from quantize.rounding.rounding import INT8_MAX, Floats, quantize_channels

LARGEST_BLOCK = 64  # of a rotation whose size is not a power of two
GRAIN = 32  # channels
MIGRATIONS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # shares of an activation's range to move to the weight
OUTLIER = 5  # times the median rms
SAMPLE_ROWS = 256  # rows and
SAMPLE_CHANNELS = 1024  # output channels, to compare the errors of two scalings
SMALLEST = 1e-6  # of the largest range, for channels without activations


@dataclass(frozen=True)
class Rotation:
    """x → (x * signs) · (B ⊗ H) on some channels, H a Hadamard matrix; the others stay."""

    channels: NDArray[np.intp]  # those that are rotated
    signs: Floats  # [len(channels)], 1 or -1
    block: Floats  # B, orthogonal; H has the power of two for its size that is left

    @staticmethod
    def random(size: int, seed: int, fixed: Sequence[int] = ()) -> Rotation:
        """Draw a randomised Hadamard rotation, or a similar one if the size allows none.

        :param size: channels
        :param fixed: channels that are not rotated
        """
        channels = np.setdiff1d(np.arange(size), fixed)
        rng = np.random.default_rng(seed)
        signs = rng.choice(np.array([-1, 1], np.float32), len(channels))
        return Rotation(channels, signs, _spreading_block(len(channels)))

    def apply(self, x: Floats) -> Floats:
        """Rotate the last axis, [..., size]."""
        rotated: Floats = np.array(x, order="C")
        self.apply_in_place(rotated.reshape(-1, x.shape[-1]))
        return rotated

    def apply_in_place(self, x: Floats) -> None:
        """Rotate rows, [N, size]."""
        _rotate_rows(x, self.channels, self.signs, self.block)


@njit(cache=True, parallel=True, error_model="numpy")
def _rotate_rows(x: Floats, channels: NDArray[np.intp], signs: Floats, block: Floats) -> None:
    order = len(block)
    power = len(channels) // order
    norm = np.float32(1 / np.sqrt(power))
    for row in prange(len(x)):
        picked = x[row][channels] * signs
        mixed = np.zeros_like(picked)
        for j in range(order):
            target = mixed[j * power : (j + 1) * power]
            for i in range(order):
                source, factor = picked[i * power : (i + 1) * power], block[i, j] * norm
                for c in range(power):
                    target[c] += source[c] * factor
            half = 1
            while half < power:  # the fast Walsh-Hadamard transform
                for start in range(0, power, 2 * half):
                    for c in range(start, start + half):
                        target[c], target[c + half] = (
                            target[c] + target[c + half],
                            target[c] - target[c + half],
                        )
                half *= 2
        for index in range(len(channels)):
            x[row, channels[index]] = mixed[index]


def rotate_heads(
    head: Rotation, value: Floats, output: Floats, head_size: int
) -> tuple[Floats, Floats]:
    """Rotate each head's values, and rotate back in the matrix that reads them.

    :param value: [KV·D, K], the matrix that writes the values
    :param output: [N, H·D], the matrix that reads what the attention makes of them
    """
    channels, depth = value.shape
    rotated = head.apply(value.T.reshape(depth, -1, head_size)).reshape(depth, channels)
    read = head.apply(output.reshape(len(output), -1, head_size)).reshape(output.shape)
    return np.ascontiguousarray(rotated.T), read


def outlier_channels(prominence: Floats) -> list[int]:
    """Choose the channels that a rotation leaves alone: those that stand out.

    A rotation would spread them over all channels, and the rounding errors would then exceed the
    small values of the others. Left alone, they are for channel scales to deal with.

    :param prominence: [H], rms of each channel over the median's
    :return: a multiple of 32 of them, the next in order included, for a size that can be rotated
    """
    count = -(-int((prominence > OUTLIER).sum()) // GRAIN) * GRAIN
    return sorted(int(channel) for channel in np.argsort(-prominence, kind="stable")[:count])


def _spreading_block(size: int) -> Floats:
    """Return the block that leaves a power of two: Hadamard's if there is one, or else the DCT's.

    12 for 1536 = 12 · 128, 28 for 896 = 28 · 32.
    """
    power = size & -size
    odd = size // power
    for shift in range(power.bit_length()):
        order = odd << shift
        matrix = _hadamard(order) if order <= LARGEST_BLOCK else None
        if matrix is not None:
            return np.asarray(matrix / np.sqrt(order), np.float32)
    k, n = np.mgrid[:odd, :odd]
    cosines = np.cos(np.pi * k * (2 * n + 1) / (2 * odd)) * np.sqrt(2 / odd)
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


def channel_scales(
    rows: Floats, weight: Floats, owners: NDArray[np.intp] | None = None, block: int = 0
) -> Floats:
    """Choose scales: each channel of the rows is divided by one, and multiplied in the weight.

    Each candidate is tried on the rows, rounded as the int8 graph rounds; the least error wins.

    :param rows: [T, K], rows of calibration text
    :param weight: [N, K], all the matrices that read the rows, one on the other
    :param owners: [K], for each channel the one before the attention that it comes from, where
        several come from one; its own index by default
    :param block: channels that are mixed before they are rounded; 0: none
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
    least = _rounding_error(rows, weight, exact, block)
    for migration in MIGRATIONS:
        ratio = ranges[0] ** migration / ranges[1] ** (1 - migration)
        scales = np.asarray(ratio / np.exp(np.log(ratio).mean()), np.float32)
        spread = scales[owners]
        error = _rounding_error(rows / spread, weight * spread, exact, block)
        if error < least:
            best, least = scales, error
    return best


def _rounding_error(rows: Floats, weight: Floats, exact: Floats, block: int) -> float:
    rows, weight = mixed(rows, block), mixed(weight, block) / np.float32(block or 1)
    values, scales = quantize_channels(weight)
    peak = np.abs(rows).max(axis=1, keepdims=True) / INT8_MAX
    integers = np.rint(np.divide(rows, peak, out=np.zeros_like(rows), where=peak > 0))
    product = (integers @ values.T.astype(np.float32)) * peak * scales
    return float(np.square(product - exact).sum())
