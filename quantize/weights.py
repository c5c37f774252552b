"""Rounding of weights to int8.

Without VNNI, x86 multiplies uint8 activations by int8 weights with ``vpmaddubsw``, which adds two
neighbouring products in a saturating int16. 255 * (|w[2i]| + |w[2i+1]|) <= 32767 for every
neighbouring pair along K makes saturation impossible, so one file is right on every CPU.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

PAIR_BOUND = 128  # 255 * 128 = 32640 <= 32767, the largest int16
INT8_MAX = 127
SMALLEST_SCALE = 1e-30  # weights that would need a smaller one are zeros
BLOCK_CHANNELS = 64  # int8 of as many channels fill a cache line of the transposed result


def quantize_channels(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each output channel to int8 with one scale, the smallest that keeps the pair bound.

    Where rounding lifts a pair above the bound, the member that it lifted the most is lowered.

    :param weight: [N, K] float32, one output channel a row
    :return: int8 [K, N], transposed for the product, and scales float32 [N]; the weight is about
        ``(int8 * scale).T``
    """
    weight = np.ascontiguousarray(weight)
    values = np.empty(weight.shape[::-1], np.int8)
    scales = np.empty(len(weight), np.float32)
    _round_channels(weight, values, scales)
    return values, scales


@njit(cache=True, parallel=True, error_model="numpy")
def _round_channels(
    weight: NDArray[np.float32], values: NDArray[np.int8], scales: NDArray[np.float32]
) -> None:
    num_channels, depth = weight.shape
    for channel in prange(num_channels):
        largest = np.float32(0)  # of single weights and of pairs, each against its bound
        for k in range(0, depth, 2):
            left = abs(weight[channel, k])
            right = abs(weight[channel, k + 1]) if k + 1 < depth else np.float32(0)
            largest = max(largest, max(left, right) / INT8_MAX, (left + right) / PAIR_BOUND)
        scales[channel] = largest if largest >= SMALLEST_SCALE else 1
    for block in prange((num_channels + BLOCK_CHANNELS - 1) // BLOCK_CHANNELS):
        first = block * BLOCK_CHANNELS
        for k in range(0, depth, 2):
            for channel in range(first, min(first + BLOCK_CHANNELS, num_channels)):
                left = weight[channel, k] / scales[channel]
                right = weight[channel, k + 1] / scales[channel] if k + 1 < depth else left * 0
                low, high = np.rint(left), np.rint(right)
                if abs(low) + abs(high) > PAIR_BOUND:
                    if abs(low) - abs(left) >= abs(high) - abs(right):
                        low -= np.sign(low)
                    else:
                        high -= np.sign(high)
                values[k, channel] = np.int8(low)
                if k + 1 < depth:
                    values[k + 1, channel] = np.int8(high)


def quantize_rows_blockwise(
    table: NDArray[np.float32], block_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round an embedding table to 8 bits with one scale per block of a row.

    :param table: [V, H] float32, H a multiple of ``block_size``
    :return: uint8 [V, H] with zero point 128 and scales float32 [V, H / block_size]
    """
    blocks = table.reshape(table.shape[0], -1, block_size)
    scale = (np.abs(blocks).max(axis=2) / INT8_MAX).astype(np.float32)
    scale[scale < SMALLEST_SCALE] = 1
    values = np.rint(blocks / scale[:, :, None]) + 128
    return values.astype(np.uint8).reshape(table.shape), scale
