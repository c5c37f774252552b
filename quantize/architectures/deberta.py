"""DeBERTa-v2 and -v3: cross-encoders such as mxbai-rerank v1, or with modules after pooling.

Follows ``transformers.models.deberta_v2.modeling_deberta_v2``: BERT's layers, with positions in the
attention alone (``quantize.graph.relative_positions``). Where ``share_att_key`` is set, the tables
of positions are the same for all inputs and are computed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from edgerank.manifest import Positive
from quantize.architectures.bert_layer import (
    AttentionNames,
    BertLayer,
    EncoderConfig,
    EncoderInputs,
    EncoderWeights,
    classify,
)
from quantize.architectures.embedding import write_pooled
from quantize.architectures.layered_model import Dense
from quantize.checkpoint.files import Checkpoint
from quantize.graph.builder import Graph
from quantize.graph.grid import Grid, declare_inputs, mean_rows, reach
from quantize.graph.precision import Float32, Precision
from quantize.graph.relative_positions import Positions, log_buckets, write_buckets
from quantize.rounding.rounding import Floats
from quantize.rounding.transforms import Rotation

DebertaHead = Literal["classifier", "mean", "cls"]

ROOT = "deberta."
NAMES = AttentionNames(
    query="attention.self.query_proj",
    key="attention.self.key_proj",
    value="attention.self.value_proj",
)
PRODUCTS = 3  # in a logit: of contents, of content and position, of position and content


class DebertaConfig(EncoderConfig, frozen=True, kw_only=True):
    """The part of config.json that shapes the graph."""

    norm_rel_ebd: Literal["layer_norm"]
    pos_att_type: str | list[str]
    position_buckets: Positive
    position_biased_input: bool = True
    relative_attention: bool = False
    share_att_key: bool = False
    conv_kernel_size: int = 0
    attention_head_size: int | None = None
    max_relative_positions: int = -1
    pooler_hidden_act: Literal["gelu"] = "gelu"
    type_vocab_size: Literal[0] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        parts = self.pos_att_type
        parts = parts.lower().split("|") if isinstance(parts, str) else parts
        if sorted(part.strip() for part in parts) != ["c2p", "p2c"]:
            raise ValueError("pos_att_type must be c2p|p2c")
        if not self.relative_attention or not self.share_att_key or self.position_biased_input:
            raise ValueError(
                "relative_attention and share_att_key must be true, position_biased_input false"
            )
        if self.conv_kernel_size > 0:
            raise ValueError("conv_kernel_size must be 0: there is no convolution")
        if self.attention_head_size not in (None, self.head_size):
            raise ValueError("attention_head_size must be hidden_size / num_attention_heads")
        if self.position_buckets < 4 or self.max_distance - 1 <= self.position_buckets // 2:
            raise ValueError("position_buckets must be at least 4, half of it below the positions")

    @property
    def max_distance(self) -> int:
        """The distance, less one, that the last bucket ends with."""
        given = self.max_relative_positions
        return given if given > 0 else self.max_position_embeddings


class Deberta:
    """An encoder with one logit a sequence; its layers are BERT's."""

    cache_width = 0

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: DebertaHead = "classifier",
        rotation: Rotation | None = None,
    ) -> None:
        """Read the configuration.

        :param rotation: of each head's values
        :raises QuantizeError: it lacks a field or asks for what the graph does not do
        """
        self.config = checkpoint.config_as(DebertaConfig)
        self.num_layers = self.config.num_hidden_layers
        self.stream_width = self.config.hidden_size
        self._checkpoint, self._head, self._rotation = checkpoint, head, rotation
        is_rooted = f"{ROOT}embeddings.LayerNorm.weight" in checkpoint.tensors
        self._root = ROOT if is_rooted else ""
        self._weights = EncoderWeights(checkpoint, self.config, self._root, NAMES)

    def rotated(self, outliers: Sequence[int]) -> Deberta:
        """Rotate each head's values; a norm with a bias lets no rotation of the stream through."""
        rotation = Rotation.random(self.config.head_size, seed=1)
        return Deberta(self._checkpoint, self._head, rotation)

    def declare(self, g: Graph) -> EncoderInputs:
        shared = declare_inputs(g, with_past=False)
        config, g.scope = self.config, "buckets"
        length = reach(config.max_position_embeddings)
        distances = np.arange(1 - length, length)
        table = log_buckets(distances, config.position_buckets, config.max_distance)
        buckets = g.weight("position_buckets", table)

        def with_buckets(grid: Grid) -> Grid:
            heads = config.num_attention_heads
            found = write_buckets(
                g,
                grid.query_rows,
                grid.key_rows,
                num_heads=heads,
                buckets=buckets,
                max_length=length,
            )
            return replace(grid, buckets=found)

        # a scored row is its sequence's first, so that its only slot is its position too
        return EncoderInputs(
            replace(
                shared,
                grid=with_buckets(shared.grid),
                scored_grid=with_buckets(shared.scored_grid),
            )
        )

    def embed(
        self,
        g: Graph,
        precision: Precision,
        inputs: EncoderInputs,
        only: Sequence[int] | None = None,
    ) -> str:
        """Look up the words; there are no other embeddings."""
        g.scope = "embeddings"
        words = self._weights.words(only)
        return precision.embedding(g, "embeddings.word", words, inputs.shared.token_ids)

    def layer(self, index: int) -> BertLayer:
        query, key, _ = self._weights.projections(index)
        # from the last attention on only each sequence's first token matters, except to the mean
        is_scored = index == self.num_layers - 1 and self._head != "mean"
        layer = replace(
            self._weights.layer(index, is_scored),
            key_bias=key.bias,
            positions=self._positions(index, query, key),
        )
        return layer if self._rotation is None else layer.rotated(self._rotation)

    def finish(self, g: Graph, precision: Precision, inputs: EncoderInputs, x: str) -> None:
        """Write the head in float32, whatever the precision.

        It reads one row a sequence, so that it costs next to nothing; the outliers of the last
        norm would reach it, for only layers are smoothed.
        """
        g.scope = "head"
        x = self._weights.norm(self.num_layers).write(g, x)
        if self._head != "classifier":
            pooled = mean_rows(g, x, inputs.shared.grid) if self._head == "mean" else x
            write_pooled(g, self._checkpoint, pooled, self.stream_width)
            return
        dense, output = self._weights.classifier("pooler.dense", "classifier")
        g.output("scores", classify(g, Float32(), x, dense, output, "Gelu"), ["scored"])

    def aligned(self, stream: Floats) -> Floats:
        return stream

    def _positions(self, index: int, query: Dense, key: Dense) -> Positions:
        """Project the embeddings of distances as the layer projects tokens."""
        config, load, prefix = self.config, self._checkpoint.tensor, f"{self._root}encoder"
        heads, size, hidden = config.num_attention_heads, config.head_size, config.hidden_size
        stored = load(f"{prefix}.rel_embeddings.weight", 2 * config.position_buckets, hidden)
        gain, bias = (load(f"{prefix}.LayerNorm.{part}", hidden) for part in ("weight", "bias"))
        rows = _normalised(stored, gain, bias, config.layer_norm_eps)
        scale = (PRODUCTS * size) ** -0.5

        def project(dense: Dense) -> Floats:
            projected = (rows @ dense.weight.T + dense.bias) * np.float32(scale)
            return np.ascontiguousarray(projected.reshape(-1, heads, size).swapaxes(0, 1))

        return Positions(f"layers.{index}.positions", project(key), project(query), scale)


def _normalised(rows: Floats, gain: Floats, bias: Floats, epsilon: float) -> Floats:
    """Normalise rows [N, H] as the graph's LayerNormalization does."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    deviation = np.sqrt(np.square(centred).mean(axis=1, keepdims=True) + np.float32(epsilon))
    return np.asarray(centred / deviation * gain + bias, np.float32)
