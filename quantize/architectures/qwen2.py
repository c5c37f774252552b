"""Qwen2 decoders as rerankers: a token sees the shared prefix and its own document so far.

Follows ``transformers.models.qwen2.modeling_qwen2``. There is no vocabulary head: the score is one
dot product with the difference of two of its rows, the final norm's gain folded in.
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
    split_columns,
)
from quantize.checkpoint import Checkpoint
from quantize.equalisation import Rotation, channel_scales
from quantize.errors import QuantizeError
from quantize.graph import CONTRIB, Graph
from quantize.model import Dense
from quantize.precision import Activation, Precision, Rows
from quantize.rotary import Angles, RopeParameters, rotary_angles, rotate
from quantize.weights import Floats


class Qwen2Config(msgspec.Struct, frozen=True):
    """The part of config.json that shapes the graph."""

    hidden_act: Literal["silu"]
    hidden_size: Positive
    intermediate_size: Positive
    max_position_embeddings: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive
    num_key_value_heads: Positive
    rms_norm_eps: float
    vocab_size: Positive
    rope_parameters: RopeParameters | None = None
    rope_scaling: None = None
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    use_sliding_window: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError("num_attention_heads must cut hidden_size into heads of even size")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError("num_key_value_heads must divide num_attention_heads")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @property
    def kv_width(self) -> int:
        return self.num_key_value_heads * self.head_size

    @property
    def theta(self) -> float:
        return self.rope_parameters.rope_theta if self.rope_parameters else self.rope_theta


def read_config(checkpoint: Checkpoint) -> Qwen2Config:
    """Read and check config.json.

    :raises QuantizeError: a field is missing or asks for what this graph does not do
    """
    config = checkpoint.config_as(Qwen2Config)
    if config.use_sliding_window:
        raise QuantizeError(
            f"{checkpoint.directory}/config.json: sliding windows are not supported"
        )
    return config


@dataclass(frozen=True)
class Qwen2Inputs:
    """The shared inputs, and those of a decoder with rotary positions."""

    shared: Inputs
    cache_rows: str  # int64 [C], the rows whose keys and values are needed later
    angles: Angles


class Qwen2:
    """A decoder as a reranker: the score is logit(positive) - logit(negative)."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        score_tokens: tuple[int, int],
        rotation: Rotation | None = None,
    ) -> None:
        """Read the configuration.

        :param score_tokens: positive and negative
        :param rotation: of the stream
        """
        self.config = read_config(checkpoint)
        self.num_layers = self.config.num_hidden_layers
        self.stream_width = self.config.hidden_size
        self.cache_width = 2 * self.config.kv_width
        self._checkpoint, self._score_tokens = checkpoint, score_tokens
        self._rotation = rotation

    def rotated(self, outliers: Sequence[int]) -> Qwen2:
        rotation = Rotation.random(self.stream_width, seed=0, fixed=outliers)
        return Qwen2(self._checkpoint, self._score_tokens, rotation)

    def declare(self, g: Graph) -> Qwen2Inputs:
        shared = declare_inputs(g, with_past=True)
        cache_rows = g.input("cache_rows", TensorProto.INT64, ["cached"])
        config = self.config
        angles = rotary_angles(g, shared.positions, config.head_size, config.theta)
        return Qwen2Inputs(shared, cache_rows, angles)

    def embed(
        self,
        g: Graph,
        precision: Precision,
        inputs: Qwen2Inputs,
        only: Sequence[int] | None = None,
    ) -> str:
        name, shape = "model.embed_tokens.weight", (self.config.vocab_size, self.stream_width)
        load = self._checkpoint
        table = load.tensor(name, *shape) if only is None else load.rows(name, only, *shape)
        if self._rotation is not None:
            self._rotation.apply_in_place(table)
        g.scope = "embeddings"
        return precision.embedding(g, name, table, inputs.shared.token_ids)

    def layer(self, index: int) -> Qwen2Layer:
        layer = load_layer(self._checkpoint, self.config, index)
        if self._rotation is None:
            return layer
        return layer.rotated(self._rotation, Rotation.random(self.config.head_size, seed=1))

    def finish(self, g: Graph, precision: Precision, inputs: Qwen2Inputs, x: str) -> None:
        """Compute norm(x) · (head[positive] - head[negative])."""
        config = self.config
        g.scope = "score"
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        positive, negative = self._checkpoint.rows(
            head, self._score_tokens, config.vocab_size, config.hidden_size
        )
        gain = self._checkpoint.tensor("model.norm.weight", config.hidden_size)
        direction = self.aligned(gain * (positive - negative))
        products = g.op(
            "RMSNormalization", x, g.weight("score.weight", direction), epsilon=config.rms_norm_eps
        )
        g.output("scores", g.op("ReduceSum", products, g.constant([-1]), keepdims=0), ["scored"])

    def aligned(self, stream: Floats) -> Floats:
        return stream if self._rotation is None else self._rotation.apply(stream)


