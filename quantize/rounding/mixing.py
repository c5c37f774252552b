"""Mixing of channels by Hadamard matrices of ones and minus ones, in blocks."""

from __future__ import annotations

import numpy as np
from scipy.linalg import hadamard as hadamard_matrix

from quantize.rounding.rounding import Floats

LARGEST_BLOCK = 256  # channels; larger blocks reduce outliers more, and cost more time
LEAST_BLOCK = 16  # the smallest that compiled kernels support


def hadamard(size: int) -> Floats:
    """Return the Hadamard matrix of a power of two, in its natural order: float32 [size, size]."""
    return np.asarray(hadamard_matrix(size), np.float32)


def mixed(x: Floats, block: int) -> Floats:
    """Multiply each block of the last axis, of float32 [..., K], by the Hadamard matrix.

    :param block: its size; 0 leaves ``x`` as it is
    """
    if not block:
        return x
    return (x.reshape(-1, block) @ hadamard(block)).reshape(x.shape)


def mixed_block(width: int) -> int:
    """Choose the channels to mix together out of ``width``; 0 if they do not divide."""
    block = min(LARGEST_BLOCK, width & -width)
    return block if block >= LEAST_BLOCK else 0
