"""A model becomes a graph, layer by layer or through optimum, and the graph is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from edgerank.manifest import Fidelity, Kept
from edgerank.packing import Batch
from quantize.architectures.layered_model import Layer, LayeredModel
from quantize.checkpoint.files import Checkpoint
from quantize.errors import QuantizeError
from quantize.families.recognition import OptimumModel
from quantize.graph.builder import Graph
from quantize.graph.precision import Float32, Int4, Int8, Precision, matrix_of
from quantize.measure.calibration import Calibration, Draft, batches_of, thinned
from quantize.measure.fidelity import Reference, compare, measure, open_engine, run_reference
from quantize.measure.layerwise import Layerwise
from quantize.measure.report import Report, ScoredPair
from quantize.optimum.export import export
from quantize.optimum.rewrite import fold, write_rewritten
from quantize.rounding.rounding import Floats
from quantize.rounding.sensitivity import KeepFp32, Sensitivity, choose, measure_sensitivities
from quantize.rounding.transforms import outlier_channels

RecipeStep = Literal["rotate", "smooth", "gptq"]

ROUNDED = {"int8": Int8, "int4": Int4}
OUTLIER_BATCHES = 2  # micro-batches that show which channels stand out
SENSITIVITY_BATCHES = 2  # and which matrices lose most


def _outliers(engine: Layerwise, batches: Sequence[Batch]) -> list[int]:
    """Find the channels of the stream that stand out after some layer."""
    prominence = np.float32(0)
    for step in engine.steps(batches):
        rms = np.sqrt(np.square(np.concatenate(step.after)).mean(axis=0))
        prominence = np.maximum(prominence, rms / np.median(rms))
    return outlier_channels(prominence)


@dataclass(frozen=True)
class _Writer:
    """How a model's layers become those of a graph."""

    model: LayeredModel[Any]
    precision: str
    steps: Sequence[RecipeStep]
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
        if not {"smooth", "gptq"}.intersection(self.steps):
            for index in range(self.model.num_layers):
                yield self.model.layer(index), {}
                self.bar.update()
            return
        for step in self.engine.steps(self.batches, observe=True):
            layer, rows = step.layer, step.rows
            if "smooth" in self.steps:
                layer, rows = layer.smoothed(rows)
            yield layer, rows if "gptq" in self.steps else {}
            del step, layer, rows  # before the next layer's take their place

    def _precision(self, rows: Mapping[str, Floats], keep: Sequence[str]) -> Precision:
        if self.precision == "fp32":
            return Float32()
        return ROUNDED[self.precision](rows, keep)


def write_model(
    draft: Draft,
    original: LayeredModel[Any],
    steps: Sequence[RecipeStep],
    calibration: Calibration,
    keep_fp32: KeepFp32,
    bar: tqdm,
) -> Report | None:
    """Write a model's graph layer by layer; measure it unless it is in float32."""
    precision, scratch = draft.variant.precision, draft.scratch
    is_rounded = precision != "fp32"
    engine = Layerwise(original, scratch, bar)
    texts = thinned(draft, engine, calibration)
    batches = batches_of(draft, engine, texts.pairs)
    model = original
    if "rotate" in steps:
        model = model.rotated(_outliers(engine, batches[:OUTLIER_BATCHES]))
    passes = 1 + is_rounded + 2 * bool(keep_fp32)
    bar.total = bar.n + passes * model.num_layers
    writer = _Writer(model, precision, steps, Layerwise(model, scratch, bar), batches, bar)
    if not is_rounded:
        writer.write(draft.graph_path, ())
        return None
    reference = run_reference(draft, original, texts, scratch, bar)

    def attempt(keep: Sequence[str]) -> Attempt:
        g, streams = writer.write(draft.graph_path, keep)
        g.save(extra_outputs=streams)
        fidelity, scores = compare(draft, streams, model, reference)
        g.save()
        return Attempt(fidelity, scores, g)

    if keep_fp32 != "auto" and not isinstance(keep_fp32, int):
        return _report_on(draft, reference, attempt, keep_fp32)
    rounded = ROUNDED[precision]
    found = measure_sensitivities(writer.engine, batches[:SENSITIVITY_BATCHES], rounded)
    return _report_on(draft, reference, attempt, choose(found, keep_fp32), found)


