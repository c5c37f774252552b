"""Decoders as rerankers: a token sees the shared prefix and its own document so far.

There is no vocabulary head: the score is one dot product with a sum of its rows, the final norm's
gain folded in. What tells one decoder from another is in its ``DecoderSpec``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto

from quantize.architectures.decoder_layer import DecoderInputs, DecoderLayer, load_layer
from quantize.architectures.decoder_spec import DecoderSpec
from quantize.checkpoint.files import Checkpoint, one_label
from quantize.graph.builder import Graph
from quantize.graph.grid import declare_inputs
from quantize.graph.precision import Precision
from quantize.graph.rotary import rotary_angles
from quantize.rounding.rounding import Floats
from quantize.rounding.transforms import Rotation


class Decoder:
    """A decoder as a reranker: the score is a weighted sum of logits after the last token."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        spec: DecoderSpec,
        score_tokens: Mapping[int, float],
        rotation: Rotation | None = None,
    ) -> None:
        """Prepare to read the weights.

        :param score_tokens: tokens and the weights of their logits; a classification head with one
            label is read instead if there are none
        :param rotation: of the stream
        """
        self.spec = spec
        self.num_layers = spec.num_layers
        self.stream_width = spec.hidden_size
        self.cache_width = 2 * spec.kv_width
        self._checkpoint, self._score_tokens = checkpoint, score_tokens
        self._rotation = rotation

    def rotated(self, outliers: Sequence[int]) -> Decoder:
        rotation = Rotation.random(self.stream_width, seed=0, fixed=outliers)
        return Decoder(self._checkpoint, self.spec, self._score_tokens, rotation)

    def declare(self, g: Graph) -> DecoderInputs:
        shared = declare_inputs(g, with_past=True)
        cache_rows = g.input("cache_rows", TensorProto.INT64, ["cached"])
        return DecoderInputs(
            shared, cache_rows, rotary_angles(g, shared.positions, self.spec.frequencies)
        )

    def embed(
        self,
        g: Graph,
        precision: Precision,
        inputs: DecoderInputs,
        only: Sequence[int] | None = None,
    ) -> str:
        name, size = "model.embed_tokens.weight", (self.spec.vocab_size, self.stream_width)
        load = self._checkpoint
        table = load.tensor(name, *size) if only is None else load.rows(name, only, *size)
        table *= np.float32(self.spec.embedding_scale)
        if self._rotation is not None:
            self._rotation.apply_in_place(table)
        g.scope = "embeddings"
        return precision.embedding(g, name, table, inputs.shared.token_ids)

    def layer(self, index: int) -> DecoderLayer:
        layer = load_layer(self._checkpoint, self.spec, index)
        if self._rotation is None:
            return layer
        return layer.rotated(self._rotation, Rotation.random(self.spec.head_size, seed=1))

    def finish(self, g: Graph, precision: Precision, inputs: DecoderInputs, x: str) -> None:
        """Compute norm(x) · direction."""
        g.scope = "score"
        gain = self._checkpoint.tensor("model.norm.weight", self.stream_width)
        direction = self.aligned((gain + self.spec.gain_offset) * self._direction())
        weight = g.weight("score.weight", direction)
        products = g.op("RMSNormalization", x, weight, epsilon=self.spec.norm_epsilon)
        g.output("scores", g.op("ReduceSum", products, g.constant([-1]), keepdims=0), ["scored"])

    def _direction(self) -> Floats:
        """Load the head's rows and add them up: [H].

        :raises QuantizeError: the classification head has several labels
        """
        if not self._score_tokens:
            return one_label(self._checkpoint, "score.weight", self.stream_width)
        head = "model.embed_tokens.weight" if self.spec.is_tied else "lm_head.weight"
        tokens, weights = zip(*self._score_tokens.items(), strict=True)
        rows = self._checkpoint.rows(head, tokens, self.spec.vocab_size, self.stream_width)
        direction: Floats = np.array(weights, np.float32) @ rows
        return direction

    def aligned(self, stream: Floats) -> Floats:
        return stream if self._rotation is None else self._rotation.apply(stream)
