"""Half precision: float16 or bfloat16, for GPUs.

Half numbers are what matrices hold, read and give out, and what lies between: queries, keys and
values, their products and the activations. The hidden state that layers add to, and what norms make
of it, are either of the two types. float32 stay masks and the angles of positions, which are
computed in it and then read in half precision, and the head. Kernels for CUDA add up products,
squares and softmaxes in float32, whatever the type of their inputs; but not the kernel that adds
and normalises at once, SkipLayerNormalization, which is not used here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnx import TensorProto

from quantize.graph.builder import Graph, in_type
from quantize.graph.precision import Float32, MatmulInput, Product, Rows
from quantize.rounding.rounding import Floats

HALF_TYPES = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


@dataclass(frozen=True)
class Half(Float32):
    """Weights and what lies between matrices in half precision."""

    dtype: int  # of TensorProto
    stream: int  # that of the hidden state: the same, or FLOAT

    def embedding(self, g: Graph, name: str, table: Floats, ids: str) -> str:
        rows = super().embedding(g, name, in_type(table, self.dtype), ids)
        return g.cast(rows, self.stream)

    def rows(self, g: Graph, operand: MatmulInput) -> Rows:
        return super().rows(g, replace(operand, x=g.cast(operand.x, self.dtype)))

    def matmul(self, g: Graph, rows: Rows, name: str, weight: Floats) -> Product:
        return super().matmul(g, rows, name, in_type(weight, self.dtype))
