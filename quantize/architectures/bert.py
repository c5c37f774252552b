"""BERT encoders, as cross-encoders with one logit or as sentence-embedding models.

Follows ``transformers.models.bert.modeling_bert``: post-norm layers, learned absolute positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np
from onnx import TensorProto

from edgerank.bundle import Positive
from quantize.blocks import (
    Inputs,
    attention,
    declare_inputs,
    gather_rows,
    linear,
    mean_rows,
    unit_rows,
)
from quantize.checkpoint import Checkpoint
from quantize.equalisation import Rotation, channel_scales, rotate_heads
from quantize.graph import Graph
from quantize.model import Dense
from quantize.precision import Activation, Precision
from quantize.weights import Floats

LEAST_GELU = -0.17  # x Φ(x) has its minimum of -0.16997 at x = -0.7518
Head = Literal["classifier", "mean", "cls"]


class BertConfig(msgspec.Struct, frozen=True):
    """The part of config.json that shapes the graph."""

    hidden_size: Positive
    intermediate_size: Positive
    layer_norm_eps: float
    max_position_embeddings: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive
    vocab_size: Positive
    hidden_act: Literal["gelu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"
    type_vocab_size: Positive = 2

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("num_attention_heads must divide hidden_size")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads


def read_config(checkpoint: Checkpoint) -> BertConfig:
    """Read and check config.json.

    :raises QuantizeError: a field is missing or asks for what this graph does not do
    """
    return checkpoint.config_as(BertConfig)


@dataclass(frozen=True)
class BertInputs:
    """The shared inputs, and BERT's token types."""

    shared: Inputs
    token_types: str  # int64 [T]


@dataclass(frozen=True)
class Norm:
    """A layer normalisation's parameters, [H] each."""

    gain: Floats
    bias: Floats

    def __add__(self, bias: Floats) -> Norm:
        return Norm(self.gain, self.bias + bias)

    def __truediv__(self, scales: Floats) -> Norm:
        return Norm(self.gain / scales, self.bias / scales)

    def write(self, g: Graph, name: str, x: str, config: BertConfig) -> str:
        gain, bias = g.weight(f"{name}.weight", self.gain), g.weight(f"{name}.bias", self.bias)
        epsilon = config.layer_norm_eps
        return g.op("LayerNormalization", x, gain, bias, axis=-1, epsilon=epsilon)


class Bert:
    """An encoder with one logit a sequence, or one unit vector for the pooling heads.

    A layer begins with the norm that transformers counts to the layer before, so that the stream
    between layers is a sum that no scaling of the norm's output reaches.
    """

    cache_width = 0

    def __init__(
        self, checkpoint: Checkpoint, head: Head, rotation: Rotation | None = None
    ) -> None:
        """Read the configuration.

        :param rotation: of each head's values
        """
        self.config = read_config(checkpoint)
        self.num_layers = self.config.num_hidden_layers
        self.stream_width = self.config.hidden_size
        self._checkpoint, self._weights = checkpoint, _Weights(checkpoint, self.config)
        self._head, self._rotation = head, rotation

    def rotated(self, outliers: Sequence[int]) -> Bert:
        """Rotate each head's values; a norm with a bias lets no rotation of the stream through."""
        rotation = Rotation.random(self.config.head_size, seed=1)
        return Bert(self._checkpoint, self._head, rotation)

    def declare(self, g: Graph) -> BertInputs:
        shared = declare_inputs(g, with_past=False)
        return BertInputs(shared, g.input("token_types", TensorProto.INT64, ["tokens"]))

    def embed(
        self,
        g: Graph,
        precision: Precision,
        inputs: BertInputs,
        only: Sequence[int] | None = None,
    ) -> str:
        """Sum the three embeddings."""
        g.scope = "embeddings"
        words, places, types = self._weights.embeddings(only)
        x = precision.embedding(g, "embeddings.word", words, inputs.shared.token_ids)
        typed = g.op("Gather", g.weight("embeddings.token_type", types), inputs.token_types)
        placed = g.op("Gather", g.weight("embeddings.position", places), inputs.shared.positions)
        return g.op("Add", g.op("Add", x, typed), placed)

    def layer(self, index: int) -> BertLayer:
        # from the last attention on only each sequence's first token matters, except to the mean
        is_scored = index == self.num_layers - 1 and self._head != "mean"
        layer = self._weights.layer(index, is_scored)
        return layer if self._rotation is None else layer.rotated(self._rotation)

    def finish(self, g: Graph, precision: Precision, inputs: BertInputs, x: str) -> None:
        g.scope = "head"
        x = self._weights.norm(self.num_layers).write(g, "head.norm", x, self.config)
        if self._head == "classifier":
            g.output("scores", self._classify(g, precision, x), ["scored"])
            return
        pooled = mean_rows(g, x, inputs.shared.grid) if self._head == "mean" else x
        g.output("embeddings", unit_rows(g, pooled), ["scored", self.config.hidden_size])

    def aligned(self, stream: Floats) -> Floats:
        return stream

    def _classify(self, g: Graph, precision: Precision, x: str) -> str:
        """Pool the first tokens' rows [R, H] and classify: one logit each, float32 [R]."""
        pooler, classifier = self._weights.classifier()
        rows = precision.rows(g, Activation("pooler", x))
        pooled = g.op("Tanh", linear(g, precision, rows, "pooler", pooler.weight, pooler.bias))
        logits = g.op("MatMul", pooled, g.weight("classifier.weight", classifier.weight.T))
        logits = g.op("Add", logits, g.weight("classifier.bias", classifier.bias))
        return g.op("Squeeze", logits, g.constant([1]))


