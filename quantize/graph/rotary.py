"""Rotary positions (RoFormer, Su et al. 2021, arXiv 2104.09864), the halves of a head rotated."""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from onnx import TensorProto

from quantize.graph.builder import Graph
from quantize.graph.substitutes import tabled_angles
from quantize.rounding.rounding import Floats

LayerType = Literal["full_attention", "sliding_attention"]
Angles = tuple[str, str]  # cosines and sines, float32 [1, T, head_size / 2]


ROPE_TYPES = ("default", "linear", "llama3")


class RopeScaling(msgspec.Struct, frozen=True):
    """config.json's rope_scaling, or rope_parameters of transformers 5."""

    rope_type: str | None = None
    type: str | None = None  # the older name
    rope_theta: float | None = None
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    def __post_init__(self) -> None:
        if self.kind not in ROPE_TYPES:
            raise ValueError(
                f"rope_type {self.kind!r} is not supported, only {', '.join(ROPE_TYPES)}"
            )

    @property
    def kind(self) -> str:
        return self.rope_type or self.type or "default"

    def frequencies(self, head_size: int, theta: float) -> Floats:
        """Return the angles that pairs turn by from one position to the next: [head_size / 2].

        linear slows all of them down and llama3 the low ones, as
        ``transformers.modeling_rope_utils`` has it.
        """
        frequencies = rotary_frequencies(head_size, theta)
        if self.kind == "linear":
            frequencies = frequencies / self.factor
        if self.kind == "llama3":
            low, high = self.low_freq_factor, self.high_freq_factor
            turns = self.original_max_position_embeddings * frequencies / (2 * np.pi)
            share = np.clip((turns - low) / (high - low), 0, 1)
            frequencies = frequencies * (share + (1 - share) / self.factor)
        return np.asarray(frequencies, np.float32)


class RopeByLayerType(msgspec.Struct, frozen=True):
    """Where transformers 5 keeps the rotary settings of models with windows."""

    full_attention: RopeScaling
    sliding_attention: RopeScaling


def rotary_frequencies(head_size: int, theta: float) -> Floats:
    """Return the angles that a head's pairs turn by from one position to the next."""
    exponents = np.arange(0, head_size, 2, dtype=np.float32) / head_size
    return np.asarray(1 / theta**exponents, np.float32)


def rotary_angles(g: Graph, positions: str, frequencies: Floats) -> Angles:
    """Return cosines and sines of the angles of positions int64 [T]."""
    g.scope = "rotary"
    if g.is_plain:
        return tabled_angles(g, positions, frequencies)
    column = g.op("Unsqueeze", g.op("Cast", positions, to=TensorProto.FLOAT), g.constant([0, 2]))
    angles = g.op("Mul", column, g.constant(frequencies))
    return g.op("Cos", angles), g.op("Sin", angles)


def rotate(g: Graph, x: str, angles: Angles, num_heads: int) -> str:
    """Rotate the heads of [T, heads·D] by their positions, whatever the type of these numbers."""
    cosines, sines = (g.cast(part, g.float_type(x)) for part in angles)
    batched = g.op("Unsqueeze", x, g.constant([0]))
    rotated = g.op("RotaryEmbedding", batched, cosines, sines, num_heads=num_heads)
    return g.op("Squeeze", rotated, g.constant([0]))
