"""Makes the variants of a bundle: writes a graph for each recipe, and measures it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

import numpy as np

from edgerank.errors import InputError
from edgerank.manifest import Fidelity, Kept, Needs, Variant
from quantize.errors import QuantizeError
from quantize.graph.placement import check_placement
from quantize.graph.precision import matrix_of
from quantize.measure.fidelity import (
    RangeExceededError,
    Reference,
    WrittenGraph,
    measure_graph,
    measure_half_graph,
)
from quantize.recipe import Recipe
from quantize.rounding.rounding import Floats
from quantize.rounding.sensitivity import KeepFp32, Sensitivity, choose

FP16_MAX = 65504.0
HEADROOM = 4  # margin for larger activations on other texts than the held-out one


class GraphWriter(Protocol):
    """Writes the graphs of a checkpoint."""

    @property
    def reference(self) -> Reference:
        """The original's scores of the held-out text, in float32."""

    def write(self, path: Path, recipe: Recipe, keep: Sequence[str]) -> WrittenGraph:
        """Write a graph, with the matrices that fit ``keep`` in float32."""

    def measure_sensitivities(self, recipe: Recipe) -> list[Sensitivity]:
        """Measure the error of rounding each matrix alone; the largest error comes first."""


@dataclass(frozen=True)
class Measurement:
    """The scores of a graph, compared with the original's."""

    reference: Reference
    fidelity: Fidelity
    scores: Floats  # of the held-out text
    sensitivities: Sequence[Sensitivity]  # with keep_fp32


def make_variant(
    writer: GraphWriter, recipe: Recipe, keep_fp32: KeepFp32, directory: Path
) -> tuple[Variant, Measurement | None]:
    """Write a variant's files into a directory and measure it, unless it is in float32.

    :param keep_fp32: matrices of integers to leave in float32
    :raises InputError: a pattern of ``keep_fp32`` fits no matrix
    :raises QuantizeError: the checkpoint lacks something, or cannot be exported; or a graph for a
        GPU would be computed on the CPU in part, or does not fit float16's range
    """
    if recipe.is_half:
        return _make_half(writer, recipe, directory)
    path = _graph_path(recipe, directory)
    if not recipe.is_rounded:
        writer.write(path, recipe, ())
        return _variant(recipe, path, None, None), None
    reference = writer.reference  # before the graph takes its room on the disk
    sensitivities: Sequence[Sensitivity] = ()
    keep: Sequence[str]
    if keep_fp32 == "auto" or isinstance(keep_fp32, int):
        sensitivities = writer.measure_sensitivities(recipe)
        keep = choose(sensitivities, keep_fp32)
    else:
        keep = keep_fp32
    written = writer.write(path, recipe, ())
    if not sensitivities:
        _check_patterns(keep, written)
    fidelity, scores = measure_graph(written, reference)
    kept: Kept | None = None
    if keep or sensitivities:
        size, without = _size(written), fidelity
        if keep:
            written = writer.write(path, recipe, keep)
            fidelity, scores = measure_graph(written, reference)
        added = _size(written) - size
        kept = Kept(tuple(keep), added, without.mean_error, without.kendall_tau)
    measurement = Measurement(reference, fidelity, scores, sensitivities)
    return _variant(recipe, path, fidelity, kept), measurement


def _make_half(writer: GraphWriter, recipe: Recipe, directory: Path) -> tuple[Variant, Measurement]:
    """Write a variant in half precision, and measure it.

    :raises QuantizeError: as ``make_variant``
    """
    reference, path = writer.reference, _graph_path(recipe, directory)
    written = writer.write(path, recipe, ())
    check_placement(path)
    limit = FP16_MAX / HEADROOM if recipe.precision == "fp16" else np.inf
    try:
        fidelity, scores = measure_half_graph(written, reference, limit)
    except RangeExceededError as error:
        for file in (path, written.graph.data_path):
            file.unlink()
        if recipe.wider is not None:
            return _make_half(writer, recipe.wider, directory)
        raise QuantizeError(
            f"{recipe.precision} is refused: activations reach {error.largest:.4g} on the held-out"
            f" text, and float16 ends at {FP16_MAX:.0f}, which other texts may exceed; choose bf16"
        ) from error
    measurement = Measurement(reference, fidelity, scores, ())
    return _variant(recipe, path, fidelity, None), measurement


def _graph_path(recipe: Recipe, directory: Path) -> Path:
    return directory / f"model.{recipe.variant}.onnx"


def _variant(recipe: Recipe, path: Path, fidelity: Fidelity | None, kept: Kept | None) -> Variant:
    return Variant(
        name=recipe.variant,
        precision=recipe.precision,
        provider=recipe.provider,
        recipe=str(recipe),
        graph=path.name,
        weights=(f"{path.name}.data",),
        needs=Needs(gpu=recipe.is_half),
        fidelity=fidelity,
        kept=kept,
    )


def _check_patterns(patterns: Sequence[str], written: WrittenGraph) -> None:
    names = written.graph.weights
    matrices: Set[str] = {matrix_of(name) for name in names if f"{name}.scales" in names}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in matrices):
            raise InputError(
                "keep_fp32",
                f"{pattern!r} matches none of the rounded matrices, which are named like"
                f" {', '.join(sorted(matrices)[:8])}",
            )


def _size(written: WrittenGraph) -> int:
    """Bytes of the graph and its weights."""
    graph = written.graph
    return graph.path.stat().st_size + graph.data_path.stat().st_size
