"""How int8 matrices lie in the file of the weights: as compiled operators read them, in place.

A matrix [N, K] becomes panels of 16 output channels, in each of which four weights of a channel lie
side by side: [N / 16, K / 4, 16, 4]. Zeros fill N and K up to multiples of 64, so that no vector of
any instruction set ends within a matrix (``edgerank/kernels/src/kernels.h``).

The file has the bytes of int8 and says that they are uint8, which spares stock operators a Cast:
each operator that ONNX Runtime computes when it opens a graph holds a copy of all matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantize.graph.builder import Graph

PANEL_CHANNELS = 16
SIDE_BY_SIDE = 4
MATRIX_STEP = 64
STOCK_ZERO_POINT = 128  # of weights as stock operators read them


def in_panels(values: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Lay int8 [N, K] out in panels of the same bytes."""
    fill = [(0, -size % MATRIX_STEP) for size in values.shape]
    filled = np.pad(values, fill) if any(after for _, after in fill) else values
    num_channels, depth = filled.shape
    split = filled.reshape(
        num_channels // PANEL_CHANNELS, PANEL_CHANNELS, depth // SIDE_BY_SIDE, SIDE_BY_SIDE
    )
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3)).view(np.uint8)


def out_of_panels(g: Graph, panels: str, num_channels: int, depth: int) -> str:
    """Write the nodes that turn panels into what stock operators multiply by: uint8 [K, N].

    Of uint8 by int8, ONNX Runtime's kernels for x86 without VNNI add two products in a saturating
    int16 (``vpmaddubsw``); of uint8 by uint8 they are exact. ONNX Runtime computes these nodes
    once, when it opens the graph.
    """
    filled = [size + -size % MATRIX_STEP for size in (depth, num_channels)]
    matrix = g.op("Reshape", g.op("Transpose", panels, perm=[1, 3, 0, 2]), g.constant(filled))
    if filled != [depth, num_channels]:
        ends = g.constant([depth, num_channels])
        matrix = g.op("Slice", matrix, g.constant([0, 0]), ends, g.constant([0, 1]))
    return g.op("BitwiseXor", matrix, g.constant(np.uint8(STOCK_ZERO_POINT)))
