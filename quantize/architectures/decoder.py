"""Decoders as rerankers: a token sees the shared prefix and its own document so far.

The plan that Llama, Qwen and Gemma share: RMSNorm before each half of a layer, rotary positions,
grouped keys and values, a gated feed-forward part. What is peculiar to each is in a ``Shape`` that
its own module reads from config.json. There is no vocabulary head: the score is one dot product
with a sum of its rows, the final norm's gain folded in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

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
    split_columns,
)
from quantize.checkpoint import Checkpoint, one_label
from quantize.equalisation import Rotation, channel_scales, rotate_heads
from quantize.graph import CONTRIB, Graph
from quantize.precision import Activation, Precision, Rows
from quantize.rotary import Angles, RopeScaling, rotary_angles, rotate
from quantize.weights import Floats


@dataclass(frozen=True)
class Shape:
    """What there is to know of a decoder but its weights."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_positions: int
    norm_epsilon: float
    frequencies: Floats  # of the rotary angles, [head_size / 2]
    is_tied: bool  # the vocabulary head is the embedding
    activation: Literal["silu", "gelu_tanh"] = "silu"
    has_qkv_bias: bool = False
    has_head_norms: bool = False  # RMSNorm of each head's queries and keys
    gain_offset: float = 0.0  # what a norm adds to its stored gain
    embedding_scale: float = 1.0

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_size

    @property
    def kv_width(self) -> int:
        return self.num_kv_heads * self.head_size


class DecoderConfig(msgspec.Struct, frozen=True):
    """The part of config.json that decoders share."""

    hidden_size: Positive
    intermediate_size: Positive
    max_position_embeddings: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive
    num_key_value_heads: Positive
    rms_norm_eps: float
    vocab_size: Positive
    head_dim: Positive | None = None
    rope_parameters: RopeScaling | None = None  # of transformers 5
    rope_scaling: RopeScaling | None = None
    rope_theta: float = 10000.0
    tie_word_embeddings: bool | None = None
    attention_bias: bool = False
    mlp_bias: bool = False

    def __post_init__(self) -> None:
        if self.head_dim is None and self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError("num_attention_heads must cut hidden_size into heads of even size")
        if self.head_size % 2:
            raise ValueError("head_dim must be even")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_key_value_heads must divide num_attention_heads")
        if self.attention_bias or self.mlp_bias:
            raise ValueError("attention_bias and mlp_bias are not supported")

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def frequencies(self) -> Floats:
        rope = self.rope_parameters or self.rope_scaling or RopeScaling()
        return rope.frequencies(self.head_size, rope.rope_theta or self.rope_theta)


@dataclass(frozen=True)
class DecoderInputs:
    """The shared inputs, and those of a decoder with rotary positions."""

    shared: Inputs
    cache_rows: str  # int64 [C], the rows whose keys and values are needed later
    angles: Angles


def shape_of(config: DecoderConfig, *, is_tied: bool, **peculiar: Any) -> Shape:
    """Turn what decoders share into a shape.

    :param is_tied: unless the configuration says
    :param peculiar: other fields of ``Shape``
    """
    tied = config.tie_word_embeddings
    return Shape(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_size=config.head_size,
        vocab_size=config.vocab_size,
        max_positions=config.max_position_embeddings,
        norm_epsilon=config.rms_norm_eps,
        frequencies=config.frequencies,
        is_tied=is_tied if tied is None else tied,
        **peculiar,
    )


