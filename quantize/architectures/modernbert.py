"""ModernBERT encoders: cross-encoders with one logit, embedding models, late interaction.

Follows ``transformers.models.modernbert.modeling_modernbert``: attention is global in every third
layer and within a sliding window in the others.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quantize.architectures.embedding import write_pooled, write_token_vectors
from quantize.architectures.modernbert_layer import (
    ModernBertConfig,
    ModernBertInputs,
    ModernBertLayer,
)
from quantize.checkpoint.files import Checkpoint, one_label
from quantize.checkpoint.sidecars import Reading
from quantize.errors import QuantizeError
from quantize.graph.builder import Graph
from quantize.graph.grid import declare_inputs, mean_rows
from quantize.graph.layers import linear
from quantize.graph.parameters import Matrix, Norm
from quantize.graph.precision import Precision
from quantize.graph.rotary import rotary_frequencies
from quantize.graph.spans import everything, within_window
from quantize.rounding.rounding import Floats
from quantize.rounding.transforms import Rotation


class ModernBert:
    """An encoder with one logit a sequence, one unit vector, or a vector for each token.

    The first layer begins with the embedding's norm, so that its scales reach that norm's output.
    """

    cache_width = 0

    def __init__(
        self,
        checkpoint: Checkpoint,
        pooling: Reading,
        *,
        is_classifier: bool = False,
        rotation: Rotation | None = None,
    ) -> None:
        """Read the configuration.

        :param rotation: of each head's values
        """
        self.config = read_config(checkpoint)
        self.num_layers = self.config.num_hidden_layers
        self.stream_width = self.config.hidden_size
        self._checkpoint, self._weights = checkpoint, _Weights(checkpoint, self.config)
        self._pooling, self._is_classifier, self._rotation = pooling, is_classifier, rotation

    def rotated(self, outliers: Sequence[int]) -> ModernBert:
        """Rotate each head's values; the first layer, without a norm, needs the stream's mean."""
        return ModernBert(
            self._checkpoint,
            self._pooling,
            is_classifier=self._is_classifier,
            rotation=Rotation.random(self.config.head_size, seed=1),
        )

    def declare(self, g: Graph) -> ModernBertInputs:
        config, shared = self.config, declare_inputs(g, with_past=False)
        far, near = (
            rotary_frequencies(config.head_size, theta)
            for theta in (config.global_theta, config.local_theta)
        )
        return ModernBertInputs(
            shared, everything(g, shared, far), within_window(g, shared, near, config.window)
        )

    def embed(
        self,
        g: Graph,
        precision: Precision,
        inputs: ModernBertInputs,
        only: Sequence[int] | None = None,
    ) -> str:
        """Look the tokens up; their norm is the first layer's."""
        g.scope = "embeddings"
        table = self._weights.embedding(only)
        return precision.embedding(g, "embeddings.tokens", table, inputs.shared.token_ids)

    def layer(self, index: int) -> ModernBertLayer:
        # from the last attention on only first tokens matter, unless the head reads all
        is_scored = index == self.num_layers - 1 and self._pooling == "cls"
        layer = self._weights.layer(index, is_scored)
        return layer if self._rotation is None else layer.rotated(self._rotation)

    def finish(self, g: Graph, precision: Precision, inputs: ModernBertInputs, x: str) -> None:
        g.scope = "head"
        x = self._weights.final_norm().write(g, x)
        pooled = mean_rows(g, x, inputs.shared.grid) if self._pooling == "mean" else x
        if self._is_classifier:
            refined = inputs.shared.refined_scored_rows(precision)
            g.output("scores", self._classify(g, precision, pooled, refined), ["scored"])
        elif self._pooling == "tokens":
            write_token_vectors(g, self._checkpoint, x, self.stream_width)
        else:
            write_pooled(g, self._checkpoint, pooled, self.stream_width)

    def aligned(self, stream: Floats) -> Floats:
        return stream

    def _classify(self, g: Graph, precision: Precision, pooled: str, refined: str) -> str:
        """Classify pooled rows [R, H]: one logit each, float32 [R].

        The classifier's weight is part of its norm's gain.
        """
        dense, norm, bias = self._weights.classifier()
        hidden = linear(g, precision, dense.name, pooled, dense, refined=refined)
        products = norm.write(g, g.op("Gelu", hidden))
        logits = g.op("ReduceSum", products, g.constant([-1]), keepdims=0)
        return g.op("Add", logits, g.weight("classifier.bias", bias))