@dataclass(frozen=True)
class BertLayer:
    """The weights of one layer, from the norm of its input to its second sum.

    A key's bias adds the same to all of a query's logits, which a softmax ignores, so there is
    none. A value's bias passes through the attention, whose weights sum to one, so it is part of
    the output's.
    """

    config: BertConfig
    index: int
    is_scored: bool  # only the scored rows leave the layer
    attention_norm: Norm
    query: Dense  # [H, H]
    key: Floats  # [H, H]
    value: Floats  # [H, H]
    output: Dense  # [H, H]
    feed_forward_norm: Norm
    intermediate: Dense  # [I, H]
    dense: Floats  # [H, I]
    dense_bias: Floats | None  # [H], None once it is part of the residual
    attention_scales: Floats | None = None  # [H], by which the norm's output is divided
    feed_forward_scales: Floats | None = None

    def rotated(self, head: Rotation) -> BertLayer:
        """Rotate each head's values."""
        value, output = rotate_heads(head, self.value, self.output.weight, self.config.head_size)
        return replace(self, value=value, output=replace(self.output, weight=output))

    def balanced(self, rows: Mapping[str, Floats]) -> tuple[BertLayer, Mapping[str, Floats]]:
        """Divide the norms' outputs, which the residual multiplies back, and the values.

        The second norm gives out dense's bias too, so that the residual brings it along: what is
        added to a row's path is one multiplication, and one addition is saved.
        """
        assert self.dense_bias is not None
        sites = [self._site(readers) for readers in ("qkv", "output", "intermediate")]
        readers = np.concatenate([self.query.weight, self.key, self.value])
        first = channel_scales(rows[sites[0]], readers)
        values = channel_scales(rows[sites[1]], self.output.weight)
        shifted = rows[sites[2]] + self.dense_bias
        second = channel_scales(shifted, self.intermediate.weight)
        wide = self.intermediate
        balanced = replace(
            self,
            attention_norm=self.attention_norm / first,
            query=replace(self.query, weight=self.query.weight * first),
            key=self.key * first,
            value=self.value * first / values[:, None],
            output=replace(self.output, weight=self.output.weight * values),
            feed_forward_norm=(self.feed_forward_norm + self.dense_bias) / second,
            intermediate=Dense(wide.weight * second, wide.bias - wide.weight @ self.dense_bias),
            dense_bias=None,
            attention_scales=first,
            feed_forward_scales=second,
        )
        changed = (rows[sites[0]] / first, rows[sites[1]] / values, shifted / second)
        return balanced, {**rows, **dict(zip(sites, changed, strict=True))}

    def write(self, g: Graph, precision: Precision, inputs: BertInputs, x: str) -> str:
        config, shared, grid = self.config, inputs.shared, inputs.shared.grid
        g.scope = f"layers.{self.index}"
        x = self.attention_norm.write(g, self._site("attention_norm"), x, config)
        rows = precision.rows(g, Activation(self._site("qkv"), x))
        both = np.concatenate([self.key, self.value])
        keys_values = linear(g, precision, rows, self._site("key_value"), both)
        if self.is_scored:
            grid, scored = shared.scored_grid, shared.scored_rows
            rows, x = gather_rows(g, rows, scored), g.op("Gather", x, scored)
        name = self._site("query")
        queries = linear(g, precision, rows, name, self.query.weight, self.query.bias)
        heads = config.num_attention_heads
        attended = attention(g, grid, queries, keys_values, num_heads=heads, num_kv_heads=heads)
        rows = precision.rows(g, Activation(self._site("output"), attended))
        added = linear(
            g, precision, rows, self._site("output"), self.output.weight, self.output.bias
        )
        x = self._add_residual(g, "attention", added, x, self.attention_scales)

        x = self.feed_forward_norm.write(g, self._site("feed_forward_norm"), x, config)
        rows, wide = precision.rows(g, Activation(self._site("intermediate"), x)), self.intermediate
        name = self._site("intermediate")
        inner = g.op("Gelu", linear(g, precision, rows, name, wide.weight, wide.bias))
        rows = precision.rows(g, Activation(self._site("dense"), inner, least=LEAST_GELU))
        added = linear(g, precision, rows, self._site("dense"), self.dense, self.dense_bias)
        return self._add_residual(g, "feed_forward", added, x, self.feed_forward_scales)

    def _add_residual(
        self, g: Graph, part: str, x: str, residual: str, scales: Floats | None
    ) -> str:
        """Compute x + residual * scales."""
        if scales is not None:
            residual = g.op("Mul", residual, g.weight(self._site(f"{part}_scales"), scales))
        return g.op("Add", x, residual)

    def _site(self, name: str) -> str:
        return f"layers.{self.index}.{name}"