class Decoder:
    """A decoder as a reranker: the score is a weighted sum of logits after the last token."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        shape: Shape,
        score_tokens: Mapping[int, float],
        rotation: Rotation | None = None,
    ) -> None:
        """Prepare to read the weights.

        :param score_tokens: tokens and the weights of their logits; a classification head with one
            label is read instead if there are none
        :param rotation: of the stream
        """
        self.shape = shape
        self.num_layers = shape.num_layers
        self.stream_width = shape.hidden_size
        self.cache_width = 2 * shape.kv_width
        self._checkpoint, self._score_tokens = checkpoint, score_tokens
        self._rotation = rotation

    def rotated(self, outliers: Sequence[int]) -> Decoder:
        rotation = Rotation.random(self.stream_width, seed=0, fixed=outliers)
        return Decoder(self._checkpoint, self.shape, self._score_tokens, rotation)

    def declare(self, g: Graph) -> DecoderInputs:
        shared = declare_inputs(g, with_past=True)
        cache_rows = g.input("cache_rows", TensorProto.INT64, ["cached"])
        return DecoderInputs(
            shared, cache_rows, rotary_angles(g, shared.positions, self.shape.frequencies)
        )

    def embed(
        self,
        g: Graph,
        precision: Precision,
        inputs: DecoderInputs,
        only: Sequence[int] | None = None,
    ) -> str:
        name, size = "model.embed_tokens.weight", (self.shape.vocab_size, self.stream_width)
        load = self._checkpoint
        table = load.tensor(name, *size) if only is None else load.rows(name, only, *size)
        table *= np.float32(self.shape.embedding_scale)
        if self._rotation is not None:
            self._rotation.apply_in_place(table)
        g.scope = "embeddings"
        return precision.embedding(g, name, table, inputs.shared.token_ids)

    def layer(self, index: int) -> DecoderLayer:
        layer = load_layer(self._checkpoint, self.shape, index)
        if self._rotation is None:
            return layer
        return layer.rotated(self._rotation, Rotation.random(self.shape.head_size, seed=1))

    def finish(self, g: Graph, precision: Precision, inputs: DecoderInputs, x: str) -> None:
        """Compute norm(x) · direction."""
        g.scope = "score"
        gain = self._checkpoint.tensor("model.norm.weight", self.stream_width)
        direction = self.aligned((gain + self.shape.gain_offset) * self._direction())
        weight = g.weight("score.weight", direction)
        products = g.op("RMSNormalization", x, weight, epsilon=self.shape.norm_epsilon)
        g.output("scores", g.op("ReduceSum", products, g.constant([-1]), keepdims=0), ["scored"])

    def _direction(self) -> Floats:
        """Load the head's rows and add them up: [H].

        :raises QuantizeError: the classification head has several labels
        """
        if not self._score_tokens:
            return one_label(self._checkpoint, "score.weight", self.stream_width)
        head = "model.embed_tokens.weight" if self.shape.is_tied else "lm_head.weight"
        tokens, weights = zip(*self._score_tokens.items(), strict=True)
        rows = self._checkpoint.rows(head, tokens, self.shape.vocab_size, self.stream_width)
        direction: Floats = np.array(weights, np.float32) @ rows
        return direction

    def aligned(self, stream: Floats) -> Floats:
        return stream if self._rotation is None else self._rotation.apply(stream)


@dataclass(frozen=True)
class Projection:
    """A linear layer's parameters."""

    weight: Floats  # [out, in]
    bias: Floats | None  # [out]


