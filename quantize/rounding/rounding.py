"""Rounding of weights to 8 and 4 bits.

Given rows of calibration text, rounding compensates its errors: columns are rounded from the last
to the first. Before a column is rounded, it is changed to compensate the errors of the columns
rounded before, according to the correlations of the inputs. This is LDLQ of QuIP (Chee et al. 2023,
arXiv 2307.13304), of which GPTQ (Frantar et al. 2022, arXiv 2210.17323) is an equivalent
formulation.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray
from scipy.linalg import cholesky
from scipy.linalg.blas import ssyrk

INT8_MAX = 127
INT4_MIN, INT4_MAX = -8, 7
SMALLEST_SCALE = 1e-30  # weights with a smaller scale become zeros
DAMPING = 0.01, 1.0  # least and largest share of the mean second moment that is added to each
COLUMNS_AT_ONCE = 32  # between two matrix products of the compensation

Floats = NDArray[np.float32]


def quantize_channels(weight: Floats, ldl: Floats | None = None) -> tuple[NDArray[np.int8], Floats]:
    """Round each output channel to int8 with one scale: its largest weight becomes 127 or -127.

    :param weight: [N, K] float32, one output channel a row
    :param ldl: ``ldl_factor`` of the inputs of the weight
    :return: int8 [N, K] and scales float32 [N]; the weight is about ``int8 * scales[:, None]``
    """
    scales: Floats = np.maximum(weight.max(axis=1), -weight.min(axis=1)) / np.float32(INT8_MAX)
    scales[scales < SMALLEST_SCALE] = 1
    return _round(weight, scales[:, None], ldl, -INT8_MAX, INT8_MAX), scales


def quantize_blocks(
    weight: Floats, block_size: int, ldl: Floats | None = None
) -> tuple[NDArray[np.uint8], Floats]:
    """Round to 4 bits with one scale per block of an output channel, as MatMulNBits reads them.

    A block's largest weight becomes -8, the end of the range that has one step more.

    :param weight: [N, K] float32, K a multiple of ``block_size``
    :param ldl: as in ``quantize_channels``
    :return: uint8 [N, K / block_size, block_size / 2], zero point 8, the first of two values in the
        low bits; and scales float32 [N, K / block_size]
    """
    blocks = weight.reshape(len(weight), -1, block_size)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=2)[:, :, None], 2)[:, :, 0]
    scales: Floats = largest / np.float32(INT4_MIN)
    scales[np.abs(scales) < SMALLEST_SCALE] = 1
    rounded = _round(weight, scales, ldl, INT4_MIN, INT4_MAX)
    values = (rounded - INT4_MIN).astype(np.uint8).reshape(blocks.shape)
    packed: NDArray[np.uint8] = values[:, :, 0::2] | (values[:, :, 1::2] << np.uint8(4))
    return packed, scales


def ldl_factor(inputs: Floats) -> Floats:
    """Compute how earlier columns of a weight compensate errors of later ones.

    The second moments of the rows that the weight is multiplied with are factored as L D Lᵀ.
    Correlations of fewer rows are less reliable and are damped more: on real weights, the error on
    other text is lowest near a damping of K / 4T.

    :param inputs: [T, K] float32, rows of calibration text
    :return: L, float32 [K, K], 1 on its diagonal
    """
    count, depth = inputs.shape
    damping = float(np.clip(0.25 * depth / count, *DAMPING))
    moments = ssyrk(1.0, inputs.T, lower=True)  # only the lower half is used
    diagonal = np.einsum("kk->k", moments)
    diagonal += max(damping * float(diagonal.mean()), SMALLEST_SCALE)
    factor: Floats = cholesky(moments, lower=True, overwrite_a=True, check_finite=False)
    factor /= np.diag(factor).copy()
    return factor


def quantize_rows_blockwise(table: Floats, block_size: int) -> tuple[NDArray[np.uint8], Floats]:
    """Round an embedding table to 8 bits with one scale per block of a row.

    :param table: [V, H] float32, H a multiple of ``block_size``
    :return: uint8 [V, H] with zero point 128 and scales float32 [V, H / block_size]
    """
    blocks = table.reshape(table.shape[0], -1, block_size)
    scale = (np.abs(blocks).max(axis=2) / INT8_MAX).astype(np.float32)
    scale[scale < SMALLEST_SCALE] = 1
    values = np.rint(blocks / scale[:, :, None]) + 128
    return values.astype(np.uint8).reshape(table.shape), scale


def _round(
    weight: Floats, scales: Floats, ldl: Floats | None, low: int, high: int
) -> NDArray[np.int8]:
    """Round [N, K] with scales [N, number of blocks] to integers from ``low`` to ``high``."""
    weight = np.ascontiguousarray(weight)
    depth = weight.shape[1]
    values = np.empty(weight.shape, np.int8)
    errors = np.empty_like(weight)
    bounds = (low, high)
    if ldl is None:
        nothing = np.zeros((0, 0), np.float32)
        _round_columns(weight, weight, nothing, scales, values, errors, 0, *bounds)
        return values
    for end in range(depth, 0, -COLUMNS_AT_ONCE):
        start = max(0, end - COLUMNS_AT_ONCE)
        wanted = weight[:, start:end] + errors[:, end:] @ ldl[end:, start:end]
        within = np.ascontiguousarray(ldl[start:end, start:end].T)
        _round_columns(weight, wanted, within, scales, values, errors, start, *bounds)
    return values


@njit(cache=True, parallel=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _round_columns(
    weight: Floats,
    wanted: Floats,
    ldl: Floats,
    scales: Floats,
    values: NDArray[np.int8],
    errors: Floats,
    start: int,
    low: int,
    high: int,
) -> None:
    """Round the columns of ``wanted``, which stand from ``start`` on, the last first.

    ``ldl`` [width, width], or empty, weighs for each column the errors of those after it.
    """
    num_channels, depth = weight.shape
    width = wanted.shape[1]
    block_size = depth // scales.shape[1]
    for channel in prange(num_channels):
        for column in range(width - 1, -1, -1):
            k = start + column
            target = wanted[channel, column]
            for later in range(column + 1, len(ldl)):
                target += errors[channel, start + later] * ldl[column, later]
            scale = scales[channel, k // block_size]
            rounded = min(max(np.rint(target / scale), low), high)
            values[channel, k] = np.int8(rounded)
            errors[channel, k] = weight[channel, k] - np.float32(rounded) * scale
