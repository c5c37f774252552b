"""How int8 matrices lie in the file of the weights: as compiled operators read them, in place.

A matrix [N, K] becomes panels of 16 output channels, in each of which four weights of a channel lie
side by side: [N / 16, K / 4, 16, 4]. Zeros fill N and K up to multiples of 64, so that no vector of
any instruction set ends within a matrix (``edgerank/kernels/src/kernels.h``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quantize.graph.builder import Graph

PANEL_CHANNELS = 16
SIDE_BY_SIDE = 4
MATRIX_STEP = 64


def in_panels(values: NDArray[np.int8]) -> NDArray[np.int8]:
    """Lay int8 [N, K] out in panels, [N / 16, K / 4, 16, 4]."""
    fill = [(0, -size % MATRIX_STEP) for size in values.shape]
    filled = np.pad(values, fill) if any(after for _, after in fill) else values
    num_channels, depth = filled.shape
    split = filled.reshape(
        num_channels // PANEL_CHANNELS, PANEL_CHANNELS, depth // SIDE_BY_SIDE, SIDE_BY_SIDE
    )
    return np.ascontiguousarray(split.transpose(0, 2, 1, 3))


def out_of_panels(g: Graph, panels: str, num_channels: int, depth: int) -> str:
    """Write the nodes that turn panels into what stock operators multiply by: int8 [K, N].

    ONNX Runtime computes these nodes once, when it opens the graph, and holds a copy of all
    matrices for each of them meanwhile: so there are two, and three where zeros are cut off. Of
    uint8 by int8, its kernels for x86 without VNNI add two products in a saturating int16
    (``vpmaddubsw``), unless a session says otherwise (``edgerank/session.py``).
    """
    filled = [size + -size % MATRIX_STEP for size in (depth, num_channels)]
    matrix = g.op("Reshape", g.op("Transpose", panels, perm=[1, 3, 0, 2]), g.constant(filled))
    if filled != [depth, num_channels]:
        ends = g.constant([depth, num_channels])
        matrix = g.op("Slice", matrix, g.constant([0, 0]), ends, g.constant([0, 1]))
    return matrix
