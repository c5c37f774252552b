"""BERT's layers: each half ends in a sum and a norm. DeBERTa has them too.

A layer begins with the norm that transformers counts to the layer before, so that the stream
between layers is a sum that no scaling of the norm's output reaches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import msgspec
import numpy as np

from edgerank.manifest import Positive
from quantize.architectures.layered_model import Dense
from quantize.checkpoint.files import Checkpoint, one_label
from quantize.graph.attention import attention
from quantize.graph.builder import Graph
from quantize.graph.grid import GraphInputs
from quantize.graph.layers import FeedForward, feed_forward, linear, projection
from quantize.graph.parameters import Heads, Matrix, Norm
from quantize.graph.precision import Precision
from quantize.graph.relative_positions import Positions
from quantize.rounding.rounding import Floats
from quantize.rounding.transforms import Rotation, channel_scales, rotate_heads


class EncoderConfig(msgspec.Struct, frozen=True):
    """The part of config.json that shapes BERT's layers, whichever way positions come in."""

    projects_embeddings: ClassVar[bool] = False  # if they are of another size than the stream

    hidden_size: Positive
    intermediate_size: Positive
    layer_norm_eps: float
    max_position_embeddings: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive
    vocab_size: Positive
    embedding_size: Positive | None = None
    hidden_act: Literal["gelu"] = "gelu"

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("num_attention_heads must divide hidden_size")
        if self.embedding_width != self.hidden_size and not self.projects_embeddings:
            raise ValueError("an embedding_size other than hidden_size is not supported")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def embedding_width(self) -> int:
        return self.embedding_size or self.hidden_size


@dataclass(frozen=True)
class EncoderInputs:
    """What a layer reads besides the stream."""

    shared: GraphInputs