@dataclass(frozen=True)
class Qwen2Layer:
    """The weights of one layer."""

    config: Qwen2Config
    index: int
    attention_norm: Floats  # [H]
    query: Dense  # [H, H]
    key: Dense  # [KV·D, H]
    value: Dense  # [KV·D, H]
    output: Floats  # [H, H]
    feed_forward_norm: Floats  # [H]
    gate: Floats  # [I, H]
    up: Floats  # [I, H]
    down: Floats  # [H, I]

    def rotated(self, stream: Rotation, head: Rotation) -> Qwen2Layer:
        """Rotate the stream, into which the norms' gains would not fit, and each head's values."""
        config = self.config
        heads = (config.num_key_value_heads, config.head_size)

        def read(weight: Floats, gain: Floats) -> Floats:
            return stream.apply(weight * gain)

        def write(weight: Floats) -> Floats:
            return np.ascontiguousarray(stream.apply(weight.T).T)

        query, key = (
            replace(dense, weight=read(dense.weight, self.attention_norm))
            for dense in (self.query, self.key)
        )
        value = read(self.value.weight, self.attention_norm)  # [KV·D, H]
        value = head.apply(value.T.reshape(-1, *heads)).reshape(config.hidden_size, -1).T
        bias = head.apply(self.value.bias.reshape(heads)).reshape(-1)
        output = head.apply(write(self.output).reshape(config.hidden_size, -1, config.head_size))
        return replace(
            self,
            attention_norm=np.ones_like(self.attention_norm),
            query=query,
            key=key,
            value=Dense(np.ascontiguousarray(value), bias),
            output=output.reshape(self.output.shape),
            feed_forward_norm=np.ones_like(self.feed_forward_norm),
            gate=read(self.gate, self.feed_forward_norm),
            up=read(self.up, self.feed_forward_norm),
            down=write(self.down),
        )

    def balanced(self, rows: Mapping[str, Floats]) -> tuple[Qwen2Layer, Mapping[str, Floats]]:
        """Divide what each matrix reads; norms, v and up give out as much less."""
        config = self.config
        kv_channels = np.arange(config.kv_width).reshape(config.num_key_value_heads, 1, -1)
        sharing = config.num_attention_heads // config.num_key_value_heads
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
            value=Dense(self.value.weight * normed / values[:, None], self.value.bias / values),
            output=self.output * values[owners],
            feed_forward_norm=self.feed_forward_norm / raised,
            gate=self.gate * raised,
            up=self.up * raised / inner[:, None],
            down=self.down * inner,
        )
        scales = zip(sites, (normed, values[owners], raised, inner), strict=True)
        return balanced, {site: rows[site] / scale for site, scale in scales}

    def write(self, g: Graph, precision: Precision, inputs: Qwen2Inputs, x: str) -> str:
        config, shared, angles, grid = self.config, inputs.shared, inputs.angles, inputs.shared.grid
        g.scope = f"layers.{self.index}"
        past = g.input(f"past.{self.index}", TensorProto.FLOAT, ["past", 2 * config.kv_width])

        rows = precision.rows(g, Activation(self._site("qkv"), self._norm(g, "attention", x)))
        keys_values = self._keys_values(g, precision, rows, angles)
        g.output(
            f"present.{self.index}",
            g.op("Gather", keys_values, inputs.cache_rows),
            ["cached", 2 * config.kv_width],
        )
        if self.index == config.num_hidden_layers - 1:
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
            rotate(g, query, angles, config.num_attention_heads),
            g.op("Concat", past, keys_values, axis=0),
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
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
        return g.op("RMSNormalization", x, weight, epsilon=self.config.rms_norm_eps)

    def _keys_values(self, g: Graph, precision: Precision, rows: Rows, angles: Angles) -> str:
        """Compute rotated keys and, beside them, values: float32 [T, 2·KV·D]."""
        width = self.config.kv_width
        weight = np.concatenate([self.key.weight, self.value.weight])
        bias = np.concatenate([self.key.bias, self.value.bias])
        both = linear(g, precision, rows, self._name("self_attn.kv"), weight, bias)
        key, value = split_columns(g, both, [width, width])
        key = rotate(g, key, angles, self.config.num_key_value_heads)
        return g.op("Concat", key, value, axis=1)

    def _feed_forward(self, g: Graph, precision: Precision, rows: Rows) -> str:
        """Compute down(silu(gate(x)) * up(x)).

        up keeps its row scale back: a row's scale does not change how the row quantizes, so it
        joins the scale of down's rows instead of costing a pass over the widest tensor.
        """
        gated = linear(g, precision, rows, self._name("mlp.gate"), self.gate)
        gated = g.op("QuickGelu", gated, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x)
        raised = precision.matmul(g, rows, self._name("mlp.up"), self.up)
        product = g.op("Mul", gated, raised.values)
        inner = precision.rows(g, Activation(self._site("down"), product, carried=raised.scale))
        return linear(g, precision, inner, self._name("mlp.down"), self.down)

    def _name(self, part: str) -> str:
        return f"model.layers.{self.index}.{part}_proj"

    def _site(self, readers: str) -> str:
        return f"layers.{self.index}.{readers}"


def load_layer(checkpoint: Checkpoint, config: Qwen2Config, index: int) -> Qwen2Layer:
    """Load a layer's weights as they are stored."""
    hidden, wide, narrow = config.hidden_size, config.intermediate_size, config.kv_width
    prefix = f"model.layers.{index}"

    def matrix(name: str, rows: int, columns: int) -> Floats:
        return checkpoint.tensor(f"{prefix}.{name}_proj.weight", rows, columns)

    def dense(name: str, rows: int) -> Dense:
        bias = checkpoint.tensor(f"{prefix}.self_attn.{name}_proj.bias", rows)
        return Dense(matrix(f"self_attn.{name}", rows, hidden), bias)

    return Qwen2Layer(
        config=config,
        index=index,
        attention_norm=checkpoint.tensor(f"{prefix}.input_layernorm.weight", hidden),
        query=dense("q", hidden),
        key=dense("k", narrow),
        value=dense("v", narrow),
        output=matrix("self_attn.o", hidden, hidden),
        feed_forward_norm=checkpoint.tensor(f"{prefix}.post_attention_layernorm.weight", hidden),
        gate=matrix("mlp.gate", wide, hidden),
        up=matrix("mlp.up", wide, hidden),
        down=matrix("mlp.down", hidden, wide),
    )
