"""Variants of a bundle: a graph by each recipe, measured against the original."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from edgerank.errors import InputError
from edgerank.manifest import CPU_PROVIDER, Fidelity, Kept, Needs, Variant
from quantize.graph.precision import matrix_of
from quantize.measure.fidelity import Reference, WrittenGraph, measure_graph
from quantize.recipe import Recipe
from quantize.rounding.rounding import Floats
from quantize.rounding.sensitivity import KeepFp32, Sensitivity, choose


class GraphWriter(Protocol):
    """What writes a checkpoint's graphs, whichever way."""

    @property
    def reference(self) -> Reference:
        """What the original makes of the held-out text, in float32."""

    def write(self, path: Path, recipe: Recipe, keep: Sequence[str]) -> WrittenGraph:
        """Write a graph, with the matrices that fit ``keep`` in float32."""

    def measure_sensitivities(self, recipe: Recipe) -> list[Sensitivity]:
        """Find out what rounding each matrix alone costs; the largest error first."""


@dataclass(frozen=True)
class Measurement:
    """A graph's scores beside the original's."""

    reference: Reference
    fidelity: Fidelity
    scores: Floats  # of the held-out text
    sensitivities: Sequence[Sensitivity]  # if matrices to keep in float32 were sought


def make_variant(
    writer: GraphWriter, recipe: Recipe, keep_fp32: KeepFp32, directory: Path
) -> tuple[Variant, Measurement | None]:
    """Write a variant's files into a directory and measure it, unless it is in float32.

    :raises InputError: a pattern of ``keep_fp32`` fits no matrix
    :raises QuantizeError: the checkpoint lacks something, or cannot be exported
    """
    path = directory / f"model.{recipe.precision}.onnx"
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


def _variant(recipe: Recipe, path: Path, fidelity: Fidelity | None, kept: Kept | None) -> Variant:
    return Variant(
        name=recipe.precision,
        precision=recipe.precision,
        provider=CPU_PROVIDER,
        recipe=str(recipe),
        graph=path.name,
        weights=(f"{path.name}.data",),
        needs=Needs(),
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
