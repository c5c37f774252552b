"""A model's layers become those of a graph, and the graph is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from edgerank.bundle import Fidelity, Kept
from edgerank.packing import Batch
from quantize.calibration import Draft
from quantize.errors import QuantizeError
from quantize.fidelity import Reference, compare
from quantize.graph import Graph
from quantize.layerwise import Layerwise
from quantize.model import Layer, Model
from quantize.precision import Float32, Int4, Int8, Precision
from quantize.report import Report, ScoredPair
from quantize.sensitivity import KeepFp32, Sensitivity, choose, measure_sensitivities
from quantize.weights import Floats

Step = Literal["rotate", "balance", "compensate"]

ROUNDED = {"int8": Int8, "int4": Int4}
SENSITIVITY_BATCHES = 2  # micro-batches that show which matrices lose most


@dataclass(frozen=True)
class Writer:
    """How a model's layers become those of a graph."""

    model: Model[Any]
    precision: str
    steps: Sequence[Step]
    engine: Layerwise
    batches: Sequence[Batch]  # of calibration text
    bar: tqdm  # advances by one a layer

    def write(self, path: Path, keep: Sequence[str]) -> tuple[Graph, list[str]]:
        """Write the graph; return it with the names of the streams after each layer."""
        g = Graph(path)
        try:
            inputs = self.model.declare(g)
            x = self.model.embed(g, self._precision({}, keep), inputs)
            streams = []
            for layer, rows in self._layers():
                x = layer.write(g, self._precision(rows, keep), inputs, x)
                streams.append(x)
                del layer, rows
            self.model.finish(g, self._precision({}, keep), inputs, x)
            g.save()
        finally:
            g.close()
        return g, streams

    def _layers(self) -> Iterator[tuple[Layer[Any], Mapping[str, Floats]]]:
        """Yield each layer, equalised, with what its matrices read of the calibration text."""
        if not {"balance", "compensate"}.intersection(self.steps):
            for index in range(self.model.num_layers):
                yield self.model.layer(index), {}
                self.bar.update()
            return
        for step in self.engine.steps(self.batches, observe=True):
            layer, rows = step.layer, step.rows
            if "balance" in self.steps:
                layer, rows = layer.balanced(rows)
            yield layer, rows if "compensate" in self.steps else {}
            del step, layer, rows  # before the next layer's take their place

    def _precision(self, rows: Mapping[str, Floats], keep: Sequence[str]) -> Precision:
        if self.precision == "fp32":
            return Float32()
        return ROUNDED[self.precision](rows, keep)


def write_and_measure(
    draft: Draft, writer: Writer, reference: Reference, keep_fp32: KeepFp32
) -> Report:
    """Write the graph and measure it; once more with the matrices that are to be kept."""

    def attempt(keep: Sequence[str]) -> tuple[Fidelity, Floats, Graph]:
        g, streams = writer.write(draft.bundle.model_path, keep)
        g.save(extra_outputs=streams)
        fidelity, scores = compare(draft, streams, writer.model, reference)
        g.save()
        return fidelity, scores, g

    fidelity, scores, g = attempt(())
    kept: Kept | None = None
    sensitivities: Sequence[Sensitivity] = ()
    if keep_fp32:
        if keep_fp32 == "auto" or isinstance(keep_fp32, int):
            batches = writer.batches[:SENSITIVITY_BATCHES]
            rounded = ROUNDED[writer.precision]
            sensitivities = measure_sensitivities(writer.engine, batches, rounded)
            keep_fp32 = choose(sensitivities, keep_fp32)
        else:
            _check_names(keep_fp32, [name for name in g.weights if f"{name}.scales" in g.weights])
        size, without = _size(draft), fidelity
        if keep_fp32:
            fidelity, scores, _ = attempt(keep_fp32)
        added = _size(draft) - size
        kept = Kept(tuple(keep_fp32), added, without.mean_error, without.kendall_tau)
    about = draft.bundle.manifest
    return Report(
        source=about.source,
        family=about.family,
        precision=about.precision,
        recipe=about.recipe,
        fidelity=fidelity,
        kept=kept,
        sensitivities=sensitivities,
        pairs=[
            ScoredPair(pair.query, pair.id, float(before), float(after))
            for pair, before, after in zip(reference.pairs, reference.scores, scores, strict=True)
        ],
    )


def _check_names(patterns: Sequence[str], matrices: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in matrices):
            raise QuantizeError(
                f"keep_fp32: {pattern!r} matches none of the rounded matrices, which are named like"
                f" {', '.join(sorted(matrices)[:8])}"
            )


def _size(draft: Draft) -> int:
    """Bytes of the graph and its weights."""
    return sum(
        path.stat().st_size
        for path in draft.bundle.directory.glob(f"{draft.bundle.model_path.name}*")
    )