@dataclass(frozen=True)
class BertLayer:
    """The weights of one layer, from the norm of its input to its second sum.

    A key's bias adds the same to all of a query's logits, which a softmax ignores, so there is
    none unless positions read the keys too. A value's bias passes through the attention, whose
    weights sum to one, so it is part of the output's.
    """

    config: EncoderConfig
    index: int
    is_scored: bool  # only the scored rows leave the layer
    attention_norm: Norm | None  # None for a first layer that reads the stream as it is
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
    key_bias: Floats | None = None  # [H]
    positions: Positions | None = None

    def rotated(self, head: Rotation) -> BertLayer:
        """Rotate each head's values."""
        value, output = rotate_heads(head, self.value, self.output.weight, self.config.head_size)
        return replace(self, value=value, output=replace(self.output, weight=output))

    def smoothed(
        self, rows: Mapping[str, Floats], precision: Precision
    ) -> tuple[BertLayer, Mapping[str, Floats]]:
        """Divide the norms' outputs, which the residual multiplies back, and the values.

        Without a first norm, what it would give out stays as it is.

        The second norm gives out dense's bias too, so that the residual brings it along: what is
        added to a row's path is one multiplication, and one addition is saved.
        """
        assert self.dense_bias is not None
        sites = [self._site(readers) for readers in ("qkv", "output", "intermediate")]
        readers = np.concatenate([self.query.weight, self.key, self.value])
        norm = self.attention_norm
        first: Floats = np.ones(self.config.hidden_size, np.float32)
        if norm:
            first = channel_scales(rows[sites[0]], readers)
        values = channel_scales(rows[sites[1]], self.output.weight)
        shifted = rows[sites[2]] + self.dense_bias
        second = channel_scales(shifted, self.intermediate.weight)
        wide = self.intermediate
        smoothed = replace(
            self,
            attention_norm=norm and norm.divided(first),
            query=replace(self.query, weight=self.query.weight * first),
            key=self.key * first,
            value=self.value * first / values[:, None],
            output=replace(self.output, weight=self.output.weight * values),
            feed_forward_norm=self._biased_norm(self.dense_bias).divided(second),
            intermediate=Dense(wide.weight * second, wide.bias - wide.weight @ self.dense_bias),
            dense_bias=None,
            attention_scales=first if norm else None,
            feed_forward_scales=second,
        )
        changed = (rows[sites[0]] / first, rows[sites[1]] / values, shifted / second)
        return smoothed, {**rows, **dict(zip(sites, changed, strict=True))}

    def _biased_norm(self, bias: Floats) -> Norm:
        norm = self.feed_forward_norm
        assert norm.bias is not None
        return replace(norm, bias=norm.bias + bias)

    def write(self, g: Graph, precision: Precision, inputs: EncoderInputs, x: str) -> str:
        config, shared, grid = self.config, inputs.shared, inputs.shared.grid
        refined = precision.refined(shared.refined_rows)
        g.scope = f"layers.{self.index}"
        queries = self._heads(Matrix(self._site("query"), self.query.weight, self.query.bias))
        both = np.concatenate([self.key, self.value])
        bias = self.key_bias
        if bias is not None:
            bias = np.concatenate([bias, np.zeros_like(bias)])
        projected = projection(
            g,
            precision,
            self._site("qkv"),
            x,
            norm=self.attention_norm,
            queries=None if self.is_scored else queries,
            keys_values=self._heads(Matrix(self._site("key_value"), both, bias)),
            keeps_normed=True,
            refined=refined,
        )
        query, residual = projected.queries, projected.normed
        if self.is_scored:
            grid, residual = shared.scored_grid, g.op("Gather", residual, shared.scored_rows)
            refined = shared.refined_scored_rows(precision)
            query = projection(
                g, precision, self._site("qkv"), residual, queries=queries, refined=refined
            ).queries
        attended = attention(
            g,
            grid,
            query,
            projected.keys_values,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_attention_heads,
            positions=self.positions,
        )
        output = Matrix(self._site("output"), self.output.weight, self.output.bias)
        x = linear(
            g,
            precision,
            self._site("output"),
            attended,
            output,
            residual=residual,
            residual_scales=self._scales(g, "attention", self.attention_scales),
            refined=refined,
        )
        wide = self.intermediate
        part = FeedForward(
            site=self._site("intermediate"),
            inner_site=self._site("dense"),
            norm=self.feed_forward_norm,
            activation="gelu",
            activated=Matrix(self._site("intermediate"), wide.weight, wide.bias),
            multiplied=None,
            down=Matrix(self._site("dense"), self.dense, self.dense_bias),
            adds="normed",
            residual_scales=self._scales(g, "feed_forward", self.feed_forward_scales),
        )
        return feed_forward(g, precision, x, part, refined)

    def _heads(self, matrix: Matrix) -> Heads:
        return Heads(matrix, self.config.num_attention_heads, self.config.head_size)

    def _scales(self, g: Graph, part: str, scales: Floats | None) -> str:
        return "" if scales is None else g.weight(self._site(f"{part}_scales"), scales)

    def _site(self, name: str) -> str:
        return f"layers.{self.index}.{name}"


def classify(
    g: Graph,
    precision: Precision,
    x: str,
    dense: Dense,
    output: Dense,
    activation: str,
    refined: str = "",
) -> str:
    """Classify the first tokens' rows [R, H] by two linear layers: one logit each, float32 [R].

    :param activation: between them, an ONNX operator
    :param refined: int64, ascending, the rows that are rounded in two terms; "" for none
    """
    matrix = Matrix("pooler", dense.weight, dense.bias)
    hidden = linear(g, precision, "pooler", x, matrix, refined=refined)
    pooled = g.op(activation, hidden)
    logits = g.op("MatMul", pooled, g.weight("classifier.weight", output.weight.T))
    logits = g.op("Add", logits, g.weight("classifier.bias", output.bias))
    return g.op("Squeeze", logits, g.constant([1]))


@dataclass(frozen=True)
class AttentionNames:
    """What a checkpoint calls the linear layers of a layer's attention, and the norm after it."""

    query: str = "attention.self.query"
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    output: str = "attention.output.dense"
    norm: str = "attention.output.LayerNorm"


