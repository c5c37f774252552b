"""How numbers are held: the two precisions a graph can be written in.

A linear layer is written as rows → matmul → scaled, so that one quantization of a row serves every
matrix that reads it, and so that a row's scale can be carried past operations that commute with it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quantize.graph import CONTRIB, Graph
from quantize.weights import INT8_MAX, quantize_channels, quantize_rows_blockwise

EMBEDDING_CHUNK_ROWS = 16384  # bounds the float32 copy of a table while it is rounded


@dataclass(frozen=True)
class Rows:
    """Rows ready to be multiplied: the real row is ``values * scale``."""

    values: str  # float32 [T, K], or uint8 [T, K] with zero point 128 and step 1/127
    scale: str | None  # float32 [T, 1], None for 1


class Precision(Protocol):
    """What an architecture needs to know of a precision."""

    name: str

    def embedding(self, g: Graph, name: str, table: NDArray[np.float32], ids: str) -> str:
        """Look up rows of ``table`` [V, H] for ``ids`` int64 [T]: float32 [T, H]."""

    def rows(self, g: Graph, x: str, carried: Rows | None = None) -> Rows:
        """Prepare ``x`` float32 [T, K], which stands for ``x`` times the scale of ``carried``."""

    def matmul(self, g: Graph, rows: Rows, name: str, weight: NDArray[np.float32]) -> str:
        """Multiply by ``weight`` [N, K]; the product [T, N] still lacks the scale of ``rows``."""


class Float32:
    """float32 throughout: the reference that int8 is measured against."""

    name = "fp32"

    def embedding(self, g: Graph, name: str, table: NDArray[np.float32], ids: str) -> str:
        return g.op("Gather", g.weight(name, table), ids)

    def rows(self, g: Graph, x: str, carried: Rows | None = None) -> Rows:
        return Rows(x, None)

    def matmul(self, g: Graph, rows: Rows, name: str, weight: NDArray[np.float32]) -> str:
        return g.op("MatMul", rows.values, g.weight(name, np.ascontiguousarray(weight.T)))


class Int8:
    """int8 weights per output channel, uint8 activations per token.

    x ─┬─ Abs ─ ReduceMax ─┬──────────────────────────────────── scale [T, 1]
       └─────── Div ───────┴─ QuantizeLinear(1/127, 128) ─ values uint8 [T, K]

    values ─ MatMulIntegerToFloat(W int8 [K, N], channel scales / 127) ─ product float32 [T, N]

    A row of zeros divides 0 by 0; whatever integers come of it, the scale of 0 makes them 0 again.
    """

    name = "int8"

    def embedding(self, g: Graph, name: str, table: NDArray[np.float32], ids: str) -> str:
        vocabulary, hidden = table.shape
        block_size = min(128, hidden & -hidden)  # the largest power of two that divides the row
        if block_size < 16:  # the operator's smallest block
            return Float32().embedding(g, name, table, ids)
        values = np.empty((vocabulary, hidden), np.uint8)
        scales = np.empty((vocabulary, hidden // block_size), np.float32)
        for chunk in _row_chunks(vocabulary):
            values[chunk], scales[chunk] = quantize_rows_blockwise(table[chunk], block_size)
        return g.op(
            "GatherBlockQuantized",
            g.weight(name, values),
            ids,
            g.weight(f"{name}.scales", scales),
            domain=CONTRIB,
            gather_axis=0,
            quantize_axis=1,
            block_size=block_size,
            bits=8,
        )

    def rows(self, g: Graph, x: str, carried: Rows | None = None) -> Rows:
        peak = g.op("ReduceMax", g.op("Abs", x), g.constant([-1]), keepdims=1)
        values = g.op(
            "QuantizeLinear",
            g.op("Div", x, peak),
            g.constant(1 / INT8_MAX),
            g.constant(np.uint8(128)),
            domain=CONTRIB,  # ONNX Runtime before 1.24 lacks ai.onnx's of this opset
        )
        if carried is not None and carried.scale is not None:
            peak = g.op("Mul", peak, carried.scale)
        return Rows(values, peak)

    def matmul(self, g: Graph, rows: Rows, name: str, weight: NDArray[np.float32]) -> str:
        values, scale = quantize_channels(weight)
        return g.op(
            "MatMulIntegerToFloat",
            rows.values,
            g.weight(name, values),
            g.constant(1.0),
            g.weight(f"{name}.scales", scale / np.float32(INT8_MAX)),
            g.constant(np.uint8(128)),
            domain=CONTRIB,
        )


def scaled(g: Graph, product: str, rows: Rows) -> str:
    """Give a product of ``matmul`` the scale of its rows."""
    return product if rows.scale is None else g.op("Mul", product, rows.scale)


def _row_chunks(count: int) -> Iterator[slice]:
    for start in range(0, count, EMBEDDING_CHUNK_ROWS):
        yield slice(start, start + EMBEDDING_CHUNK_ROWS)


PRECISIONS: dict[str, Precision] = {"int8": Int8(), "fp32": Float32()}
