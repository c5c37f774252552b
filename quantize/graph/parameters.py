"""The parameters of layers: norms, matrices, and matrices whose columns are heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from quantize.graph.builder import Graph
from quantize.graph.precision import Precision, Rows, add_rests, rests_of, scaled
from quantize.graph.rotary import Angles, rotate
from quantize.rounding.rounding import Floats


@dataclass(frozen=True)
class Norm:
    """A normalisation of rows."""

    name: str
    kind: Literal["layer", "rms"]
    gain: Floats  # [H]
    bias: Floats | None  # [H]
    epsilon: float

    def divided(self, scales: Floats) -> Norm:
        """Divide what the norm puts out."""
        bias = None if self.bias is None else self.bias / scales
        return replace(self, gain=self.gain / scales, bias=bias)

    def write(self, g: Graph, x: str) -> str:
        """Normalise the last axis of [..., H], of whatever floating-point type."""
        self.declare(g, x)
        return self.apply(g, x)

    def declare(self, g: Graph, x: str) -> None:
        """Add the parameters to a graph, of the type of what they are to normalise."""
        g.parameter(f"{self.name}.weight", self.gain, x)
        if self.bias is not None:
            g.parameter(f"{self.name}.bias", self.bias, x)

    def apply(self, g: Graph, x: str) -> str:
        """Normalise by the parameters that a graph has."""
        gain, bias = self.weights
        if self.kind == "rms":
            return g.op("RMSNormalization", x, gain, epsilon=self.epsilon)
        parameters = [gain, bias] if bias else [gain]
        return g.op("LayerNormalization", x, *parameters, axis=-1, epsilon=self.epsilon)

    @property
    def weights(self) -> list[str]:
        """Names of its parameters, as compiled operators read them."""
        return [f"{self.name}.weight", "" if self.bias is None else f"{self.name}.bias"]


@dataclass(frozen=True)
class Matrix:
    """A linear layer's parameters."""

    name: str
    weight: Floats  # [N, K]
    bias: Floats | None = None  # [N]

    def write(self, g: Graph, precision: Precision, rows: Rows, added: str = "") -> str:
        """Compute rows · weightᵀ + bias + ``added``: [T, N].

        It has the type of what is added, or of what the precision has between matrices.
        """
        product = precision.matmul(g, rows, self.name, self.weight)
        y = scaled(g, product)
        if self.bias is not None:
            y = g.op("Add", y, g.parameter(f"{self.name}.bias", self.bias, y))
        if added:
            y = g.op("Add", g.cast(y, g.float_type(added)), added)
        return add_rests(g, product, y)

    @property
    def weights(self) -> list[str]:
        """Names of its parameters, as compiled operators read them."""
        bias = "" if self.bias is None else f"{self.name}.bias"
        return [self.name, f"{self.name}.scales", f"{self.name}.sums", bias]

    def rests(self, g: Graph) -> list[str]:
        """Names of what rounding took from the weight, likewise; "" where that is not kept."""
        name = rests_of(self.name)
        return [name, f"{name}.scales", f"{name}.sums"] if name in g.weights else [""] * 3


@dataclass(frozen=True)
class Heads:
    """A matrix whose product's leading columns are heads: queries, or keys beside their values."""

    matrix: Matrix
    count: int
    size: int
    norm: Norm | None = None  # of each head

    def write(self, g: Graph, precision: Precision, rows: Rows, angles: Angles | None) -> str:
        """Compute the product, its heads normalised and rotated: [T, N]."""
        product = self.matrix.write(g, precision, rows)
        if self.norm is None and angles is None:
            return product
        width, others = self.count * self.size, len(self.matrix.weight) - self.count * self.size
        if not others:
            return self._place(g, product, angles)
        sizes = g.constant([width, others])
        heads, values = g.ops("Split", product, sizes, count=2, axis=1)
        return g.op("Concat", self._place(g, heads, angles), values, axis=1)

    def _place(self, g: Graph, x: str, angles: Angles | None) -> str:
        if self.norm is not None:
            heads = g.op("Reshape", x, g.constant([0, -1, self.size]))
            x = g.op("Reshape", self.norm.write(g, heads), g.constant([0, -1]))
        return x if angles is None else rotate(g, x, angles, self.count)

    @property
    def weights(self) -> list[str]:
        """Names of its parameters, as compiled operators read them."""
        return [*self.matrix.weights, self.norm.weights[0] if self.norm else ""]