def write_exported(
    draft: Draft,
    checkpoint: Checkpoint,
    imported: OptimumModel,
    calibration: Calibration,
    keep_fp32: KeepFp32,
) -> Report | None:
    """Export a checkpoint and rewrite its graph; measure it unless it is in float32.

    :raises QuantizeError: it cannot be exported, or matrices are to be chosen that only a model
        which runs layer by layer lets one choose
    """
    if keep_fp32 == "auto" or isinstance(keep_fp32, int):
        raise QuantizeError(
            f"{checkpoint.directory}: keep_fp32 'auto' or a number: not for an architecture that is"
            " exported by optimum; name the matrices to keep"
        )
    precision, scratch = draft.variant.precision, draft.scratch
    exported = fold(export(checkpoint, imported.model_class, scratch), scratch)
    path, padding = draft.graph_path, imported.pad_token_id
    if precision == "fp32":
        write_rewritten(exported, path, Float32(), padding)
        return None
    original = replace(draft.bundle, directory=scratch)
    original_path = original.graph_path(draft.variant)
    write_rewritten(exported, original_path, Float32(), padding)
    engine = open_engine(draft, original_path)
    texts = thinned(draft, engine, calibration)
    scores = draft.score(engine, texts.held_out)
    reference = Reference(texts.name, texts.held_out, scores, batches=(), streams=())
    del engine

    def attempt(keep: Sequence[str]) -> Attempt:
        g = write_rewritten(exported, path, ROUNDED[precision](keep=keep), padding)
        scores = draft.score(open_engine(draft, path), reference.pairs)
        return Attempt(measure(reference, scores, layers=()), scores, g)

    return _report_on(draft, reference, attempt, keep_fp32)


@dataclass(frozen=True)
class Attempt:
    """A graph, and what it is worth."""

    fidelity: Fidelity
    scores: Floats  # of the held-out pairs
    graph: Graph


def _report_on(
    draft: Draft,
    reference: Reference,
    attempt: Callable[[Sequence[str]], Attempt],
    keep: Sequence[str],
    sensitivities: Sequence[Sensitivity] | None = None,
) -> Report:
    """Write the graph and measure it; once more with the matrices that are to be kept, if any.

    :param sensitivities: what ``keep`` was chosen by
    """
    made = attempt(())
    kept: Kept | None = None
    if keep or sensitivities is not None:
        if sensitivities is None:
            names = made.graph.weights
            _check_names(keep, {matrix_of(name) for name in names if f"{name}.scales" in names})
        size, without = _size(draft), made.fidelity
        if keep:
            made = attempt(keep)
        added = _size(draft) - size
        kept = Kept(tuple(keep), added, without.mean_error, without.kendall_tau)
    about, variant = draft.bundle.manifest, draft.variant
    return Report(
        source=about.source,
        family=about.family,
        precision=variant.precision,
        recipe=variant.recipe,
        fidelity=made.fidelity,
        kept=kept,
        sensitivities=sensitivities or (),
        pairs=[
            ScoredPair(pair.query, pair.id, float(before), float(after))
            for pair, before, after in zip(
                reference.pairs, reference.scores, made.scores, strict=True
            )
        ],
    )


def _check_names(patterns: Sequence[str], matrices: Set[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in matrices):
            raise QuantizeError(
                f"keep_fp32: {pattern!r} matches none of the rounded matrices, which are named like"
                f" {', '.join(sorted(matrices)[:8])}"
            )


def _size(draft: Draft) -> int:
    """Bytes of the graph and its weights."""
    return sum(
        path.stat().st_size for path in draft.bundle.directory.glob(f"{draft.graph_path.name}*")
    )
