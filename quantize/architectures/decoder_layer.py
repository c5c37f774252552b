"""The layers that Llama, Qwen and Gemma share.

RMSNorm before each half, rotary positions, grouped keys and values, a gated feed-forward part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import TensorProto

from quantize.architectures.decoder_spec import DecoderSpec
from quantize.checkpoint.files import Checkpoint
from quantize.graph.blocks import (
    GraphInputs,
    attention,
    gather_rows,
    in_slices,
    linear,
    split_columns,
)
from quantize.graph.builder import CONTRIB, Graph
from quantize.graph.precision import ChannelSlice, MatmulInput, Precision, Rows
from quantize.graph.rotary import Angles, rotate
from quantize.rounding.rounding import Floats
from quantize.rounding.transforms import Rotation, channel_scales, rotate_heads


@dataclass(frozen=True)
class DecoderInputs:
    """The shared inputs, and those of a decoder with rotary positions."""

    shared: GraphInputs
    cache_rows: str  # int64 [C], the rows whose keys and values are needed later
    angles: Angles


@dataclass(frozen=True)
class Projection:
    """A linear layer's parameters."""

    weight: Floats  # [out, in]
    bias: Floats | None  # [out]


@dataclass(frozen=True)
class DecoderLayer:
    """The weights of one layer."""

    spec: DecoderSpec
    index: int
    attention_norm: Floats  # [H]
    query: Projection  # [heads·D, H]
    key: Projection  # [KV·D, H]
    value: Projection  # [KV·D, H]
    head_norms: tuple[Floats, Floats] | None  # of queries and keys, [D] each
    output: Floats  # [H, heads·D]
    feed_forward_norm: Floats  # [H]
    gate: Floats  # [I, H]
    up: Floats  # [I, H]
    down: Floats  # [H, I]

    def rotated(self, stream: Rotation, head: Rotation) -> DecoderLayer:
        """Rotate the stream, into which the norms' gains would not fit, and each head's values."""
        size = self.spec.head_size

        def read(weight: Floats, gain: Floats) -> Floats:
            return stream.apply(weight * gain)

        def write(weight: Floats) -> Floats:
            return np.ascontiguousarray(stream.apply(weight.T).T)

        query, key = (
            replace(dense, weight=read(dense.weight, self.attention_norm))
            for dense in (self.query, self.key)
        )
        value, output = rotate_heads(
            head, read(self.value.weight, self.attention_norm), write(self.output), size
        )
        bias = self.value.bias
        if bias is not None:
            bias = head.apply(bias.reshape(-1, size)).reshape(-1)
        return replace(
            self,
            attention_norm=np.ones_like(self.attention_norm),
            query=query,
            key=key,
            value=Projection(value, bias),
            output=output,
            feed_forward_norm=np.ones_like(self.feed_forward_norm),
            gate=read(self.gate, self.feed_forward_norm),
            up=read(self.up, self.feed_forward_norm),
            down=write(self.down),
        )

    def smoothed(self, rows: Mapping[str, Floats]) -> tuple[DecoderLayer, Mapping[str, Floats]]:
        """Divide what each matrix reads; norms, v and up give out as much less."""
        spec = self.spec
        kv_channels = np.arange(spec.kv_width).reshape(spec.num_kv_heads, 1, -1)
        sharing = spec.num_heads // spec.num_kv_heads
        owners = kv_channels.repeat(sharing, axis=1).reshape(-1)
        sites = [self._site(readers) for readers in ("qkv", "o", "gate_up", "down")]
        qkv = np.concatenate([self.query.weight, self.key.weight, self.value.weight])
        normed = channel_scales(rows[sites[0]], qkv)
        values = channel_scales(rows[sites[1]], self.output, owners)
        raised = channel_scales(rows[sites[2]], np.concatenate([self.gate, self.up]))
        inner = channel_scales(rows[sites[3]], self.down)
        smoothed = replace(
            self,
            attention_norm=self.attention_norm / normed,
            query=replace(self.query, weight=self.query.weight * normed),
            key=replace(self.key, weight=self.key.weight * normed),
            value=Projection(
                self.value.weight * normed / values[:, None],
                None if self.value.bias is None else self.value.bias / values,
            ),
            output=self.output * values[owners],
            feed_forward_norm=self.feed_forward_norm / raised,
            gate=self.gate * raised,
            up=self.up * raised / inner[:, None],
            down=self.down * inner,
        )
        scales = zip(sites, (normed, values[owners], raised, inner), strict=True)
        return smoothed, {site: rows[site] / scale for site, scale in scales}

    def write(self, g: Graph, precision: Precision, inputs: DecoderInputs, x: str) -> str:
        spec, shared, angles, grid = self.spec, inputs.shared, inputs.angles, inputs.shared.grid
        g.scope = f"layers.{self.index}"
        past = g.input(f"past.{self.index}", TensorProto.FLOAT, ["past", 2 * spec.kv_width])

        rows = precision.rows(g, MatmulInput(self._site("qkv"), self._norm(g, "attention", x)))
        keys_values = self._keys_values(g, precision, rows, angles)
        g.output(
            f"present.{self.index}",
            g.op("Gather", keys_values, inputs.cache_rows),
            ["cached", 2 * spec.kv_width],
        )
        if self.index == spec.num_layers - 1:
            scored, grid = shared.scored_rows, shared.scored_grid
            rows, x = gather_rows(g, rows, scored), g.op("Gather", x, scored)
            cosines, sines = (g.op("Gather", part, scored, axis=1) for part in angles)
            angles = (cosines, sines)
        query = linear(
            g, precision, rows, self._name("self_attn.q"), self.query.weight, self.query.bias
        )
        attended = attention(
            g,
            grid,
            self._positioned(g, query, angles, "query"),
            g.op("Concat", past, keys_values, axis=0),
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
        )
        rows = precision.rows(g, MatmulInput(self._site("o"), attended))
        x = g.op("Add", x, linear(g, precision, rows, self._name("self_attn.o"), self.output))
        rows = precision.rows(
            g, MatmulInput(self._site("gate_up"), self._norm(g, "feed_forward", x))
        )
        return g.op("Add", x, self._feed_forward(g, precision, rows))

    def _norm(self, g: Graph, part: Literal["attention", "feed_forward"], x: str) -> str:
        gain = self.attention_norm if part == "attention" else self.feed_forward_norm
        weight = g.weight(f"layers.{self.index}.{part}_norm", gain)
        return g.op("RMSNormalization", x, weight, epsilon=self.spec.norm_epsilon)

    def _keys_values(self, g: Graph, precision: Precision, rows: Rows, angles: Angles) -> str:
        """Compute rotated keys and, beside them, values: float32 [T, 2·KV·D]."""
        width = self.spec.kv_width
        weight = np.concatenate([self.key.weight, self.value.weight])
        bias = None
        if self.key.bias is not None and self.value.bias is not None:
            bias = np.concatenate([self.key.bias, self.value.bias])
        both = linear(g, precision, rows, self._name("self_attn.kv"), weight, bias)
        key, value = split_columns(g, both, [width, width])
        return g.op("Concat", self._positioned(g, key, angles, "key"), value, axis=1)

    def _positioned(self, g: Graph, x: str, angles: Angles, part: Literal["query", "key"]) -> str:
        """Normalise and rotate each head of float32 [T, heads·D]."""
        spec, is_query = self.spec, part == "query"
        if self.head_norms is not None:
            gain = g.weight(f"layers.{self.index}.{part}_norm", self.head_norms[not is_query])
            heads = g.op("Reshape", x, g.constant([0, -1, spec.head_size]))
            normed = g.op("RMSNormalization", heads, gain, epsilon=spec.norm_epsilon)
            x = g.op("Reshape", normed, g.constant([0, -1]))
        return rotate(g, x, angles, spec.num_heads if is_query else spec.num_kv_heads)

    def _feed_forward(self, g: Graph, precision: Precision, rows: Rows) -> str:
        """Compute down(activation(gate(x)) * up(x)).

        up keeps its row scale back: a row's scale does not change how the row quantizes, so it
        joins the scale of down's rows instead of costing a pass over the widest tensor.
        """

        def inner(part: ChannelSlice) -> MatmulInput:
            gate, up = (part.name(self._name(f"mlp.{name}")) for name in ("gate", "up"))
            gated = linear(g, precision, rows, gate, self.gate[part.channels])
            if self.spec.activation == "silu":
                gated = g.op("QuickGelu", gated, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x)
            else:
                gated = g.op("Gelu", gated, approximate="tanh")
            raised = precision.matmul(g, rows, up, self.up[part.channels])
            product = g.op("Mul", gated, raised.values)
            return MatmulInput(self._site("down"), product, carried=raised.scale, part=part)

        return in_slices(g, precision, self._name("mlp.down"), self.down, inner)

    def _name(self, part: str) -> str:
        return f"model.layers.{self.index}.{part}_proj"

    def _site(self, readers: str) -> str:
        return f"layers.{self.index}.{readers}"


