"""A model run layer by layer, with one layer in memory.

Each part is written as a graph of its own, run over all micro-batches and deleted, so that a
checkpoint of any size can be observed, and be the reference, on the machine that quantizes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto
from tqdm import tqdm

from edgerank.cpu import physical_cores
from edgerank.manifest import CPU_PROVIDER
from edgerank.packing import Batch
from edgerank.session import Session
from quantize.architectures.layered_model import Layer, LayeredModel
from quantize.graph.builder import Graph
from quantize.graph.precision import OBSERVED, Float32, Observed, Precision
from quantize.rounding.rounding import Floats

STREAM, NEXT_STREAM = "stream", "next_stream"  # names of a stage's input and output

Streams = Sequence[Floats]  # between two layers: float32 [T, width] for each micro-batch


@dataclass(frozen=True)
class LayerRun:
    """One layer has been run over all micro-batches."""

    index: int
    layer: Layer[Any]
    before: Streams
    after: Streams
    rows: Mapping[str, Floats]  # what its matrices read, [T, K] by site, if they were observed
    matrices: Sequence[str]  # their names, likewise


class Layerwise:
    """Runs a model in float32, with one layer in memory."""

    def __init__(
        self,
        model: LayeredModel[Any],
        scratch: Path,
        bar: tqdm,
        on_step: Callable[[LayerRun], object] = lambda step: None,
    ) -> None:
        """Prepare to run.

        :param scratch: a directory for graphs
        :param bar: advances by one a layer
        :param on_step: told of each layer by ``run``
        """
        self.is_causal = model.cache_width > 0
        self._model, self._scratch, self._bar, self._on_step = model, scratch, bar, on_step

    def run(
        self, batches: Iterable[Batch], outputs: Sequence[str]
    ) -> Iterator[tuple[Batch, list[Floats]]]:
        """Run micro-batches, as ``Engine.run`` does."""
        batches = list(batches)
        streams: Streams = []
        for step in self.steps(batches):
            self._on_step(step)
            streams = step.after

        def write(g: Graph, inputs: Any, x: str) -> None:
            self._model.finish(g, Float32(), inputs, x)

        for batch, results in zip(batches, self._stage(write, batches, streams), strict=True):
            yield batch, [results[output] for output in outputs]

    def steps(self, batches: Sequence[Batch], *, observe: bool = False) -> Iterator[LayerRun]:
        """Run layer after layer."""
        streams = self._embed(batches)
        for index in range(self._model.num_layers):
            layer = self._model.layer(index)
            observed = Observed()
            precision = observed if observe else Float32()
            parts: dict[str, list[Floats]] = {}
            for result in self._layer(layer, precision, batches, streams):
                for name, part in result.items():
                    parts.setdefault(name, []).append(part)
            after = parts.pop(NEXT_STREAM)
            rows = {
                name.removeprefix(OBSERVED): np.concatenate(parts.pop(name)) for name in list(parts)
            }
            self._bar.update()
            yield LayerRun(index, layer, streams, after, rows, observed.matrices)
            streams = after
            del layer, rows  # before the next layer's take their place

    def _embed(self, batches: Sequence[Batch]) -> list[Floats]:
        """Run the embedding with a table of the tokens that occur alone."""
        used = np.unique(np.concatenate([batch.token_ids for batch in batches]))
        renumbered = [
            replace(batch, token_ids=np.searchsorted(used, batch.token_ids)) for batch in batches
        ]

        def write(g: Graph, inputs: Any, x: str) -> None:
            stream = self._model.embed(g, Float32(), inputs, used.tolist())
            g.output(NEXT_STREAM, stream, ["tokens", "width"])

        nothing = np.zeros((0, self._model.stream_width), np.float32)
        results = self._stage(write, renumbered, [nothing] * len(batches))
        return [result[NEXT_STREAM] for result in results]

    def try_layer(
        self, layer: Layer[Any], precision: Precision, batches: Sequence[Batch], before: Streams
    ) -> list[Floats]:
        """Run a layer in some precision from the streams before it to those after it."""
        results = self._layer(layer, precision, batches, before)
        return [result[NEXT_STREAM] for result in results]

    def _layer(
        self, layer: Layer[Any], precision: Precision, batches: Sequence[Batch], before: Streams
    ) -> Iterator[dict[str, Floats]]:
        def write(g: Graph, inputs: Any, x: str) -> None:
            g.output(NEXT_STREAM, layer.write(g, precision, inputs, x), ["tokens", "width"])

        return self._stage(write, batches, before)

    def _stage(
        self,
        write: Callable[[Graph, Any, str], None],
        batches: Sequence[Batch],
        streams: Streams,
    ) -> Iterator[dict[str, Floats]]:
        """Run a part of the model; yield each micro-batch's outputs but those for the cache."""
        g = Graph(self._scratch / "stage.onnx")
        try:
            inputs = self._model.declare(g)
            x = g.input(STREAM, TensorProto.FLOAT, ["tokens", self._model.stream_width])
            write(g, inputs, x)
            g.save()
            session = Session(g.path, threads=physical_cores(), providers=[CPU_PROVIDER])
        finally:
            g.close()
        g.data_path.unlink()  # it stays mapped as long as the session lives
        names = [name for name in session.outputs if name not in session.presents]
        extra_feeds = ({STREAM: stream} for stream in streams)
        for _, results in session.run(batches, names, extra_feeds):
            # copies: an array of ONNX Runtime's keeps all of the session's memory alive
            yield {name: part.copy() for name, part in zip(names, results, strict=True)}
            del results
