"""BERT and its relatives: cross-encoders with one logit, embedding models, late interaction.

Post-norm layers, learned absolute positions. Follows ``transformers.models``' ``bert``,
``electra``, ``roberta`` and ``mpnet``; XLM-R and CamemBERT are RoBERTa with other vocabularies.
MPNet also adds to the logits of attention what depends on distances alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import numpy as np
from onnx import TensorProto

from edgerank.manifest import Positive
from quantize.architectures.bert_layer import (
    AttentionNames,
    BertLayer,
    EncoderConfig,
    EncoderInputs,
    EncoderWeights,
    classify,
)
from quantize.architectures.embedding import write_pooled, write_token_vectors
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.lengths import first_position
from quantize.graph.builder import Graph
from quantize.graph.grid import declare_inputs, mean_rows, reach, with_mask
from quantize.graph.layers import linear
from quantize.graph.parameters import Matrix
from quantize.graph.precision import Float32, Precision
from quantize.graph.relative_positions import t5_buckets
from quantize.rounding.rounding import Floats
from quantize.rounding.transforms import Rotation

BertHead = Literal["classifier", "mean", "cls", "tokens"]


class BertConfig(EncoderConfig, frozen=True):
    """The part of config.json that shapes the graph."""

    position_embedding_type: Literal["absolute"] = "absolute"
    type_vocab_size: Positive = 2


class ElectraConfig(BertConfig, frozen=True):
    """ELECTRA's small models have embeddings narrower than their layers."""

    projects_embeddings: ClassVar[bool] = True


class MPNetConfig(BertConfig, frozen=True):
    """MPNet's positions are relative too; transformers counts 32 buckets whatever is configured."""

    relative_attention_num_buckets: Literal[32] = 32


@dataclass(frozen=True)
class BertSpec:
    """What tells one relative from another."""

    root: str  # of tensors' names, unless the encoder was saved alone
    head_dense: str  # the classification head's first layer, and
    head_output: str  # its second
    head_activation: Literal["Tanh", "Gelu"]
    config: type[BertConfig] = BertConfig
    names: AttentionNames = field(default_factory=AttentionNames)
    has_token_types: bool = True


BERT = BertSpec("bert.", "bert.pooler.dense", "classifier", "Tanh")
ELECTRA = BertSpec(
    "electra.", "classifier.dense", "classifier.out_proj", "Gelu", config=ElectraConfig
)
MPNET = BertSpec(
    "mpnet.",
    "classifier.dense",
    "classifier.out_proj",
    "Tanh",
    config=MPNetConfig,
    names=AttentionNames(
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        output="attention.attn.o",
        norm="attention.LayerNorm",
    ),
    has_token_types=False,
)
ROBERTA = BertSpec("roberta.", "classifier.dense", "classifier.out_proj", "Tanh")


@dataclass(frozen=True)
class BertInputs(EncoderInputs):
    """The shared inputs, and BERT's token types."""

    token_types: str  # int64 [T]


