"""Decoders as rerankers, a token sees the shared prefix and its own document so far; and pooled.

There is no vocabulary head: the score is one dot product with a sum of its rows, the final norm's
gain folded in. What tells one decoder from another is in its ``DecoderSpec``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto

from quantize.architectures.decoder_layer import DecoderInputs, DecoderLayer, load_layer
from quantize.architectures.decoder_spec import DecoderSpec
from quantize.architectures.embedding import write_pooled
from quantize.checkpoint.files import Checkpoint, one_label
from quantize.graph.builder import Graph
from quantize.graph.grid import declare_inputs, mean_rows
from quantize.graph.parameters import Norm
from quantize.graph.precision import Precision
from quantize.graph.spans import everything, within_window
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
        *,
        rotates_heads: bool = False,
    ) -> None:
        """Prepare to read the weights.

        :param score_tokens: tokens and the weights of their logits; a classification head with one
            label is read instead if there are none
        :param rotation: of the stream
        :param rotates_heads: whether each head's values are rotated
        """
        self.spec = spec
        self.num_layers = spec.num_layers
        self.stream_width = spec.hidden_size
        self.cache_width = 2 * spec.kv_width
        self._checkpoint, self._score_tokens = checkpoint, score_tokens
        self._rotation, self._rotates_heads = rotation, rotates_heads
        self._root = "" if "norm.weight" in checkpoint.tensors else "model."

    def rotated(self, outliers: Sequence[int]) -> Decoder:
        return Decoder(
            self._checkpoint,
            self.spec,
            self._score_tokens,
            self._stream_rotation(outliers),
            rotates_heads=True,
        )

    def _stream_rotation(self, outliers: Sequence[int]) -> Rotation | None:
        """Draw a rotation of the stream; no gain of a norm that writes to it lets one through."""
        if self.spec.has_post_norms:
            return None
        return Rotation.random(self.stream_width, seed=0, fixed=outliers)

    def declare(self, g: Graph) -> DecoderInputs:
        spec = self.spec
        shared = declare_inputs(g, with_past=spec.is_causal, refines=spec.refines)
        cache_rows = g.input("cache_rows", TensorProto.INT64, ["cached"]) if spec.is_causal else ""
        far, window = everything(g, shared, spec.frequencies), None
        if spec.local is not None and spec.local.layers:
            local, is_causal = spec.local, spec.is_causal
            window = within_window(g, shared, local.frequencies, local.window, is_causal=is_causal)
        return DecoderInputs(shared, cache_rows, far, window)

    def embed(
        self,
        g: Graph,
        precision: Precision,
        inputs: DecoderInputs,
        only: Sequence[int] | None = None,
    ) -> str:
        name, size = "model.embed_tokens.weight", (self.spec.vocab_size, self.stream_width)
        load, stored = self._checkpoint, f"{self._root}embed_tokens.weight"
        table = load.tensor(stored, *size) if only is None else load.rows(stored, only, *size)
        table *= np.float32(self.spec.embedding_scale)
        if self._rotation is not None:
            self._rotation.apply_in_place(table)
        g.scope = "embeddings"
        return precision.embedding(g, name, table, inputs.shared.token_ids)

    def layer(self, index: int) -> DecoderLayer:
        layer = load_layer(self._checkpoint, self.spec, self._root, index)
        if not self._rotates_heads:
            return layer
        return layer.rotated(self._rotation, Rotation.random(self.spec.head_size, seed=1))

    def finish(self, g: Graph, precision: Precision, inputs: DecoderInputs, x: str) -> None:
        """Compute norm(x) · direction."""
        g.scope = "score"
        direction = self.aligned(self._final_gain() * self._direction())
        weight = g.weight("score.weight", direction)
        products = g.op("RMSNormalization", x, weight, epsilon=self.spec.norm_epsilon)
        g.output("scores", g.op("ReduceSum", products, g.constant([-1]), keepdims=0), ["scored"])

    def _final_gain(self) -> Floats:
        gain: Floats = self._checkpoint.tensor(f"{self._root}norm.weight", self.stream_width)
        gain += np.float32(self.spec.gain_offset)
        return gain

    def _direction(self) -> Floats:
        """Load the head's rows and add them up: [H].

        :raises QuantizeError: the classification head has several labels
        """
        if not self._score_tokens:
            return one_label(self._checkpoint, "score.weight", self.stream_width)
        head = f"{self._root}embed_tokens.weight" if self.spec.is_tied else "lm_head.weight"
        tokens, weights = zip(*self._score_tokens.items(), strict=True)
        rows = self._checkpoint.rows(head, tokens, self.spec.vocab_size, self.stream_width)
        direction: Floats = np.array(weights, np.float32) @ rows
        return direction

    def aligned(self, stream: Floats) -> Floats:
        return stream if self._rotation is None else self._rotation.apply(stream)


class LastTokenDecoder(Decoder):
    """A decoder whose last token's row is read by modules of sentence-transformers."""

    def rotated(self, outliers: Sequence[int]) -> LastTokenDecoder:
        rotation = self._stream_rotation(outliers)
        return LastTokenDecoder(self._checkpoint, self.spec, {}, rotation, rotates_heads=True)

    def finish(self, g: Graph, precision: Precision, inputs: DecoderInputs, x: str) -> None:
        """Write the norm and the modules; of a rotated row the norm's gain also turns it back."""
        g.scope, gain = "head", self._final_gain()
        applied = gain if self._rotation is None else np.ones_like(gain)
        row = Norm("head.norm", "rms", applied, None, self.spec.norm_epsilon).write(g, x)
        if self._rotation is not None:
            back = self.aligned(np.diag(gain)).T
            row = g.op("MatMul", row, g.weight("head.norm.gain", np.ascontiguousarray(back)))
        write_pooled(g, self._checkpoint, row, self.stream_width)


class PooledDecoder(Decoder):
    """A decoder's layers as an encoder: all tokens see each other, and their mean is a vector."""

    def __init__(
        self, checkpoint: Checkpoint, spec: DecoderSpec, *, rotates_heads: bool = False
    ) -> None:
        """Prepare to read the weights.

        :param spec: one that is not causal and whose stream is not rotated
        """
        super().__init__(checkpoint, spec, {}, rotates_heads=rotates_heads)
        self.cache_width = 0

    def rotated(self, outliers: Sequence[int]) -> PooledDecoder:
        return PooledDecoder(self._checkpoint, self.spec, rotates_heads=True)

    def finish(self, g: Graph, precision: Precision, inputs: DecoderInputs, x: str) -> None:
        g.scope = "head"
        norm = Norm("head.norm", "rms", self._final_gain(), None, self.spec.norm_epsilon)
        pooled = mean_rows(g, norm.write(g, x), inputs.shared.grid)
        write_pooled(g, self._checkpoint, pooled, self.stream_width)
