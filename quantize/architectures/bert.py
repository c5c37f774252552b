"""BERT encoders, as cross-encoders with one logit or as sentence-embedding models.

Follows ``transformers.models.bert.modeling_bert``: post-norm layers, learned absolute positions.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from edgerank.bundle import Positive
from quantize.blocks import (
    Grid,
    attention,
    flat_inputs,
    gather_rows,
    grid_inputs,
    linear,
)
from quantize.checkpoint import Checkpoint
from quantize.errors import QuantizeError
from quantize.graph import Graph
from quantize.precision import Precision

TINY = 1e-12  # the least norm that is divided by, as in torch.nn.functional.normalize
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


def read_config(checkpoint: Checkpoint) -> BertConfig:
    """Read and check config.json.

    :raises QuantizeError: a field is missing or asks for what this graph does not do
    """
    return checkpoint.config_as(BertConfig)


def write(g: Graph, checkpoint: Checkpoint, precision: Precision, head: Head) -> None:
    """Write the graph: one logit a sequence, or one unit vector for the pooling heads."""
    config = read_config(checkpoint)
    token_ids, positions = flat_inputs(g)
    token_types = g.input("token_types", TensorProto.INT64, ["tokens"])
    grid, scored_rows, scored_grid = grid_inputs(g, with_past=False)
    bert = _Bert(g, checkpoint, precision, config)

    x = bert.embed(token_ids, positions, token_types)
    last = config.num_hidden_layers - 1
    for index in range(last):
        x = bert.layer(index, x, grid, None)
    if head == "mean":
        x = bert.layer(last, x, grid, None)
    else:  # from the last attention on only each sequence's first token matters
        x = bert.layer(last, x, scored_grid, scored_rows)

    g.scope = "head"
    if head == "classifier":
        g.output("scores", bert.classify(x), ["scored"])
        return
    pooled = _mean(g, x, grid) if head == "mean" else x
    norm = g.op("ReduceL2", pooled, g.constant([-1]), keepdims=1)
    g.output(
        "embeddings",
        g.op("Div", pooled, g.op("Max", norm, g.constant(TINY))),
        ["scored", config.hidden_size],
    )


def _mean(g: Graph, x: str, grid: Grid) -> str:
    """Average each sequence's rows: float32 [T, H] to [B, H].

    A row of the grid's mask is 0 for the sequence's own tokens and hugely negative elsewhere, so
    its softmax is 1/n on each of the n tokens.
    """
    first = g.op("Gather", grid.mask, g.constant([0]), axis=2)  # [B, 1, 1, L]
    weights = g.op("Softmax", g.op("Squeeze", first, g.constant([1])), axis=-1)  # [B, 1, L]
    rows = g.op("Gather", x, grid.query_rows)  # [B, L, H]
    return g.op("Squeeze", g.op("MatMul", weights, rows), g.constant([1]))


class _Dense(NamedTuple):
    """A linear layer's parameters."""

    weight: NDArray[np.float32]  # [out, in]
    bias: NDArray[np.float32]  # [out]


