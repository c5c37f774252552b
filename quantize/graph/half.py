"""Half precision: float16 or bfloat16 between the matrices of a layer, for GPUs.

Half numbers are what matrices hold, read and give out, and what lies between: queries, keys and
values, their products and the activations. float32 stays what would overflow or lose too much: the
hidden state that layers add to, what norms make of it, the angles of positions and the head. Masks
and angles are computed in float32 and read in half precision. Kernels for CUDA add up products,
squares and softmaxes in float32, whatever the type of their inputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from onnx import TensorProto

from quantize.graph.builder import Graph, numpy_type
from quantize.graph.precision import Float32, MatmulInput, Product, Rows
from quantize.rounding.rounding import Floats

HalfName = Literal["fp16", "bf16"]

HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Half(Float32):
    """Weights and what lies between matrices in half precision."""

    dtype: int  # of TensorProto

    def embedding(self, g: Graph, name: str, table: Floats, ids: str) -> str:
        rows = super().embedding(g, name, table.astype(numpy_type(self.dtype)), ids)
        return g.cast(rows, TensorProto.FLOAT)

    def rows(self, g: Graph, operand: MatmulInput) -> Rows:
        return super().rows(g, replace(operand, x=g.cast(operand.x, self.dtype)))

    def matmul(self, g: Graph, rows: Rows, name: str, weight: Floats) -> Product:
        return super().matmul(g, rows, name, weight.astype(numpy_type(self.dtype)))
