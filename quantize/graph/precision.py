"""How numbers are held: the precisions a graph can be written in.

A linear layer is written as rows → matmul → scaled, so that one quantization of a row serves every
matrix that reads it, and so that a row's scale can be carried past operations that commute with it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from quantize.graph.builder import Graph
from quantize.rounding.rounding import (
    INT8_MAX,
    Floats,
)

ZERO_POINT = 128  # of rows that go as far below zero as above: 127 levels on each side
ONE_SIDED_ZERO_POINT = 16  # of rows that hardly go below zero: 239 levels above it
OBSERVED = "rows/"  # before a site, the name of the output with its rows


@dataclass(frozen=True)
class ChannelSlice:
    """Consecutive channels out of several."""

    start: int = 0
    stop: int | None = None  # None for all that follow

    @property
    def channels(self) -> slice:
        return slice(self.start, self.stop)

    def name(self, whole: str) -> str:
        """Name what is this part of something else."""
        return whole if self == ALL else f"{whole}/{self.start}"


ALL = ChannelSlice()


@dataclass(frozen=True)
class RefinedRows:
    """Rows that a precision may round in two terms: int64 [R], ascending; "" for none."""

    int8: str = ""
    fine: str = ""  # by FineInt8: the same, and more


@dataclass(frozen=True)
class MatmulInput:
    """What matrices are to read."""

    site: str  # where in the model, for calibration
    x: str  # float32 [T, K]
    carried: str | None = None  # float32 [T, 1], a factor that ``x`` still lacks
    least: float | None = None  # a small negative number that no element of ``x`` is below
    part: ChannelSlice = ALL  # of the site's channels
    mixed_block: int = 0  # channels that are mixed before they are rounded; 0: none
    refined: str = ""  # int64 [R], ascending, the rows that get a second term; "" for none


@dataclass(frozen=True)
class RowRange:
    """How far apart a row's integers lie, and where zero is among them."""

    zero_point: int
    levels: int  # above zero
    floor: float | None  # the least peak of a one-sided range, None for a symmetric one

    @property
    def units(self) -> int:
        """How finely rests are rounded, in a step."""
        return 2 * self.zero_point


SYMMETRIC = RowRange(ZERO_POINT, INT8_MAX, None)


def row_range(least: float | None) -> RowRange:
    """Return the range of rows of which no element is below ``least``, None for any rows."""
    if least is None:
        return SYMMETRIC
    levels = 255 - ONE_SIDED_ZERO_POINT
    return RowRange(ONE_SIDED_ZERO_POINT, levels, -least * levels / ONE_SIDED_ZERO_POINT)


@dataclass(frozen=True)
class Rows:
    """Rows ready to be multiplied, once as they are and once as integers.

    The writer emits both; a graph drops the one that no matrix reads.
    """

    site: str  # where in the model they are read
    real: str  # float32 [T, K]
    integers: str = ""  # uint8 [T, K]; the real row is (integers - zero point) * step
    step: str = ""  # float32 [T, 1]
    zero_point: str = ""  # uint8
    part: ChannelSlice = ALL  # of the site's channels
    mixed_block: int = 0  # channels of the integers that are mixed; 0: none
    mixing: str = ""  # the matrix that mixes them, float32
    refined: str = ""  # int64 [R], the rows that have rests; "" for none
    rests: str = ""  # uint8 [R, K], what rounding took from them
    units: int = 1  # of the rests, in a step


@dataclass(frozen=True)
class Product:
    """Rows times a matrix: the real product is ``values * step``, and what refines it."""

    values: str  # float32 [T, N]
    step: str | None  # float32 [T, 1], None for 1
    refined: str = ""  # int64 [R], the rows that are refined; "" for none
    rests: str = ""  # float32 [R, N], to be added to their values


class Precision(Protocol):
    """What an architecture needs to know of a precision."""

    def slices(self, width: int) -> Sequence[ChannelSlice]:
        """Cut the channels between two matrices into those to compute at once."""

    def embedding(self, g: Graph, name: str, table: Floats, ids: str) -> str:
        """Look up rows of ``table`` [V, H] for ``ids`` int64 [T]: float32 [T, H]."""

    def mixed_block(self, width: int) -> int:
        """How many of ``width`` channels are mixed together before they are rounded; 0: none."""

    def refined(self, rows: RefinedRows) -> str:
        """Choose the rows to round in two terms; "" for none."""

    def rows(self, g: Graph, operand: MatmulInput) -> Rows:
        """Prepare rows to be multiplied."""

    def matmul(self, g: Graph, rows: Rows, name: str, weight: Floats) -> Product:
        """Multiply by ``weight`` [N, K]."""

    def has_kernels(self, names: Collection[str]) -> bool:
        """Whether compiled operators multiply by these matrices."""


class Float32:
    """float32 throughout: the reference that the others are measured against."""

    def slices(self, width: int) -> Sequence[ChannelSlice]:
        return [ALL]

    def embedding(self, g: Graph, name: str, table: Floats, ids: str) -> str:
        return g.op("Gather", g.weight(name, table), ids)

    def mixed_block(self, width: int) -> int:
        return 0

    def refined(self, rows: RefinedRows) -> str:
        return ""

    def rows(self, g: Graph, operand: MatmulInput) -> Rows:
        x, carried = operand.x, operand.carried
        real = x if carried is None else g.op("Mul", x, carried)
        return Rows(operand.site, real, part=operand.part)

    def matmul(self, g: Graph, rows: Rows, name: str, weight: Floats) -> Product:
        transposed = g.weight(name, np.ascontiguousarray(weight.T))
        return Product(g.op("MatMul", rows.real, transposed), None)

    def has_kernels(self, names: Collection[str]) -> bool:
        return False


@dataclass
class Observed(Float32):
    """float32 that puts out the rows of every site, and keeps the names of the matrices."""

    matrices: list[str] = field(default_factory=list)
    _sites: set[str] = field(default_factory=set)

    def rows(self, g: Graph, operand: MatmulInput) -> Rows:
        rows = super().rows(g, operand)
        if rows.site not in self._sites:  # all rows of a site come before some of them
            g.output(OBSERVED + rows.site, rows.real, ["tokens", "width"])
            self._sites.add(rows.site)
        return rows

    def matmul(self, g: Graph, rows: Rows, name: str, weight: Floats) -> Product:
        self.matrices.append(name)
        return super().matmul(g, rows, name, weight)


def scaled(g: Graph, product: Product) -> str:
    """Return the real product, float32 [T, N]."""
    return product.values if product.step is None else g.op("Mul", product.values, product.step)


def add_rests(g: Graph, product: Product, y: str) -> str:
    """Add to ``y``, float32 [T, N], which the product is part of, what refines some of its rows."""
    if not product.rests:
        return y
    rests = product.rests
    if product.step is not None:
        rests = g.op("Mul", rests, g.op("Gather", product.step, product.refined))
    places = g.op("Unsqueeze", product.refined, g.constant([1]))
    return g.op("ScatterND", y, places, rests, reduction="add")


def rests_of(weight: str) -> str:
    """Name what rounding took from a weight."""
    return f"{weight}/rests"


def matrix_of(weight: str) -> str:
    """Return the name of the matrix that a weight is, or is a part of."""
    return weight.partition("/")[0]
