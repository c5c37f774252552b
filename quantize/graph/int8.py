"""Weights and rows as integers: the precisions int8, int8-fine and int4."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from quantize.graph.builder import Graph
from quantize.graph.functions import CONTRIB
from quantize.graph.panels import in_panels, out_of_panels
from quantize.graph.precision import (
    ALL,
    ChannelSlice,
    Float32,
    MatmulInput,
    Product,
    RefinedRows,
    Rows,
    matrix_of,
    rests_of,
    row_range,
)
from quantize.rounding.mixing import LARGEST_BLOCK, hadamard, mixed, mixed_block
from quantize.rounding.rounding import (
    Floats,
    ldl_factor,
    quantize_blocks,
    quantize_channels,
    quantize_rows_blockwise,
)

EMBEDDING_CHUNK_ROWS = 16384  # bounds the float32 copy of a table while it is rounded
SLICE_CHANNELS = 2048  # between two matrices at once: with 512 tokens, 4 MB, which caches hold
FEWEST_SLICES = 3  # two cost more than they bring (benchmarks/model/slices.py)
SLICE_MULTIPLE = LARGEST_BLOCK  # channels, so that slices are whole vectors and blocks
INT64_MAX = 2**63 - 1  # the end of a slice that takes all
INT4_BLOCK = 32  # weights that share a scale


@dataclass(frozen=True)
class Int8:
    """int8 weights per output channel, uint8 activations per token.

    x ─┬─ Abs ─ ReduceMax ── peak [T, 1] ── Mul(1/127) ── step [T, 1]
       └─ Mul(127 / peak) ── QuantizeLinear(1, 128) ── integers uint8 [T, K]

    integers ─ MatMulIntegerToFloat(W [K, N], channel scales) ─ Mul(step) ─ product [T, N]

    A row of zeros has a peak and a step of 0: whatever its integers, its product is 0.

    Blocks of a row may be mixed by a Hadamard matrix before they are rounded, and the matrix's rows
    likewise: what stands out of a block is spread over all of it (QuaRot, arXiv 2404.00456).

    Rows that hardly go below zero are given nearly all of the range for what is above: their peak
    is Max(ReduceMax(x), floor), the zero point 16, the levels 239.

    Refined rows have a second term, for what rounding took from them, at most half a step:

    Mul(127 / peak) ── Gather(refined) ─┬─ Sub ─ Mul(256) ── QuantizeLinear(1, 128) ── rests
                                        └─ Round ┘

    rests ─ MatMulIntegerToFloat(W, channel scales) ─ Mul(step / 256) ─ added to the product's rows

    Stock operators multiply integers and rests at once, as rows of one operand.

    A finer precision multiplies these rows by what rounding took from the weights, too:

    integers ─ Gather(refined) ─ MatMulIntegerToFloat(rests of W, their scales) ─ added likewise

    The compiled kernels do the same operation by operation (edgerank/kernels/src/kernels.h).
    """

    inputs: Mapping[str, Floats] = field(default_factory=dict)  # calibration rows [T, K] by site
    keep: Sequence[str] = ()  # patterns of matrices that stay in float32
    mixes: bool = True  # channels
    refines: bool = True  # rows
    refines_weights: ClassVar[bool] = False  # that refined rows are multiplied by
    _ldl_factors: dict[str, Floats] = field(default_factory=dict)  # by site and part, once needed

    def slices(self, width: int) -> Sequence[ChannelSlice]:
        count = -(-width // SLICE_CHANNELS)
        if count < FEWEST_SLICES:
            return [ALL]
        size = -(-width // (count * SLICE_MULTIPLE)) * SLICE_MULTIPLE
        return [ChannelSlice(i, i + size) for i in range(0, width, size)]

    def embedding(self, g: Graph, name: str, table: Floats, ids: str) -> str:
        vocabulary, hidden = table.shape
        block_size = min(128, hidden & -hidden)  # the largest power of two that divides the row
        if self._is_kept(name) or block_size < 16:  # the operator's smallest block
            return Float32().embedding(g, name, table, ids)
        values = np.empty((vocabulary, hidden), np.uint8)
        scales = np.empty((vocabulary, hidden // block_size), np.float32)
        for start in range(0, vocabulary, EMBEDDING_CHUNK_ROWS):
            chunk = slice(start, start + EMBEDDING_CHUNK_ROWS)
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

    def mixed_block(self, width: int) -> int:
        return mixed_block(width) if self.mixes else 0

    def refined(self, rows: RefinedRows) -> str:
        return rows.int8 if self.refines else ""

    def rows(self, g: Graph, operand: MatmulInput) -> Rows:
        x, carried = operand.x, operand.carried
        range_, mixing = row_range(operand.least), ""
        if operand.mixed_block:
            mixing = _mixing(g, operand.mixed_block)
            blocks = g.op("Reshape", x, g.constant([0, -1, operand.mixed_block]))
            x = g.op("Reshape", g.op("MatMul", blocks, mixing), g.constant([0, -1]))
        top = x if range_.floor is not None else g.op("Abs", x)
        peak = g.op("ReduceMax", top, g.constant([-1]), keepdims=1)
        if range_.floor is not None:
            peak = g.op("Max", peak, g.constant(range_.floor))
        step = g.op("Mul", peak, g.constant(1 / range_.levels))
        zero_point = g.constant(np.uint8(range_.zero_point))
        scaled_x = g.op("Mul", x, g.op("Div", g.constant(float(range_.levels)), peak))
        rests = ""
        if operand.refined:
            some = g.op("Gather", scaled_x, operand.refined)
            lost = g.op("Sub", some, g.op("Round", some))
            rests = _quantize(g, g.op("Mul", lost, g.constant(float(range_.units))), zero_point)
        real = operand.x
        if carried is not None:
            step, real = g.op("Mul", step, carried), g.op("Mul", real, carried)
        return Rows(
            operand.site,
            real,
            _quantize(g, scaled_x, zero_point),
            step,
            zero_point,
            operand.part,
            operand.mixed_block,
            mixing,
            operand.refined,
            rests,
            range_.units,
        )

    def matmul(self, g: Graph, rows: Rows, name: str, weight: Floats) -> Product:
        if self._is_kept(name):
            return Float32().matmul(g, rows, name, weight)
        return self._rounded_matmul(g, rows, name, weight)

    def _rounded_matmul(self, g: Graph, rows: Rows, name: str, weight: Floats) -> Product:
        if rows.mixed_block:
            weight = mixed(weight, rows.mixed_block) / np.float32(rows.mixed_block)
        values, scales = quantize_channels(weight, self._ldl_at(rows))
        integers = rows.integers
        if rows.rests:
            integers = g.op("Concat", integers, rows.rests, axis=0)
        product = _multiply(g, integers, rows.zero_point, name, values, scales)
        if not rows.rests:
            return Product(product, rows.step)
        num_rows = g.op("Shape", rows.integers, start=0, end=1)
        rests = g.op("Slice", product, num_rows, g.constant([INT64_MAX]), g.constant([0]))
        rests = g.op("Mul", rests, g.constant(1 / rows.units))
        whole = g.op("Slice", product, g.constant([0]), num_rows, g.constant([0]))
        if self.refines_weights:
            lost = quantize_channels(weight - values * scales[:, None])
            some = g.op("Gather", rows.integers, rows.refined)
            others = _multiply(g, some, rows.zero_point, rests_of(name), *lost)
            rests = g.op("Add", rests, others)
        return Product(whole, rows.step, rows.refined, rests)

    def has_kernels(self, names: Collection[str]) -> bool:
        return not any(map(self._is_kept, names))

    def _is_kept(self, name: str) -> bool:
        return any(fnmatchcase(matrix_of(name), pattern) for pattern in self.keep)

    def _ldl_at(self, rows: Rows) -> Floats | None:
        key = rows.part.name(rows.site)
        if rows.site in self.inputs and key not in self._ldl_factors:
            inputs = self.inputs[rows.site][:, rows.part.channels]
            self._ldl_factors[key] = ldl_factor(mixed(inputs, rows.mixed_block))
        return self._ldl_factors.get(key)


@dataclass(frozen=True)
class FineInt8(Int8):
    """int8 with weights in two terms for refined rows.

    These rows are nearly exact. In an encoder they are all rows. In a decoder they are few, and the
    error that is left is that of the others, seen through attention. The embedding is float16: its
    errors would be in all that follows.
    """

    refines_weights: ClassVar[bool] = True

    def refined(self, rows: RefinedRows) -> str:
        return rows.fine if self.refines else ""

    def embedding(self, g: Graph, name: str, table: Floats, ids: str) -> str:
        if self._is_kept(name) or max(table.max(), -table.min()) > np.finfo(np.float16).max:
            return Float32().embedding(g, name, table, ids)
        rows = g.op("Gather", g.weight(name, table.astype(np.float16)), ids)
        return g.op("Cast", rows, to=TensorProto.FLOAT)


@dataclass(frozen=True)
class Int4(Int8):
    """4-bit weights per block of an output channel; the operator sees to the activations.

    The embedding stays int8: it is memory-mapped, and only the rows in use cost memory.
    """

    def mixed_block(self, width: int) -> int:
        return 0  # the operator rounds rows by itself

    def _rounded_matmul(self, g: Graph, rows: Rows, name: str, weight: Floats) -> Product:
        num_channels, depth = weight.shape
        if depth % INT4_BLOCK:
            return Float32().matmul(g, rows, name, weight)
        values, scales = quantize_blocks(weight, INT4_BLOCK, self._ldl_at(rows))
        product = g.op(
            "MatMulNBits",
            rows.real,
            g.weight(name, values),
            g.weight(f"{name}.scales", scales),
            domain=CONTRIB,
            K=depth,
            N=num_channels,
            bits=4,
            block_size=INT4_BLOCK,
            accuracy_level=4,  # int8 products where the CPU has them
        )
        return Product(product, None)

    def has_kernels(self, names: Collection[str]) -> bool:
        return False


def _multiply(
    g: Graph, integers: str, zero_point: str, name: str, values: NDArray[np.int8], scales: Floats
) -> str:
    """Multiply uint8 rows by a matrix that becomes a weight of the graph: float32 [T, N]."""
    matrix = out_of_panels(g, g.weight(name, in_panels(values)), *values.shape)
    channel_scales = g.weight(f"{name}.scales", scales)
    g.weight(f"{name}.sums", values.sum(axis=1, dtype=np.int32))  # for compiled operators
    # ONNX Runtime makes uint8 of a matrix and its zero point (edgerank/session.py), but not if
    # several products read either, and before 1.24 not without a zero point
    own_zero_point = g.op("Constant", value=numpy_helper.from_array(np.array(0, np.int8)))
    return g.op(
        "MatMulIntegerToFloat",
        integers,
        matrix,
        g.constant(1.0),
        channel_scales,
        zero_point,
        own_zero_point,
        domain=CONTRIB,
    )


def _quantize(g: Graph, x: str, zero_point: str) -> str:
    """Round to uint8 around a zero point."""
    # ONNX Runtime before 1.24 lacks ai.onnx's of this opset
    return g.op("QuantizeLinear", x, g.constant(1.0), zero_point, domain=CONTRIB)


def _mixing(g: Graph, block: int) -> str:
    """Return the matrix that mixes channels, one for all that read it."""
    name = f"hadamard.{block}"
    return name if name in g.weights else g.weight(name, hadamard(block))
