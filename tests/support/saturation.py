"""Products of uint8 and int8 as x86 computes them without VNNI, emulated in NumPy.

Intel's Intrinsics Guide on ``_mm256_maddubs_epi16`` (``vpmaddubsw``): multiply each unsigned 8-bit
integer of a by the signed 8-bit integer of b, add adjacent pairs of the products, and pack the
saturated results as signed 16-bit integers. A kernel then adds those in 32 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

INT16 = np.iinfo(np.int16)


def maddubs(a: NDArray[np.uint8], b: NDArray[np.int8]) -> NDArray[np.int16]:
    """Multiply [..., 2n] by [..., 2n], and add pairs of products with saturation: [..., n]."""
    assert (a.dtype, b.dtype) == (np.uint8, np.int8)
    products = a.astype(np.int32) * b.astype(np.int32)
    return np.clip(products[..., 0::2] + products[..., 1::2], INT16.min, INT16.max).astype(np.int16)


def saturating_product(
    rows: NDArray[np.uint8], weight: NDArray[np.int8], zero_point: int
) -> NDArray[np.int64]:
    """Multiply rows [T, K] less their zero point by [K, N] as a kernel of ``vpmaddubsw`` does.

    A kernel multiplies the rows as they are, and takes off the zero point by the weight's sums.
    """
    is_odd = weight.shape[0] % 2
    rows, weight = np.pad(rows, ((0, 0), (0, is_odd))), np.pad(weight, ((0, is_odd), (0, 0)))
    sums = [maddubs(rows, column).sum(axis=1, dtype=np.int64) for column in weight.T]
    return np.stack(sums, axis=1) - zero_point * weight.sum(axis=0, dtype=np.int64)


def exact_product(
    rows: NDArray[np.uint8], weight: NDArray[np.int8], zero_point: int
) -> NDArray[np.int64]:
    """Multiply the same in 64 bits."""
    return (rows.astype(np.int64) - zero_point) @ weight.astype(np.int64)


def worst_rows(weight: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Rows [2N, K] that take the pairs of each column of [K, N] as far up and down as they go."""
    return np.concatenate([weight.T > 0, weight.T < 0]).astype(np.uint8) * np.uint8(255)
