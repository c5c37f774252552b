"""ModernBERT's layers: pre-norm without biases, rotary positions, a gated feed-forward (GeGLU)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np

from edgerank.manifest import Positive
from quantize.checkpoint.sidecars import Pooling
from quantize.graph.blocks import (
    GraphInputs,
    Grid,
    attention,
    gather_rows,
    in_slices,
    linear,
    split_columns,
)
from quantize.graph.builder import Graph
from quantize.graph.precision import ChannelSlice, MatmulInput, Precision, Rows
from quantize.graph.rotary import Angles, RopeScaling, rotate
from quantize.rounding.rounding import Floats
from quantize.rounding.transforms import Rotation, channel_scales, rotate_heads

LayerType = Literal["full_attention", "sliding_attention"]


class RopeByLayerType(msgspec.Struct, frozen=True):
    """Where transformers 5 keeps the rotary settings."""

    full_attention: RopeScaling
    sliding_attention: RopeScaling


class ModernBertConfig(msgspec.Struct, frozen=True):
    """The part of config.json that shapes the graph."""

    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive
    vocab_size: Positive
    attention_bias: bool = False
    classifier_activation: Literal["gelu"] = "gelu"
    classifier_bias: bool = False
    classifier_pooling: Pooling = "cls"
    global_attn_every_n_layers: Positive = 3
    global_rope_theta: float = 160000.0
    hidden_activation: Literal["gelu"] = "gelu"
    layer_types: tuple[LayerType, ...] | None = None  # of transformers 5
    local_attention: Positive = 128
    local_rope_theta: float | None = 10000.0
    mlp_bias: bool = False
    norm_bias: bool = False
    norm_eps: float = 1e-5
    rope_parameters: RopeByLayerType | None = None
    rope_scaling: None = None

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError("num_attention_heads must cut hidden_size into heads of even size")
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError("layer_types must name as many layers as num_hidden_layers")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def window(self) -> int:
        """How many tokens away, on either side, a local layer sees."""
        return self.local_attention // 2

    @property
    def global_theta(self) -> float:
        rope = self.rope_parameters.full_attention if self.rope_parameters else RopeScaling()
        return rope.rope_theta or self.global_rope_theta

    @property
    def local_theta(self) -> float:
        rope = self.rope_parameters.sliding_attention if self.rope_parameters else RopeScaling()
        return rope.rope_theta or self.local_rope_theta or self.global_rope_theta

    def is_local(self, index: int) -> bool:
        if self.layer_types is not None:
            return self.layer_types[index] == "sliding_attention"
        return index % self.global_attn_every_n_layers != 0


@dataclass(frozen=True)
class Span:
    """What a layer's attention sees: everything or a window, and the angles of its positions."""

    grid: Grid
    scored_grid: Grid
    angles: Angles


@dataclass(frozen=True)
class ModernBertInputs:
    """The shared inputs, and the two kinds of attention."""

    shared: GraphInputs
    everything: Span
    window: Span


def layer_norm(g: Graph, name: str, x: str, gain: Floats, config: ModernBertConfig) -> str:
    """Normalise rows, float32 [T, H]; there is no bias."""
    return g.op("LayerNormalization", x, g.weight(name, gain), axis=-1, epsilon=config.norm_eps)