class _Weights:
    """What lies in the checkpoint, under its names."""

    def __init__(self, checkpoint: Checkpoint, config: BertConfig) -> None:
        self._checkpoint, self._config = checkpoint, config
        self._root = "bert." if "bert.embeddings.LayerNorm.weight" in checkpoint.tensors else ""

    def embeddings(self, only: Sequence[int] | None) -> tuple[Floats, Floats, Floats]:
        """Load the tables of words (``only`` some of them), positions and token types."""
        config, hidden = self._config, self._config.hidden_size
        prefix, load = f"{self._root}embeddings", self._checkpoint
        name, vocabulary = f"{prefix}.word_embeddings.weight", config.vocab_size
        return (
            load.tensor(name, vocabulary, hidden)
            if only is None
            else load.rows(name, only, vocabulary, hidden),
            load.tensor(
                f"{prefix}.position_embeddings.weight", config.max_position_embeddings, hidden
            ),
            load.tensor(f"{prefix}.token_type_embeddings.weight", config.type_vocab_size, hidden),
        )

    def layer(self, index: int, is_scored: bool) -> BertLayer:
        """Load a layer, the value's bias within the output's."""
        hidden, prefix = self._config.hidden_size, f"encoder.layer.{index}"
        query, key, value = (
            self._dense(f"{prefix}.attention.self.{part}", hidden, hidden)
            for part in ("query", "key", "value")
        )
        output = self._dense(f"{prefix}.attention.output.dense", hidden, hidden)
        dense = self._dense(f"{prefix}.output.dense", hidden, self._config.intermediate_size)
        return BertLayer(
            config=self._config,
            index=index,
            is_scored=is_scored,
            attention_norm=self.norm(index),
            query=query,
            key=key.weight,
            value=value.weight,
            output=replace(output, bias=output.bias + output.weight @ value.bias),
            feed_forward_norm=self._norm(f"{prefix}.attention.output.LayerNorm"),
            intermediate=self._dense(
                f"{prefix}.intermediate.dense", self._config.intermediate_size, hidden
            ),
            dense=dense.weight,
            dense_bias=dense.bias,
        )

    def norm(self, index: int) -> Norm:
        """Load the norm that layer ``index`` begins with; the head's comes after the last."""
        previous = f"encoder.layer.{index - 1}.output" if index else "embeddings"
        return self._norm(f"{previous}.LayerNorm")

    def classifier(self) -> tuple[Dense, Dense]:
        """Load pooler and classifier.

        :raises QuantizeError: the classifier has several labels
        """
        hidden = self._config.hidden_size
        self._checkpoint.check_one_label("classifier.weight")
        load = self._checkpoint.tensor
        classifier = Dense(load("classifier.weight", 1, hidden), load("classifier.bias", 1))
        return self._dense("pooler.dense", hidden, hidden), classifier

    def _norm(self, name: str) -> Norm:
        load, size = self._checkpoint.tensor, self._config.hidden_size
        return Norm(
            load(f"{self._root}{name}.weight", size), load(f"{self._root}{name}.bias", size)
        )

    def _dense(self, name: str, rows: int, columns: int) -> Dense:
        load = self._checkpoint.tensor
        return Dense(
            load(f"{self._root}{name}.weight", rows, columns),
            load(f"{self._root}{name}.bias", rows),
        )
