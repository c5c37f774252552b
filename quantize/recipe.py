"""Recipes: the precision of a graph, and the steps that reduce rounding errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from onnx import TensorProto

from edgerank.errors import InputError
from edgerank.manifest import CPU_PROVIDER, CUDA_PROVIDER, PrecisionName
from quantize.graph.half import HALF_TYPES, Half
from quantize.graph.int8 import FineInt8, Int4, Int8
from quantize.graph.precision import Float32, Precision
from quantize.rounding.rounding import Floats

RecipeStep = Literal["rotate", "mix", "smooth", "gptq", "refine"]

STEPS: Mapping[RecipeStep, str] = {
    "rotate": "rotated",
    "mix": "gated products mixed in blocks of channels",
    "smooth": "channels smoothed",
    "gptq": "rounding errors compensated",
    "refine": "rows of decoders and of int8-fine rounded in two terms",
}
STEPS_OF_INT8 = ("mix", "refine")  # in other precisions, rows are not rounded by the graph
PRECISIONS: Mapping[PrecisionName, str] = {
    "int8": "int8 weights per output channel; uint8 activations per token; int8 embedding per"
    " block of a row",
    "int8-fine": "int8 weights per output channel, in two terms for rows in two terms; uint8"
    " activations per token; float16 embedding",
    "int4": "int4 weights per block of an output channel; int8 embedding per block of a row",
    "fp32": "float32 weights and activations",
    "fp16": "float16 weights and activations; float32 head",
    "bf16": "bfloat16 weights and activations; float32 head",
}
ROUNDED: Mapping[PrecisionName, type[Int8]] = {"int8": Int8, "int8-fine": FineInt8, "int4": Int4}

PrecisionChoice = PrecisionName | Literal["half"]  # fp16, or bf16 if the activations need its range
CHOICES: tuple[PrecisionChoice, ...] = (*get_args(PrecisionName), "half")


@dataclass(frozen=True)
class Recipe:
    """The recipe of one graph of a bundle."""

    precision: PrecisionName
    steps: tuple[RecipeStep, ...] = ()
    has_float_stream: bool = False  # in half precision: whether the hidden state is float32
    wider: Recipe | None = None  # the recipe to use if float16's range does not suffice

    @property
    def is_rounded(self) -> bool:
        """Whether weights become integers."""
        return self.precision in ROUNDED

    @property
    def is_half(self) -> bool:
        """Whether it is for a GPU, in half precision."""
        return self.precision in HALF_TYPES

    @property
    def is_measured(self) -> bool:
        """Whether scores differ from the original's."""
        return self.is_rounded or self.is_half

    @property
    def provider(self) -> str:
        """The execution provider that the graph is for."""
        return CUDA_PROVIDER if self.is_half else CPU_PROVIDER

    @property
    def variant(self) -> str:
        """The name of the variant."""
        return f"cuda-{self.precision}" if self.is_half else self.precision

    @property
    def with_float_stream(self) -> Recipe:
        """The same, or the wider one that has its hidden state in float32."""
        is_narrow = self.is_half and not self.has_float_stream
        return self.wider if is_narrow and self.wider is not None else self

    def graph_precision(self, rows: Mapping[str, Floats], keep: Sequence[str]) -> Precision:
        """Return what writes matrices.

        :param rows: float32 [T, K] by site, what GPTQ compensates errors on
        :param keep: patterns of matrices to leave in float32
        """
        if self.is_half:
            dtype = HALF_TYPES[self.precision]
            return Half(dtype, TensorProto.FLOAT if self.has_float_stream else dtype)
        if not self.is_rounded:
            return Float32()
        return ROUNDED[self.precision](
            rows, keep, mixes="mix" in self.steps, refines="refine" in self.steps
        )

    def head_precision(self, keep: Sequence[str]) -> Precision:
        """Return what writes the matrices of the head, which is float32 for a GPU."""
        return Float32() if self.is_half else self.graph_precision({}, keep)

    def __str__(self) -> str:
        stream = ["float32 hidden state"] if self.has_float_stream else []
        steps = (STEPS[step] for step in self.steps)
        return "; ".join([PRECISIONS[self.precision], *stream, *steps])


def recipe_of(choice: PrecisionChoice, steps: Sequence[RecipeStep]) -> Recipe:
    """Return the recipe of a choice, with those of the steps that change its graph."""
    # a hidden state in bfloat16 would add to the error, of models that need care already
    bf16 = Recipe("bf16", has_float_stream=True)
    if choice == "bf16":
        return bf16
    if choice == "fp16" or choice == "half":
        wide = Recipe("fp16", has_float_stream=True, wider=bf16 if choice == "half" else None)
        return Recipe("fp16", wider=wide)
    is_int8 = choice in ("int8", "int8-fine")
    return Recipe(choice, tuple(step for step in steps if is_int8 or step not in STEPS_OF_INT8))


def check_precisions(precision: str | Sequence[str]) -> list[PrecisionChoice]:
    """Return the precisions that a caller names, in their order.

    :raises InputError: one is unknown or named twice, or there is none
    """
    names = list(precision) if isinstance(precision, list | tuple) else [str(precision)]
    known: dict[str, PrecisionChoice] = {name: name for name in CHOICES}
    for name in names:
        if name not in known:
            raise InputError("precision", f"{name!r} is unknown; choose {', '.join(known)}")
        if names.count(name) > 1:
            raise InputError("precision", f"{name!r} is named twice")
    if not names:
        raise InputError("precision", f"none is named; choose {', '.join(known)}")
    if "half" in names and not HALF_TYPES.keys().isdisjoint(names):
        raise InputError("precision", "'half' is fp16 or bf16 already; leave one of them out")
    return [known[name] for name in names]


def check_steps(steps: Sequence[str]) -> tuple[RecipeStep, ...]:
    """Return the steps that a caller names.

    :raises InputError: one is unknown
    """
    for step in steps:
        if step not in STEPS:
            raise InputError("steps", f"{step!r} is unknown; choose {', '.join(STEPS)}")
    return tuple(step for step in STEPS if step in steps)
