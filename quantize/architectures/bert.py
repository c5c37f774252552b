"""BERT encoders, as cross-encoders with one logit or as sentence-embedding models.

Follows ``transformers.models.bert.modeling_bert``: post-norm layers, learned absolute positions.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

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
from quantize.graph import CONTRIB, Graph
from quantize.precision import Precision, Rows, scaled

Array = NDArray[np.float32]
Head = Literal["classifier", "mean", "cls"]


class BertConfig(msgspec.Struct, frozen=True):
    """The part of config.json that shapes the graph."""

    hidden_size: int
    intermediate_size: int
    layer_norm_eps: float
    max_position_embeddings: int
    num_attention_heads: int
    num_hidden_layers: int
    vocab_size: int
    hidden_act: Literal["gelu"] = "gelu"
    position_embedding_type: Literal["absolute"] = "absolute"
    type_vocab_size: int = 2


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
    unit = g.op("LpNormalization", pooled, axis=-1, p=2)
    g.output("embeddings", unit, ["scored", config.hidden_size])


def _mean(g: Graph, x: str, grid: Grid) -> str:
    """Average each sequence's rows: float32 [T, H] to [B, H].

    A row of the grid's mask is 0 for the sequence's own tokens and hugely negative elsewhere, so
    its softmax is 1/n on each of the n tokens.
    """
    first = g.op("Gather", grid.mask, g.constant([0]), axis=2)  # [B, 1, 1, L]
    weights = g.op("Softmax", g.op("Squeeze", first, g.constant([1])), axis=-1)  # [B, 1, L]
    rows = g.op("Gather", x, grid.query_rows)  # [B, L, H]
    return g.op("Squeeze", g.op("MatMul", weights, rows), g.constant([1]))


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
        total = g.op("Add", g.op("Add", words, types), places)
        gain, offset = self._norm(f"{prefix}.LayerNorm")
        return g.op(
            "LayerNormalization", total, gain, offset, axis=-1, epsilon=config.layer_norm_eps
        )

    def layer(self, index: int, x: str, grid: Grid, scored_rows: str | None) -> str:
        """Run one layer; with ``scored_rows``, only those leave it."""
        g, config = self.g, self.config
        g.scope = f"layers.{index}"
        prefix = f"{self.root}encoder.layer.{index}"
        rows = self.precision.rows(g, x)
        keys_values = self._project(f"{prefix}.attention.self", ["key", "value"], rows)
        if scored_rows is not None:
            rows, x = gather_rows(g, rows, scored_rows), g.op("Gather", x, scored_rows)
        query = self._project(f"{prefix}.attention.self", ["query"], rows)
        heads = config.num_attention_heads
        attended = attention(g, grid, query, keys_values, num_heads=heads, num_kv_heads=heads)
        x = self._add_and_norm(f"{prefix}.attention.output", attended, x, config.hidden_size)

        rows = self.precision.rows(g, x)
        name = f"{prefix}.intermediate.dense"
        weight, bias = self._dense(name, config.intermediate_size, config.hidden_size)
        inner = scaled(g, self.precision.matmul(g, rows, name, weight), rows)
        inner = g.op("BiasGelu", inner, g.weight(f"{name}.bias", bias), domain=CONTRIB)
        return self._add_and_norm(f"{prefix}.output", inner, x, config.intermediate_size)

    def classify(self, x: str) -> str:
        """Pool the first tokens' rows [B, H] and classify: one logit each, float32 [B]."""
        g, hidden = self.g, self.config.hidden_size
        name = f"{self.root}pooler.dense"
        pooled = linear(
            g, self.precision, self.precision.rows(g, x), name, *self._dense(name, hidden, hidden)
        )
        labels = self.checkpoint.tensors.get("classifier.weight")
        if labels is not None and labels.shape[0] != 1:
            raise QuantizeError(
                f"{self.checkpoint.directory}: the classifier has {labels.shape[0]} labels; a"
                " reranker needs exactly one"
            )
        weight, bias = self._dense("classifier", 1, hidden)
        logits = g.op("MatMul", g.op("Tanh", pooled), g.weight("classifier.weight", weight.T))
        logits = g.op("Add", logits, g.weight("classifier.bias", bias))
        return g.op("Squeeze", logits, g.constant([1]))

    def _project(self, prefix: str, parts: list[str], rows: Rows) -> str:
        """Project by query, key or value matrices laid side by side."""
        hidden = self.config.hidden_size
        layers = [self._dense(f"{prefix}.{part}", hidden, hidden) for part in parts]
        weight = np.concatenate([weight for weight, _ in layers])
        bias = np.concatenate([bias for _, bias in layers])
        return linear(self.g, self.precision, rows, f"{prefix}.{'_'.join(parts)}", weight, bias)

    def _add_and_norm(self, prefix: str, x: str, residual: str, width: int) -> str:
        """Compute LayerNorm(dense(x) + residual) from ``x`` float32 [T, width]."""
        g, name = self.g, f"{prefix}.dense"
        weight, bias = self._dense(name, self.config.hidden_size, width)
        rows = self.precision.rows(g, x)
        product = scaled(g, self.precision.matmul(g, rows, name, weight), rows)
        gain, offset = self._norm(f"{prefix}.LayerNorm")
        return g.op(
            "SkipLayerNormalization",
            product,
            residual,
            gain,
            offset,
            g.weight(f"{name}.bias", bias),
            domain=CONTRIB,
            epsilon=self.config.layer_norm_eps,
        )

    def _dense(self, name: str, rows: int, columns: int) -> tuple[Array, Array]:
        load = self.checkpoint.tensor
        return load(f"{name}.weight", rows, columns), load(f"{name}.bias", rows)

    def _norm(self, name: str) -> tuple[str, str]:
        size = self.config.hidden_size
        return (
            self.g.weight(f"{name}.weight", self.checkpoint.tensor(f"{name}.weight", size)),
            self.g.weight(f"{name}.bias", self.checkpoint.tensor(f"{name}.bias", size)),
        )
