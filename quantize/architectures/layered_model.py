"""What the pipeline asks of an architecture: a stream of rows through an embedding, layers, a head.

Each part can be written into a graph with the others or into one of its own, so that a model can be
run layer by layer with one layer in memory (``quantize.measure.layerwise``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from quantize.graph.builder import Graph
from quantize.graph.precision import Precision
from quantize.rounding.rounding import Floats

I = TypeVar("I")  # noqa: E741  # an architecture's inputs
I_contra = TypeVar("I_contra", contravariant=True)


@dataclass(frozen=True)
class Dense:
    """A linear layer's parameters."""

    weight: Floats  # [out, in]
    bias: Floats  # [out]


class ModelLayer(Protocol[I_contra]):
    """The weights of one layer."""

    def smoothed(
        self, rows: Mapping[str, Floats], precision: Precision
    ) -> tuple[ModelLayer[I_contra], Mapping[str, Floats]]:
        """Move range between rows and matrices; an exact change.

        :param rows: float32 [T, K] by site: what the layer's matrices read of calibration text
        :param precision: in which the layer will be written
        :return: the changed layer, and the rows that its matrices read instead
        """

    def write(self, g: Graph, precision: Precision, inputs: I_contra, x: str) -> str:
        """Write the layer from stream to stream, float32 [T, width].

        The last layer's stream has only the scored rows, if the head needs no others.
        """


class LayeredModel(Protocol[I]):
    """A model on disk; parts are loaded when they are written."""

    num_layers: int
    stream_width: int
    cache_width: int  # of a layer's keys and values, 0 for encoders

    def rotated(self, outliers: Sequence[int]) -> LayeredModel[I]:
        """Return the model rotated as far as it can be; an exact change.

        :param outliers: channels of the stream to leave alone
        """

    def declare(self, g: Graph) -> I:
        """Declare the inputs of a graph."""

    def embed(
        self, g: Graph, precision: Precision, inputs: I, only: Sequence[int] | None = None
    ) -> str:
        """Write the embedding: the stream, float32 [T, width].

        :param only: rows of the table to write; token ids then count these
        """

    def layer(self, index: int) -> ModelLayer[I]:
        """Load a layer."""

    def finish(self, g: Graph, precision: Precision, inputs: I, x: str) -> None:
        """Write the head, which declares the graph's output: scores or embeddings."""

    def aligned(self, stream: Floats) -> Floats:
        """Turn a stream [T, width] of the model as it is stored into this model's own."""