class EncoderWeights:
    """What lies in a checkpoint of BERT's layout, under its names."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: EncoderConfig,
        root: str,
        names: AttentionNames = AttentionNames(),
    ) -> None:
        """Read nothing yet.

        :param root: before the encoder's names
        """
        self._checkpoint, self._config = checkpoint, config
        self._root, self._names = root, names

    def words(self, only: Sequence[int] | None) -> Floats:
        """Load the table of words, or ``only`` some of its rows."""
        name = f"{self._root}embeddings.word_embeddings.weight"
        shape = (self._config.vocab_size, self._config.embedding_width)
        if only is None:
            return self._checkpoint.tensor(name, *shape)
        return self._checkpoint.rows(name, only, *shape)

    def layer(self, index: int, is_scored: bool) -> BertLayer:
        """Load a layer, the value's bias within the output's."""
        hidden, prefix = self._config.hidden_size, f"encoder.layer.{index}"
        query, key, value = self.projections(index)
        output = self._dense(f"{prefix}.{self._names.output}", hidden, hidden)
        is_first = index == 0 and self._config.embedding_width != hidden
        dense = self._dense(f"{prefix}.output.dense", hidden, self._config.intermediate_size)
        return BertLayer(
            config=self._config,
            index=index,
            is_scored=is_scored,
            attention_norm=None if is_first else self.norm(index),
            query=query,
            key=key.weight,
            value=value.weight,
            output=replace(output, bias=output.bias + output.weight @ value.bias),
            feed_forward_norm=self._norm(
                f"layers.{index}.feed_forward_norm", f"{prefix}.{self._names.norm}"
            ),
            intermediate=self._dense(
                f"{prefix}.intermediate.dense", self._config.intermediate_size, hidden
            ),
            dense=dense.weight,
            dense_bias=dense.bias,
        )

    def projections(self, index: int) -> list[Dense]:
        """Load a layer's query, key and value."""
        hidden, names = self._config.hidden_size, self._names
        return [
            self._dense(f"encoder.layer.{index}.{name}", hidden, hidden)
            for name in (names.query, names.key, names.value)
        ]

    def embedding_projection(self) -> tuple[Norm, Dense]:
        """Load the norm of embeddings of another size, and what turns them into the stream."""
        config = self._config
        norm = self._norm("embeddings.norm", "embeddings.LayerNorm", config.embedding_width)
        return norm, self._dense("embeddings_project", config.hidden_size, config.embedding_width)

    def norm(self, index: int) -> Norm:
        """Load the norm that layer ``index`` begins with; the head's comes after the last."""
        previous = f"encoder.layer.{index - 1}.output" if index else "embeddings"
        is_head = index == self._config.num_hidden_layers
        name = "head.norm" if is_head else f"layers.{index}.attention_norm"
        return self._norm(name, f"{previous}.LayerNorm")

    def classifier(self, dense: str, output: str) -> tuple[Dense, Dense]:
        """Load the two linear layers of a classification head, by their full names.

        :raises QuantizeError: the second has several labels
        """
        hidden, load = self._config.hidden_size, self._checkpoint.tensor
        row = one_label(self._checkpoint, f"{output}.weight", hidden)
        first = Dense(load(f"{dense}.weight", hidden, hidden), load(f"{dense}.bias", hidden))
        return first, Dense(row[None], load(f"{output}.bias", 1))

    def _norm(self, name: str, stored: str, size: int = 0) -> Norm:
        load, size = self._checkpoint.tensor, size or self._config.hidden_size
        gain, bias = (load(f"{self._root}{stored}.{part}", size) for part in ("weight", "bias"))
        return Norm(name, "layer", gain, bias, self._config.layer_norm_eps)

    def _dense(self, name: str, rows: int, columns: int) -> Dense:
        load = self._checkpoint.tensor
        return Dense(
            load(f"{self._root}{name}.weight", rows, columns),
            load(f"{self._root}{name}.bias", rows),
        )