def classifier(checkpoint: Checkpoint) -> ModernBert:
    """Return the encoder with a classifier, pooled as config.json says."""
    return ModernBert(checkpoint, read_config(checkpoint).classifier_pooling, is_classifier=True)


def read_config(checkpoint: Checkpoint) -> ModernBertConfig:
    """Read and check config.json.

    :raises QuantizeError: a field is missing or asks for what this graph does not do
    """
    config = checkpoint.config_as(ModernBertConfig)
    for name in ("attention_bias", "mlp_bias", "norm_bias"):
        if getattr(config, name):
            raise QuantizeError(
                f"{checkpoint.directory / 'config.json'}: {name} is not supported; only"
                " checkpoints without it can be quantized"
            )
    return config


class _Weights:
    """What lies in the checkpoint, under its names."""

    def __init__(self, checkpoint: Checkpoint, config: ModernBertConfig) -> None:
        self._checkpoint, self._config = checkpoint, config
        self._root = "model." if "model.final_norm.weight" in checkpoint.tensors else ""

    def embedding(self, only: Sequence[int] | None) -> Floats:
        """Load the table, or ``only`` some of its rows."""
        name = f"{self._root}embeddings.tok_embeddings.weight"
        shape, load = (self._config.vocab_size, self._config.hidden_size), self._checkpoint
        return load.tensor(name, *shape) if only is None else load.rows(name, only, *shape)

    def layer(self, index: int, is_scored: bool) -> ModernBertLayer:
        hidden, wide = self._config.hidden_size, self._config.intermediate_size
        prefix = f"layers.{index}"
        query, key, value = np.split(self._load(f"{prefix}.attn.Wqkv", 3 * hidden, hidden), 3)
        input_, gate = np.split(self._load(f"{prefix}.mlp.Wi", 2 * wide, hidden), 2)
        return ModernBertLayer(
            config=self._config,
            index=index,
            is_scored=is_scored,
            attention_norm=self._norm(
                f"{prefix}.attention_norm", f"{prefix}.attn_norm" if index else "embeddings.norm"
            ),
            query=query,
            key=key,
            value=value,
            output=self._load(f"{prefix}.attn.Wo", hidden, hidden),
            feed_forward_norm=self._norm(f"{prefix}.feed_forward_norm", f"{prefix}.mlp_norm"),
            input=input_,
            gate=gate,
            down=self._load(f"{prefix}.mlp.Wo", hidden, wide),
        )

    def final_norm(self) -> Norm:
        return self._norm("head.final_norm", "final_norm")

    def classifier(self) -> tuple[Matrix, Norm, Floats]:
        """Load the dense layer, the norm with the classifier in its gain, and the bias.

        :raises QuantizeError: the classifier has several labels
        """
        load, hidden = self._checkpoint.tensor, self._config.hidden_size
        classifier = one_label(self._checkpoint, "classifier.weight", hidden)
        dense = Matrix(
            "head.dense",
            load("head.dense.weight", hidden, hidden),
            load("head.dense.bias", hidden) if self._config.classifier_bias else None,
        )
        gain = load("head.norm.weight", hidden) * classifier
        norm = Norm("head.norm", "layer", gain, None, self._config.norm_eps)
        return dense, norm, load("classifier.bias", 1)

    def _norm(self, name: str, stored: str) -> Norm:
        gain = self._load(stored, self._config.hidden_size)
        return Norm(name, "layer", gain, None, self._config.norm_eps)

    def _load(self, name: str, *shape: int) -> Floats:
        return self._checkpoint.tensor(f"{self._root}{name}.weight", *shape)