class Bert:
    """An encoder with one logit a sequence, one unit vector, or a vector for each token."""

    cache_width = 0

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: BertHead,
        spec: BertSpec,
        rotation: Rotation | None = None,
    ) -> None:
        """Read the configuration.

        :param rotation: of each head's values
        :raises QuantizeError: it lacks a field or asks for what the graph does not do
        """
        self.config = checkpoint.config_as(spec.config)
        self.num_layers = self.config.num_hidden_layers
        self.stream_width = self.config.hidden_size
        is_rooted = f"{spec.root}embeddings.LayerNorm.weight" in checkpoint.tensors
        self._checkpoint, self._root = checkpoint, spec.root if is_rooted else ""
        self._first_position = first_position(checkpoint)
        self._weights = EncoderWeights(checkpoint, self.config, self._root, spec.names)
        self._spec = spec
        self._head, self._rotation = head, rotation

    def rotated(self, outliers: Sequence[int]) -> Bert:
        """Rotate each head's values; a norm with a bias lets no rotation of the stream through."""
        rotation = Rotation.random(self.config.head_size, seed=1)
        return Bert(self._checkpoint, self._head, self._spec, rotation)

    def declare(self, g: Graph) -> BertInputs:
        shared = declare_inputs(g, with_past=False)
        if isinstance(self.config, MPNetConfig):
            g.scope = "distances"  # a scored row is its sequence's first: its slot is its position
            buckets = self.config.relative_attention_num_buckets
            biases = g.weight("distances.biases", self._distance_biases(buckets))
            grid, scored_grid = (
                with_mask(g, replace(grid, biases=biases))
                for grid in (shared.grid, shared.scored_grid)
            )
            shared = replace(shared, grid=grid, scored_grid=scored_grid)
        return BertInputs(shared, g.input("token_types", TensorProto.INT64, ["tokens"]))

    def embed(
        self,
        g: Graph,
        precision: Precision,
        inputs: BertInputs,
        only: Sequence[int] | None = None,
    ) -> str:
        """Sum the embeddings of words, positions and, if there are several, token types."""
        g.scope = "embeddings"
        config, prefix, load = self.config, f"{self._root}embeddings", self._checkpoint.tensor
        length, width = config.max_position_embeddings, config.embedding_width
        words = self._weights.words(only)
        places = load(f"{prefix}.position_embeddings.weight", length, width)
        places = places[self._first_position :]
        x = precision.embedding(g, "embeddings.word", words, inputs.shared.token_ids)
        if self._spec.has_token_types:
            types = load(f"{prefix}.token_type_embeddings.weight", config.type_vocab_size, width)
            if len(types) == 1:
                places = places + types
            else:
                table = g.parameter("embeddings.token_type", types, x)
                x = g.op("Add", x, g.op("Gather", table, inputs.token_types))
        table = g.parameter("embeddings.position", places, x)
        placed = g.op("Gather", table, inputs.shared.positions)
        x = g.op("Add", x, placed)
        return x if width == config.hidden_size else self._projected(g, x)

    def _projected(self, g: Graph, x: str) -> str:
        """Turn embeddings of another size into the stream.

        In float32, for it costs next to nothing, and only layers are smoothed.
        """
        norm, dense = self._weights.embedding_projection()
        matrix = Matrix("embeddings.projection", dense.weight, dense.bias)
        rows = norm.write(g, g.cast(x, TensorProto.FLOAT))
        return g.cast(linear(g, Float32(), matrix.name, rows, matrix), g.float_type(x))

    def _distance_biases(self, buckets: int) -> Floats:
        """Load what distances add to the logits: [heads, 2N - 1], for those below N positions."""
        name, heads = (
            f"{self._root}encoder.relative_attention_bias.weight",
            self.config.num_attention_heads,
        )
        table = self._checkpoint.tensor(name, buckets, heads)
        length = reach(self.config.max_position_embeddings - self._first_position)
        distances = np.arange(1 - length, length)
        return np.ascontiguousarray(table[t5_buckets(distances, buckets)].T)

    def layer(self, index: int) -> BertLayer:
        # from the last attention on only first tokens matter, unless the head reads all
        is_scored = index == self.num_layers - 1 and self._head not in ("mean", "tokens")
        layer = self._weights.layer(index, is_scored)
        return layer if self._rotation is None else layer.rotated(self._rotation)

    def finish(self, g: Graph, precision: Precision, inputs: BertInputs, x: str) -> None:
        g.scope = "head"
        x = self._weights.norm(self.num_layers).write(g, x)
        if self._head == "classifier":
            spec = self._spec
            dense, output = self._weights.classifier(spec.head_dense, spec.head_output)
            refined = inputs.shared.refined_scored_rows(precision)
            logits = classify(g, precision, x, dense, output, spec.head_activation, refined)
            g.output("scores", logits, ["scored"])
            return
        if self._head == "tokens":
            write_token_vectors(g, self._checkpoint, x, self.stream_width)
            return
        pooled = mean_rows(g, x, inputs.shared.grid) if self._head == "mean" else x
        write_pooled(g, self._checkpoint, pooled, self.stream_width)

    def aligned(self, stream: Floats) -> Floats:
        return stream
