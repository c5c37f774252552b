"""Rounding of weights to int8.

Without VNNI, x86 multiplies uint8 activations by int8 weights with ``vpmaddubsw``, which adds two
neighbouring products in a saturating int16. 255 * (|w[2i]| + |w[2i+1]|) <= 32767 for every
neighbouring pair along K makes saturation impossible, so one file is right on every CPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAIR_BOUND = 128  # 255 * 128 = 32640 <= 32767, the largest int16
INT8_MAX = 127


def quantize_channels(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Round each output channel to int8 with one scale, under the pair bound.

    :param weight: [N, K] float32, one output channel a row
    :return: int8 [N, K] and scales float32 [N]; weight is about ``int8 * scale[:, None]``
    """
    pairs = pair_sums(np.abs(weight))
    scale = np.maximum(
        np.abs(weight).max(axis=1, initial=0) / INT8_MAX, pairs.max(axis=1, initial=0) / PAIR_BOUND
    ).astype(np.float32)
    scale[scale == 0] = 1
    exact = weight / scale[:, None]
    rounded = np.rint(exact)
    _lower_overfull_pairs(rounded, exact)
    return rounded.astype(np.int8), scale


def pair_sums(magnitudes: NDArray[Any]) -> NDArray[Any]:
    """Add neighbours along K: [N, K] to [N, ceil(K / 2)]."""
    if magnitudes.shape[1] % 2:
        magnitudes = np.pad(magnitudes, ((0, 0), (0, 1)))
    sums: NDArray[Any] = magnitudes[:, 0::2] + magnitudes[:, 1::2]
    return sums


def _lower_overfull_pairs(rounded: NDArray[np.float32], exact: NDArray[np.float32]) -> None:
    """Take one from the member of each pair above the bound that rounding raised the most."""
    rows, pairs = np.nonzero(pair_sums(np.abs(rounded)) > PAIR_BOUND)
    left, right = 2 * pairs, 2 * pairs + 1
    raised = np.abs(rounded) - np.abs(exact)
    column = np.where(raised[rows, left] >= raised[rows, right], left, right)
    rounded[rows, column] -= np.sign(rounded[rows, column])


def quantize_rows_blockwise(
    table: NDArray[np.float32], block_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Round an embedding table to 8 bits with one scale per block of a row.

    :param table: [V, H] float32, H a multiple of ``block_size``
    :return: uint8 [V, H] with zero point 128 and scales float32 [V, H / block_size]
    """
    blocks = table.reshape(table.shape[0], -1, block_size)
    scale = (np.abs(blocks).max(axis=2) / INT8_MAX).astype(np.float32)
    scale[scale == 0] = 1
    values = np.rint(blocks / scale[:, :, None]) + 128
    return values.astype(np.uint8).reshape(table.shape), scale
