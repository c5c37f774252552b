"""Runs a model layer by layer in float32, with one layer in memory.

Each layer is written as a separate graph, run on all micro-batches and deleted, so that a
checkpoint of any size can be observed, and be the reference, on the machine that quantizes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto
from tqdm import tqdm

from edgerank.packing import Batch
from edgerank.session import Session
from quantize.architectures.layered_model import LayeredModel, ModelLayer
from quantize.graph.builder import Graph
from quantize.graph.precision import OBSERVED, Float32, Observed, Precision
from quantize.rounding.rounding import Floats

STREAM, NEXT_STREAM = "stream", "next_stream"  # names of a stage's input and output

Streams = Sequence[Floats]  # between two layers: float32 [T, width] for each micro-batch


@dataclass(frozen=True)
class LayerRun:
    """One layer has been run over all micro-batches."""

    index: int
    layer: ModelLayer[Any]
    before: Streams
    after: Streams
    rows: Mapping[str, Floats]  # inputs of its matrices, [T, K] by site, if they were observed
    matrices: Sequence[str]  # names of the matrices, if they were observed


class LayerwiseRunner:
    """Runs a model layer by layer."""

    def __init__(self, model: LayeredModel[Any], scratch: Path, bar: tqdm) -> None:
        """Prepare to run.

        :param scratch: a directory for graphs
        :param bar: advances by one a layer
        """
        self._model, self._scratch, self._bar = model, scratch, bar

    def run_layers(self, batches: Sequence[Batch], *, observe: bool = False) -> Iterator[LayerRun]:
        """Run the embedding, then layer after layer.

        :param observe: whether to keep the inputs of each layer's matrices
        """
        streams = self._embed(batches)
        for index in range(self._model.num_layers):
            layer = self._model.layer(index)
            observed = Observed()
            precision = observed if observe else Float32()
            arrays: dict[str, list[Floats]] = {}
            for result in self._run_layer(layer, precision, batches, streams):
                for name, array in result.items():
                    arrays.setdefault(name, []).append(array)
            after = arrays.pop(NEXT_STREAM)
            rows = {
                name.removeprefix(OBSERVED): np.concatenate(arrays.pop(name))
                for name in list(arrays)
            }
            self._bar.update()
            yield LayerRun(index, layer, streams, after, rows, observed.matrices)
            streams = after
            del layer, rows  # free them before the next layer

    def run_layer(
        self,
        layer: ModelLayer[Any],
        precision: Precision,
        batches: Sequence[Batch],
        before: Streams,
    ) -> list[Floats]:
        """Run a layer in some precision from the streams before it to those after it."""
        results = self._run_layer(layer, precision, batches, before)
        return [result[NEXT_STREAM] for result in results]

    def run_head(
        self, batches: Sequence[Batch], streams: Streams, output: str
    ) -> Iterator[tuple[Batch, Floats]]:
        """Run the head on the streams after the last layer; yield one output of the graph."""

        def write(g: Graph, inputs: Any, x: str) -> None:
            self._model.finish(g, Float32(), inputs, x)

        results = self._run_stage(write, batches, streams)
        for batch, result in zip(batches, results, strict=True):
            yield batch, result[output]

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
        results = self._run_stage(write, renumbered, [nothing] * len(batches))
        return [result[NEXT_STREAM] for result in results]

    def _run_layer(
        self,
        layer: ModelLayer[Any],
        precision: Precision,
        batches: Sequence[Batch],
        before: Streams,
    ) -> Iterator[dict[str, Floats]]:
        def write(g: Graph, inputs: Any, x: str) -> None:
            g.output(NEXT_STREAM, layer.write(g, precision, inputs, x), ["tokens", "width"])

        return self._run_stage(write, batches, before)

    def _run_stage(
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
            session = Session(g.path)
        finally:
            g.close()
        g.data_path.unlink()  # it stays mapped as long as the session lives
        names = [name for name in session.outputs if name not in session.presents]
        extra_feeds = ({STREAM: stream} for stream in streams)
        for _, results in session.run(batches, names, extra_feeds):
            # copies, because ONNX Runtime's arrays keep all memory of the session
            yield {name: array.copy() for name, array in zip(names, results, strict=True)}
            del results