def load_layer(checkpoint: Checkpoint, spec: DecoderSpec, index: int) -> DecoderLayer:
    """Load a layer's weights as they are stored."""
    hidden, wide, narrow = spec.hidden_size, spec.intermediate_size, spec.kv_width
    prefix = f"model.layers.{index}"

    def matrix(name: str, rows: int, columns: int) -> Floats:
        return checkpoint.tensor(f"{prefix}.{name}_proj.weight", rows, columns)

    def dense(name: str, rows: int) -> Projection:
        bias_name = f"{prefix}.self_attn.{name}_proj.bias"
        bias = checkpoint.tensor(bias_name, rows) if spec.has_qkv_bias else None
        return Projection(matrix(f"self_attn.{name}", rows, hidden), bias)

    def norm(name: str, size: int = hidden) -> Floats:
        gain: Floats = checkpoint.tensor(f"{prefix}.{name}norm.weight", size)
        gain += np.float32(spec.gain_offset)
        return gain

    head_norms = None
    if spec.has_head_norms:
        query_norm, key_norm = (norm(f"self_attn.{x}_", spec.head_size) for x in "qk")
        head_norms = query_norm, key_norm
    return DecoderLayer(
        spec=spec,
        index=index,
        attention_norm=norm("input_layer"),
        query=dense("q", spec.query_width),
        key=dense("k", narrow),
        value=dense("v", narrow),
        head_norms=head_norms,
        output=matrix("self_attn.o", hidden, spec.query_width),
        feed_forward_norm=norm("post_attention_layer"),
        gate=matrix("mlp.gate", wide, hidden),
        up=matrix("mlp.up", wide, hidden),
        down=matrix("mlp.down", hidden, wide),
    )
