"""Operators without a CUDA kernel of ONNX Runtime in our opset, made of some that have one.

A kernel that is registered from a version on does not compute the operator's next version
(``quantize.graph.kernels``): so Equal, ReduceMax, Sin and Cos would run on the CPU. Graphs that are
not plain have the operators themselves.
"""

from __future__ import annotations

import numpy as np

from quantize.graph.builder import Graph
from quantize.rounding.rounding import Floats

DIGIT = 512  # of positions; two digits count to 262144


def equal(g: Graph, left: str, right: str) -> str:
    """Compare integers: bool."""
    if not g.is_plain:
        return g.op("Equal", left, right)
    sides = (g.op(name, left, right) for name in ("LessOrEqual", "GreaterOrEqual"))
    return g.op("And", *sides)


def last_axis_maximum(g: Graph, x: str) -> str:
    """Return the maxima over the last axis of float32 [B, L, S]: [B, L]."""
    if not g.is_plain:
        return g.op("ReduceMax", x, g.constant([2]), keepdims=0)
    largest, _ = g.ops("TopK", x, g.constant([1]), count=2, axis=-1, sorted=0)
    return g.op("Squeeze", largest, g.constant([2]))


def tabled_angles(g: Graph, positions: str, frequencies: Floats) -> tuple[str, str]:
    """Return cosines and sines of positions int64 [T] times frequencies [D]: float32 [1, T, D].

    A position is 512 a + b, and the cosine and sine of each are in a table:
    cos(a + b) = cos a cos b - sin a sin b, sin(a + b) = sin a cos b + cos a sin b.
    """
    row = g.op("Unsqueeze", positions, g.constant([0]))
    digit = g.constant(np.int64(DIGIT))
    digits = g.op("Div", row, digit), g.op("Mod", row, digit)
    cosines: list[str] = []
    sines: list[str] = []
    for place, size in zip(digits, (DIGIT, 1), strict=True):
        angles = np.outer(np.arange(DIGIT) * size, frequencies.astype(np.float64))
        for parts, function in ((cosines, np.cos), (sines, np.sin)):
            table = g.constant(function(angles).astype(np.float32))
            parts.append(g.op("Gather", table, place))

    def product(left: str, right: str) -> str:
        return g.op("Mul", left, right)

    return (
        g.op("Sub", product(*cosines), product(*sines)),
        g.op("Add", product(sines[0], cosines[1]), product(cosines[0], sines[1])),
    )