class _Bert:
    """The weights of an encoder and the steps that read them."""

    def __init__(
        self, g: Graph, checkpoint: Checkpoint, precision: Precision, config: BertConfig
    ) -> None:
        self.g, self.checkpoint, self.precision, self.config = g, checkpoint, precision, config
        self.root = "bert." if "bert.embeddings.LayerNorm.weight" in checkpoint.tensors else ""

    def embed(self, token_ids: str, positions: str, token_types: str) -> str:
        """Sum the three embeddings and normalise: float32 [T, H]."""
        g, config = self.g, self.config
        g.scope = "embeddings"
        prefix = f"{self.root}embeddings"
        tables = [
            self.checkpoint.tensor(f"{prefix}.{kind}_embeddings.weight", count, config.hidden_size)
            for kind, count in (
                ("word", config.vocab_size),
                ("position", config.max_position_embeddings),
                ("token_type", config.type_vocab_size),
            )
        ]
        words = self.precision.embedding(g, f"{prefix}.word", tables[0], token_ids)
        places = g.op("Gather", g.weight(f"{prefix}.position", tables[1]), positions)
        types = g.op("Gather", g.weight(f"{prefix}.token_type", tables[2]), token_types)
        return self._norm(f"{prefix}.LayerNorm", g.op("Add", g.op("Add", words, types), places))

    def layer(self, index: int, x: str, grid: Grid, scored_rows: str | None) -> str:
        """Run one layer; with ``scored_rows``, only those leave it.

        A key's bias adds the same to all of a query's logits, which a softmax ignores, so it is
        left out. A value's bias passes through the attention, whose weights sum to one, so it
        joins the bias of the output layer.
        """
        g, config, hidden = self.g, self.config, self.config.hidden_size
        g.scope = f"layers.{index}"
        prefix = f"{self.root}encoder.layer.{index}"
        query, key, value = (
            self._dense(f"{prefix}.attention.self.{part}", hidden, hidden)
            for part in ("query", "key", "value")
        )
        rows = self.precision.rows(g, x)
        keys_values = linear(
            g,
            self.precision,
            rows,
            f"{prefix}.attention.self.key_value",
            np.concatenate([key.weight, value.weight]),
        )
        if scored_rows is not None:
            rows, x = gather_rows(g, rows, scored_rows), g.op("Gather", x, scored_rows)
        name = f"{prefix}.attention.self.query"
        queries = linear(g, self.precision, rows, name, query.weight, query.bias)
        heads = config.num_attention_heads
        attended = attention(g, grid, queries, keys_values, num_heads=heads, num_kv_heads=heads)

        output = self._dense(f"{prefix}.attention.output.dense", hidden, hidden)
        output = _Dense(output.weight, output.bias + output.weight @ value.bias)
        x = self._add_and_norm(f"{prefix}.attention.output", attended, output, x)

        name = f"{prefix}.intermediate.dense"
        wide = self._dense(name, config.intermediate_size, hidden)
        rows = self.precision.rows(g, x)
        inner = linear(g, self.precision, rows, name, wide.weight, wide.bias)
        output = self._dense(f"{prefix}.output.dense", hidden, config.intermediate_size)
        return self._add_and_norm(f"{prefix}.output", g.op("Gelu", inner), output, x)

    def classify(self, x: str) -> str:
        """Pool the first tokens' rows [R, H] and classify: one logit each, float32 [R]."""
        g, hidden = self.g, self.config.hidden_size
        name = f"{self.root}pooler.dense"
        pooler = self._dense(name, hidden, hidden)
        rows = self.precision.rows(g, x)
        pooled = g.op("Tanh", linear(g, self.precision, rows, name, pooler.weight, pooler.bias))
        labels = self.checkpoint.tensors.get("classifier.weight")
        if labels is not None and labels.shape[0] != 1:
            raise QuantizeError(
                f"{self.checkpoint.directory}: the classifier has {labels.shape[0]} labels; a"
                " reranker needs exactly one"
            )
        classifier = self._dense("classifier", 1, hidden)
        logits = g.op("MatMul", pooled, g.weight("classifier.weight", classifier.weight.T))
        logits = g.op("Add", logits, g.weight("classifier.bias", classifier.bias))
        return g.op("Squeeze", logits, g.constant([1]))

    def _add_and_norm(self, prefix: str, x: str, dense: _Dense, residual: str) -> str:
        """Compute LayerNorm(dense(x) + residual)."""
        g, rows = self.g, self.precision.rows(self.g, x)
        x = linear(g, self.precision, rows, f"{prefix}.dense", dense.weight, dense.bias)
        return self._norm(f"{prefix}.LayerNorm", g.op("Add", x, residual))

    def _norm(self, name: str, x: str) -> str:
        g, size = self.g, self.config.hidden_size
        gain = g.weight(f"{name}.weight", self.checkpoint.tensor(f"{name}.weight", size))
        offset = g.weight(f"{name}.bias", self.checkpoint.tensor(f"{name}.bias", size))
        epsilon = self.config.layer_norm_eps
        return g.op("LayerNormalization", x, gain, offset, axis=-1, epsilon=epsilon)

    def _dense(self, name: str, rows: int, columns: int) -> _Dense:
        load = self.checkpoint.tensor
        return _Dense(load(f"{name}.weight", rows, columns), load(f"{name}.bias", rows))
