"""Recipes: in which precision a graph is written, and what makes its numbers easier to round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from edgerank.errors import InputError
from edgerank.manifest import PrecisionName
from quantize.graph.precision import FineInt8, Float32, Int4, Int8, Precision
from quantize.rounding.rounding import Floats

RecipeStep = Literal["rotate", "mix", "smooth", "gptq", "refine"]

STEPS: Mapping[RecipeStep, str] = {
    "rotate": "rotated",
    "mix": "gated products mixed in blocks of channels",
    "smooth": "channels smoothed",
    "gptq": "rounding errors compensated",
    "refine": "rows of a decoder rounded in two terms",
}
STEPS_OF_INT8 = ("mix", "refine")  # in other precisions, rows are not rounded by the graph
PRECISIONS: Mapping[PrecisionName, str] = {
    "int8": "int8 weights per output channel; uint8 activations per token; int8 embedding per"
    " block of a row",
    "int8-fine": "int8 weights per output channel, in two terms for rows in two terms; uint8"
    " activations per token; float16 embedding",
    "int4": "int4 weights per block of an output channel; int8 embedding per block of a row",
    "fp32": "float32 weights and activations",
}
ROUNDED: Mapping[PrecisionName, type[Int8]] = {"int8": Int8, "int8-fine": FineInt8, "int4": Int4}


@dataclass(frozen=True)
class Recipe:
    """How one graph of a bundle is written."""

    precision: PrecisionName
    steps: tuple[RecipeStep, ...]

    @property
    def is_rounded(self) -> bool:
        return self.precision in ROUNDED

    def graph_precision(self, rows: Mapping[str, Floats], keep: Sequence[str]) -> Precision:
        """Return what writes matrices.

        :param rows: float32 [T, K] by site, what GPTQ compensates errors on
        :param keep: patterns of matrices to leave in float32
        """
        if not self.is_rounded:
            return Float32()
        return ROUNDED[self.precision](
            rows, keep, mixes="mix" in self.steps, refines="refine" in self.steps
        )

    def __str__(self) -> str:
        return "; ".join([PRECISIONS[self.precision], *(STEPS[step] for step in self.steps)])


def steps_of(precision: PrecisionName, steps: Sequence[RecipeStep]) -> tuple[RecipeStep, ...]:
    """Return those of the steps that change a graph in a precision."""
    is_int8 = precision in ("int8", "int8-fine")
    return tuple(step for step in steps if is_int8 or step not in STEPS_OF_INT8)


def check_precisions(precision: str | Sequence[str]) -> list[PrecisionName]:
    """Return the precisions that a caller names, in their order.

    :raises InputError: one is unknown or named twice, or there is none
    """
    names = list(precision) if isinstance(precision, list | tuple) else [str(precision)]
    known: dict[str, PrecisionName] = {name: name for name in get_args(PrecisionName)}
    for name in names:
        if name not in known:
            raise InputError("precision", f"{name!r} is unknown; choose {', '.join(known)}")
        if names.count(name) > 1:
            raise InputError("precision", f"{name!r} is named twice")
    if not names:
        raise InputError("precision", f"none is named; choose {', '.join(known)}")
    return [known[name] for name in names]


def check_steps(steps: Sequence[str]) -> tuple[RecipeStep, ...]:
    """Return the steps that a caller names.

    :raises InputError: one is unknown
    """
    for step in steps:
        if step not in STEPS:
            raise InputError("steps", f"{step!r} is unknown; choose {', '.join(STEPS)}")
    return tuple(step for step in STEPS if step in steps)
