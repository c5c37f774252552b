"""Rotary positions: each pair of a head's channels is turned by an angle that grows with position.

RoFormer, Su et al. 2021, arXiv 2104.09864; channel i is paired with channel i + head_size / 2, as
in transformers' ``rotate_half``.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from onnx import TensorProto

from quantize.graph import Graph

Angles = tuple[str, str]  # cosines and sines, float32 [1, T, head_size / 2]


class RopeParameters(msgspec.Struct, frozen=True):
    """Where transformers 5 keeps the rotary settings."""

    rope_theta: float
    rope_type: Literal["default"] = "default"


def rotary_angles(g: Graph, positions: str, head_size: int, theta: float) -> Angles:
    """Return cosines and sines of the rotary angles, float32 [1, T, head_size / 2]."""
    g.scope = "rotary"
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / head_size
    frequencies = (1 / theta**exponents).astype(np.float32)
    column = g.op("Unsqueeze", g.op("Cast", positions, to=TensorProto.FLOAT), g.constant([0, 2]))
    angles = g.op("Mul", column, g.constant(frequencies))
    return g.op("Cos", angles), g.op("Sin", angles)


def rotate(g: Graph, x: str, angles: Angles, num_heads: int) -> str:
    """Rotate the heads of float32 [T, heads·D] by their positions."""
    batched = g.op("Unsqueeze", x, g.constant([0]))
    rotated = g.op("RotaryEmbedding", batched, *angles, num_heads=num_heads)
    return g.op("Squeeze", rotated, g.constant([0]))
