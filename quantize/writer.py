"""Writes the graphs of a model layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto
from tqdm import tqdm

from quantize.architectures.layered_model import LayeredModel, ModelLayer
from quantize.graph.builder import Graph
from quantize.measure.fidelity import Reference, WrittenGraph, run_reference
from quantize.measure.layerwise import LayerwiseRunner
from quantize.measure.preparation import PackedCalibration
from quantize.recipe import ROUNDED, Recipe
from quantize.rounding.rounding import Floats
from quantize.rounding.sensitivity import Sensitivity, measure_sensitivities
from quantize.rounding.transforms import outlier_channels

OUTLIER_BATCHES = 2  # micro-batches to find outlier channels
SENSITIVITY_BATCHES = 2  # and to find the matrices with the largest errors


class LayeredWriter:
    """Writes the graphs of a model with one layer in memory at a time."""

    def __init__(
        self, original: LayeredModel[Any], text: PackedCalibration, scratch: Path, bar: tqdm
    ) -> None:
        """Prepare to write.

        :param text: the calibration text
        :param scratch: directory for temporary files
        :param bar: advances by one a layer
        """
        self._original, self._text, self._scratch, self._bar = original, text, scratch, bar

    @cached_property
    def reference(self) -> Reference:
        """The original's scores of the held-out text."""
        return run_reference(self._original, self._text, self._scratch, self._bar)

    @cached_property
    def _rotated(self) -> LayeredModel[Any]:
        """The model rotated, but for the channels of the stream that stand out after some layer."""
        runner = LayerwiseRunner(self._original, self._scratch, self._bar)
        prominence = np.float32(0)
        for run in runner.run_layers(self._text.calibration.batches[:OUTLIER_BATCHES]):
            rms = np.sqrt(np.square(np.concatenate(run.after)).mean(axis=0))
            prominence = np.maximum(prominence, rms / np.median(rms))
        return self._original.rotated(outlier_channels(prominence))

    def write(self, path: Path, recipe: Recipe, keep: Sequence[str]) -> WrittenGraph:
        """Write the graph.

        :param keep: patterns of matrices to leave in float32
        """
        model = self._model(recipe)
        g = Graph(path, is_plain=recipe.is_half)
        try:
            inputs = model.declare(g)
            x = model.embed(g, recipe.graph_precision({}, keep), inputs)
            streams = []
            for layer, rows in self._layers(model, recipe):
                x = layer.write(g, recipe.graph_precision(rows, keep), inputs, x)
                streams.append(x)
                del layer, rows
            x = g.cast(x, TensorProto.FLOAT)
            model.finish(g, recipe.head_precision(keep), inputs, x)
            g.save()
        finally:
            g.close()
        return WrittenGraph(g, streams, model.aligned)

    def measure_sensitivities(self, recipe: Recipe) -> list[Sensitivity]:
        """Find out what rounding each matrix alone costs; the largest error first."""
        runner = LayerwiseRunner(self._model(recipe), self._scratch, self._bar)
        batches = self._text.calibration.batches[:SENSITIVITY_BATCHES]
        return measure_sensitivities(runner, batches, ROUNDED[recipe.precision])

    def _model(self, recipe: Recipe) -> LayeredModel[Any]:
        return self._rotated if "rotate" in recipe.steps else self._original

    def _layers(
        self, model: LayeredModel[Any], recipe: Recipe
    ) -> Iterator[tuple[ModelLayer[Any], Mapping[str, Floats]]]:
        """Yield each layer, smoothed, with what its matrices read of the calibration text."""
        if not {"smooth", "gptq"}.intersection(recipe.steps):
            for index in range(model.num_layers):
                yield model.layer(index), {}
                self._bar.update()
            return
        runner = LayerwiseRunner(model, self._scratch, self._bar)
        for run in runner.run_layers(self._text.calibration.batches, observe=True):
            layer, rows = run.layer, run.rows
            if "smooth" in recipe.steps:
                layer, rows = layer.smoothed(rows, recipe.graph_precision({}, ()))
            yield layer, rows if "gptq" in recipe.steps else {}
            del run, layer, rows  # before the next layer's take their place