@dataclass(frozen=True)
class ModernBertLayer:
    """The weights of one layer; feed-forward: down(gelu(input(x)) * gate(x))."""

    config: ModernBertConfig
    index: int
    is_scored: bool  # only the scored rows leave the layer
    attention_norm: Floats  # [H], in the first layer the embedding's, which the stream passes too
    query: Floats  # [H, H]
    key: Floats  # [H, H]
    value: Floats  # [H, H]
    output: Floats  # [H, H]
    feed_forward_norm: Floats  # [H]
    input: Floats  # [I, H]
    gate: Floats  # [I, H]
    down: Floats  # [H, I]
    stream_scales: Floats | None = None  # [H], by which the first layer's norm is divided

    def rotated(self, head: Rotation) -> ModernBertLayer:
        """Rotate each head's values."""
        value, output = rotate_heads(head, self.value, self.output, self.config.head_size)
        return replace(self, value=value, output=output)

    def smoothed(self, rows: Mapping[str, Floats]) -> tuple[ModernBertLayer, Mapping[str, Floats]]:
        """Divide what each matrix reads; norms, v and gate give out as much less."""
        sites = [self._site(readers) for readers in ("qkv", "output", "input_gate", "down")]
        qkv = np.concatenate([self.query, self.key, self.value])
        normed = channel_scales(rows[sites[0]], qkv)
        values = channel_scales(rows[sites[1]], self.output)
        raised = channel_scales(rows[sites[2]], np.concatenate([self.input, self.gate]))
        inner = channel_scales(rows[sites[3]], self.down)
        smoothed = replace(
            self,
            attention_norm=self.attention_norm / normed,
            query=self.query * normed,
            key=self.key * normed,
            value=self.value * normed / values[:, None],
            output=self.output * values,
            feed_forward_norm=self.feed_forward_norm / raised,
            input=self.input * raised,
            gate=self.gate * raised / inner[:, None],
            down=self.down * inner,
            stream_scales=normed if self.index == 0 else None,
        )
        scales = zip(sites, (normed, values, raised, inner), strict=True)
        return smoothed, {site: rows[site] / scale for site, scale in scales}

    def write(self, g: Graph, precision: Precision, inputs: ModernBertInputs, x: str) -> str:
        config = self.config
        span = inputs.window if config.is_local(self.index) else inputs.everything
        g.scope = f"layers.{self.index}"
        normed = layer_norm(g, self._site("attention_norm"), x, self.attention_norm, config)
        if self.index == 0:
            x = self._first_stream(g, normed)
        rows, grid = precision.rows(g, MatmulInput(self._site("qkv"), normed)), span.grid
        keys_values = self._keys_values(g, precision, rows, span.angles)
        if self.is_scored:
            grid, scored = span.scored_grid, inputs.shared.scored_rows
            rows, x = gather_rows(g, rows, scored), g.op("Gather", x, scored)
        queries = linear(g, precision, rows, self._site("query"), self.query)
        if not self.is_scored:  # scored rows are at position 0, whose angles are 0
            queries = rotate(g, queries, span.angles, config.num_attention_heads)
        heads = config.num_attention_heads
        attended = attention(g, grid, queries, keys_values, num_heads=heads, num_kv_heads=heads)
        rows = precision.rows(g, MatmulInput(self._site("output"), attended))
        x = g.op("Add", x, linear(g, precision, rows, self._site("output"), self.output))

        normed = layer_norm(g, self._site("feed_forward_norm"), x, self.feed_forward_norm, config)
        rows = precision.rows(g, MatmulInput(self._site("input_gate"), normed))
        return g.op("Add", x, self._feed_forward(g, precision, rows))

    def _first_stream(self, g: Graph, normed: str) -> str:
        """Return the embedding's norm as the stream: without the scales of what matrices read."""
        if self.stream_scales is None:
            return normed
        return g.op("Mul", normed, g.weight(self._site("stream_scales"), self.stream_scales))

    def _keys_values(self, g: Graph, precision: Precision, rows: Rows, angles: Angles) -> str:
        """Compute rotated keys and, beside them, values: float32 [T, 2·H]."""
        hidden = self.config.hidden_size
        weight = np.concatenate([self.key, self.value])
        both = linear(g, precision, rows, self._site("key_value"), weight)
        key, value = split_columns(g, both, [hidden, hidden])
        key = rotate(g, key, angles, self.config.num_attention_heads)
        return g.op("Concat", key, value, axis=1)

    def _feed_forward(self, g: Graph, precision: Precision, rows: Rows) -> str:
        """Compute down(gelu(input(x)) * gate(x)).

        gate keeps its row scale back: a row's scale does not change how the row quantizes, so it
        joins the scale of down's rows instead of costing a pass over the widest tensor.
        """

        def inner(part: ChannelSlice) -> MatmulInput:
            names = [part.name(self._site(name)) for name in ("input", "gate")]
            activated = g.op(
                "Gelu", linear(g, precision, rows, names[0], self.input[part.channels])
            )
            gate = precision.matmul(g, rows, names[1], self.gate[part.channels])
            product = g.op("Mul", activated, gate.values)
            return MatmulInput(self._site("down"), product, carried=gate.scale, part=part)

        return in_slices(g, precision, self._site("down"), self.down, inner)

    def _site(self, name: str) -> str:
        return f"layers.{self.index}.{name}"
