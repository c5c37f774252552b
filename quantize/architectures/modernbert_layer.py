"""ModernBERT's layers: pre-norm without biases, rotary positions, a gated feed-forward (GeGLU)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import msgspec
import numpy as np

from edgerank.manifest import Positive
from quantize.checkpoint.sidecars import Pooling
from quantize.graph.attention import attention
from quantize.graph.builder import Graph
from quantize.graph.grid import GraphInputs
from quantize.graph.layers import FeedForward, feed_forward, linear, projection
from quantize.graph.parameters import Heads, Matrix, Norm
from quantize.graph.precision import Precision
from quantize.graph.rotary import LayerType, RopeByLayerType, RopeScaling
from quantize.graph.spans import Span
from quantize.rounding.rounding import Floats
from quantize.rounding.transforms import Rotation, channel_scales, rotate_heads


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
class ModernBertInputs:
    """The shared inputs, and the two kinds of attention."""

    shared: GraphInputs
    everything: Span
    window: Span


@dataclass(frozen=True)
class ModernBertLayer:
    """The weights of one layer; feed-forward: down(gelu(input(x)) * gate(x))."""

    config: ModernBertConfig
    index: int
    is_scored: bool  # only the scored rows leave the layer
    attention_norm: Norm  # in the first layer the embedding's, which the stream passes too
    query: Floats  # [H, H]
    key: Floats  # [H, H]
    value: Floats  # [H, H]
    output: Floats  # [H, H]
    feed_forward_norm: Norm
    input: Floats  # [I, H]
    gate: Floats  # [I, H]
    down: Floats  # [H, I]
    stream_scales: Floats | None = None  # [H], by which the first layer's norm is divided

    def rotated(self, head: Rotation) -> ModernBertLayer:
        """Rotate each head's values."""
        value, output = rotate_heads(head, self.value, self.output, self.config.head_size)
        return replace(self, value=value, output=output)

    def smoothed(
        self, rows: Mapping[str, Floats], precision: Precision
    ) -> tuple[ModernBertLayer, Mapping[str, Floats]]:
        """Divide what each matrix reads; norms, v and gate give out as much less."""
        sites = [self._site(readers) for readers in ("qkv", "output", "input_gate", "down")]
        qkv = np.concatenate([self.query, self.key, self.value])
        normed = channel_scales(rows[sites[0]], qkv)
        values = channel_scales(rows[sites[1]], self.output)
        raised = channel_scales(rows[sites[2]], np.concatenate([self.input, self.gate]))
        block = precision.mixed_block(self.down.shape[1])
        inner = channel_scales(rows[sites[3]], self.down, block=block)
        smoothed = replace(
            self,
            attention_norm=self.attention_norm.divided(normed),
            query=self.query * normed,
            key=self.key * normed,
            value=self.value * normed / values[:, None],
            output=self.output * values,
            feed_forward_norm=self.feed_forward_norm.divided(raised),
            input=self.input * raised,
            gate=self.gate * raised / inner[:, None],
            down=self.down * inner,
            stream_scales=normed if self.index == 0 else None,
        )
        scales = zip(sites, (normed, values, raised, inner), strict=True)
        return smoothed, {site: rows[site] / scale for site, scale in scales}

    def write(self, g: Graph, precision: Precision, inputs: ModernBertInputs, x: str) -> str:
        config, shared = self.config, inputs.shared
        span = inputs.window if config.is_local(self.index) else inputs.everything
        refined = precision.refined(shared.refined_rows)
        g.scope = f"layers.{self.index}"
        queries = self._heads(Matrix(self._site("query"), self.query))
        both = np.concatenate([self.key, self.value])
        projected = projection(
            g,
            precision,
            self._site("qkv"),
            x,
            norm=self.attention_norm,
            queries=None if self.is_scored else queries,
            keys_values=self._heads(Matrix(self._site("key_value"), both)),
            angles=span.angles,
            keeps_normed=self.index == 0 or self.is_scored,
            refined=refined,
        )
        if self.index == 0:
            x = self._first_stream(g, projected.normed)
        query, grid = projected.queries, span.grid
        if self.is_scored:
            # at position 0, whose angles are 0
            grid, scored = span.scored_grid, shared.scored_rows
            rows, x = g.op("Gather", projected.normed, scored), g.op("Gather", x, scored)
            refined = shared.refined_scored_rows(precision)
            query = projection(
                g, precision, self._site("qkv"), rows, queries=queries, refined=refined
            ).queries
        heads = config.num_attention_heads
        attended = attention(
            g, grid, query, projected.keys_values, num_heads=heads, num_kv_heads=heads
        )
        output = Matrix(self._site("output"), self.output)
        x = linear(
            g, precision, self._site("output"), attended, output, residual=x, refined=refined
        )
        part = FeedForward(
            site=self._site("input_gate"),
            inner_site=self._site("down"),
            norm=self.feed_forward_norm,
            activation="gelu",
            activated=Matrix(self._site("input"), self.input),
            multiplied=Matrix(self._site("gate"), self.gate),
            down=Matrix(self._site("down"), self.down),
        )
        return feed_forward(g, precision, x, part, refined)

    def _heads(self, matrix: Matrix) -> Heads:
        return Heads(matrix, self.config.num_attention_heads, self.config.head_size)

    def _first_stream(self, g: Graph, normed: str) -> str:
        """Return the embedding's norm as the stream: without the scales of what matrices read."""
        if self.stream_scales is None:
            return normed
        return g.op("Mul", normed, g.weight(self._site("stream_scales"), self.stream_scales))

    def _site(self, name: str) -> str:
        return f"layers.{self.index}.{name}"