@dataclass(frozen=True)
class DecoderLayer:
    """The weights of one layer."""

    shape: Shape
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
        size = self.shape.head_size

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

    def balanced(self, rows: Mapping[str, Floats]) -> tuple[DecoderLayer, Mapping[str, Floats]]:
        """Divide what each matrix reads; norms, v and up give out as much less."""
        shape = self.shape
        kv_channels = np.arange(shape.kv_width).reshape(shape.num_kv_heads, 1, -1)
        sharing = shape.num_heads // shape.num_kv_heads
        owners = kv_channels.repeat(sharing, axis=1).reshape(-1)
        sites = [self._site(readers) for readers in ("qkv", "o", "gate_up", "down")]
        qkv = np.concatenate([self.query.weight, self.key.weight, self.value.weight])
        normed = channel_scales(rows[sites[0]], qkv)
        values = channel_scales(rows[sites[1]], self.output, owners)
        raised = channel_scales(rows[sites[2]], np.concatenate([self.gate, self.up]))
        inner = channel_scales(rows[sites[3]], self.down)
        balanced = replace(
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
        return balanced, {site: rows[site] / scale for site, scale in scales}

    def write(self, g: Graph, precision: Precision, inputs: DecoderInputs, x: str) -> str:
        shape, shared, angles, grid = self.shape, inputs.shared, inputs.angles, inputs.shared.grid
        g.scope = f"layers.{self.index}"
        past = g.input(f"past.{self.index}", TensorProto.FLOAT, ["past", 2 * shape.kv_width])

        rows = precision.rows(g, Activation(self._site("qkv"), self._norm(g, "attention", x)))
        keys_values = self._keys_values(g, precision, rows, angles)
        g.output(
            f"present.{self.index}",
            g.op("Gather", keys_values, inputs.cache_rows),
            ["cached", 2 * shape.kv_width],
        )
        if self.index == shape.num_layers - 1:
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
            num_heads=shape.num_heads,
            num_kv_heads=shape.num_kv_heads,
        )
        rows = precision.rows(g, Activation(self._site("o"), attended))
        x = g.op("Add", x, linear(g, precision, rows, self._name("self_attn.o"), self.output))
        rows = precision.rows(
            g, Activation(self._site("gate_up"), self._norm(g, "feed_forward", x))
        )
        return g.op("Add", x, self._feed_forward(g, precision, rows))

    def _norm(self, g: Graph, part: Literal["attention", "feed_forward"], x: str) -> str:
        gain = self.attention_norm if part == "attention" else self.feed_forward_norm
        weight = g.weight(f"layers.{self.index}.{part}_norm", gain)
        return g.op("RMSNormalization", x, weight, epsilon=self.shape.norm_epsilon)

    def _keys_values(self, g: Graph, precision: Precision, rows: Rows, angles: Angles) -> str:
        """Compute rotated keys and, beside them, values: float32 [T, 2·KV·D]."""
        width = self.shape.kv_width
        weight = np.concatenate([self.key.weight, self.value.weight])
        bias = None
        if self.key.bias is not None and self.value.bias is not None:
            bias = np.concatenate([self.key.bias, self.value.bias])
        both = linear(g, precision, rows, self._name("self_attn.kv"), weight, bias)
        key, value = split_columns(g, both, [width, width])
        return g.op("Concat", self._positioned(g, key, angles, "key"), value, axis=1)

    def _positioned(self, g: Graph, x: str, angles: Angles, part: Literal["query", "key"]) -> str:
        """Normalise and rotate each head of float32 [T, heads·D]."""
        shape, is_query = self.shape, part == "query"
        if self.head_norms is not None:
            gain = g.weight(f"layers.{self.index}.{part}_norm", self.head_norms[not is_query])
            heads = g.op("Reshape", x, g.constant([0, -1, shape.head_size]))
            normed = g.op("RMSNormalization", heads, gain, epsilon=shape.norm_epsilon)
            x = g.op("Reshape", normed, g.constant([0, -1]))
        return rotate(g, x, angles, shape.num_heads if is_query else shape.num_kv_heads)

    def _feed_forward(self, g: Graph, precision: Precision, rows: Rows) -> str:
        """Compute down(activation(gate(x)) * up(x)).

        up keeps its row scale back: a row's scale does not change how the row quantizes, so it
        joins the scale of down's rows instead of costing a pass over the widest tensor.
        """
        gated = linear(g, precision, rows, self._name("mlp.gate"), self.gate)
        if self.shape.activation == "silu":
            gated = g.op("QuickGelu", gated, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x)
        else:
            gated = g.op("Gelu", gated, approximate="tanh")
        raised = precision.matmul(g, rows, self._name("mlp.up"), self.up)
        product = g.op("Mul", gated, raised.values)
        inner = precision.rows(g, Activation(self._site("down"), product, carried=raised.scale))
        return linear(g, precision, inner, self._name("mlp.down"), self.down)

    def _name(self, part: str) -> str:
        return f"model.layers.{self.index}.{part}_proj"

    def _site(self, readers: str) -> str:
        return f"layers.{self.index}.{readers}"


def load_layer(checkpoint: Checkpoint, shape: Shape, index: int) -> DecoderLayer:
    """Load a layer's weights as they are stored."""
    hidden, wide, narrow = shape.hidden_size, shape.intermediate_size, shape.kv_width
    prefix = f"model.layers.{index}"

    def matrix(name: str, rows: int, columns: int) -> Floats:
        return checkpoint.tensor(f"{prefix}.{name}_proj.weight", rows, columns)

    def dense(name: str, rows: int) -> Projection:
        bias_name = f"{prefix}.self_attn.{name}_proj.bias"
        bias = checkpoint.tensor(bias_name, rows) if shape.has_qkv_bias else None
        return Projection(matrix(f"self_attn.{name}", rows, hidden), bias)

    def norm(name: str, size: int = hidden) -> Floats:
        gain: Floats = checkpoint.tensor(f"{prefix}.{name}norm.weight", size)
        gain += np.float32(shape.gain_offset)
        return gain

    head_norms = None
    if shape.has_head_norms:
        query_norm, key_norm = (norm(f"self_attn.{x}_", shape.head_size) for x in "qk")
        head_norms = query_norm, key_norm
    return DecoderLayer(
        shape=shape,
        index=index,
        attention_norm=norm("input_layer"),
        query=dense("q", shape.query_width),
        key=dense("k", narrow),
        value=dense("v", narrow),
        head_norms=head_norms,
        output=matrix("self_attn.o", hidden, shape.query_width),
        feed_forward_norm=norm("post_attention_layer"),
        gate=matrix("mlp.gate", wide, hidden),
        up=matrix("mlp.up", wide, hidden),
        down=matrix("mlp.down", hidden, wide),
    )
