"""Qwen2 decoders as rerankers: a token sees the shared prefix and its own document so far.

Follows ``transformers.models.qwen2.modeling_qwen2``. There is no vocabulary head: the score is one
dot product with the difference of two of its rows, the final norm's gain folded in.
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
    skip_rms_norm,
    split_columns,
)
from quantize.checkpoint import Checkpoint
from quantize.errors import QuantizeError
from quantize.graph import CONTRIB, Graph
from quantize.precision import Precision, Rows, scaled

Angles = tuple[str, str]  # cosines and sines, float32 [1, T, head_size / 2]


class RopeParameters(msgspec.Struct, frozen=True):
    """Where transformers 5 keeps the rotary settings."""

    rope_theta: float
    rope_type: Literal["default"] = "default"


class Qwen2Config(msgspec.Struct, frozen=True):
    """The part of config.json that shapes the graph."""

    hidden_act: Literal["silu"]
    hidden_size: int
    intermediate_size: int
    max_position_embeddings: int
    num_attention_heads: int
    num_hidden_layers: int
    num_key_value_heads: int
    rms_norm_eps: float
    vocab_size: int
    rope_parameters: RopeParameters | None = None
    rope_scaling: None = None
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False
    use_sliding_window: bool = False

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


def write(
    g: Graph, checkpoint: Checkpoint, precision: Precision, score_tokens: tuple[int, int]
) -> None:
    """Write the graph; the score is logit(``score_tokens[0]``) - logit(``score_tokens[1]``)."""
    config = read_config(checkpoint)
    token_ids, positions = flat_inputs(g)
    grid, scored_rows, scored_grid = grid_inputs(g, with_past=True)
    cache_rows = g.input("cache_rows", TensorProto.INT64, ["cached"])

    g.scope = "embed"
    table = checkpoint.tensor("model.embed_tokens.weight", config.vocab_size, config.hidden_size)
    residual = precision.embedding(g, "model.embed_tokens.weight", table, token_ids)
    del table
    angles = _rotary_angles(g, positions, config)
    gain = checkpoint.tensor("model.layers.0.input_layernorm.weight", config.hidden_size)
    x = g.op(
        "RMSNormalization",
        residual,
        g.weight("model.layers.0.input_layernorm.weight", gain),
        epsilon=config.rms_norm_eps,
    )
    for index in range(config.num_hidden_layers):
        layer = _Layer(g, checkpoint, precision, config, index)
        g.scope = layer.scope
        past = g.input(f"past.{index}", TensorProto.FLOAT, ["past", 2 * config.kv_width])
        rows = precision.rows(g, x)
        keys_values = layer.keys_values(rows, angles)
        g.output(
            f"present.{index}",
            g.op("Gather", keys_values, cache_rows),
            ["cached", 2 * config.kv_width],
        )
        if index == config.num_hidden_layers - 1:  # from here on only the scored rows matter
            grid = scored_grid
            rows = gather_rows(g, rows, scored_rows)
            residual = g.op("Gather", residual, scored_rows)
            angles = (
                g.op("Gather", angles[0], scored_rows, axis=1),
                g.op("Gather", angles[1], scored_rows, axis=1),
            )
        query = layer.query(rows, angles)
        x, residual = layer.attend(query, g.op("Concat", past, keys_values, axis=0), grid, residual)
        x = layer.feed_forward(x)
        if index < config.num_hidden_layers - 1:
            name = f"model.layers.{index + 1}.input_layernorm.weight"
            gain = checkpoint.tensor(name, config.hidden_size)
        else:
            name, gain = "score.weight", _score_vector(checkpoint, config, score_tokens)
        x, residual = skip_rms_norm(g, x, residual, name, gain, config.rms_norm_eps)

    g.scope = "score"
    g.output("scores", g.op("ReduceSum", x, g.constant([-1]), keepdims=0), ["scored"])


def _score_vector(
    checkpoint: Checkpoint, config: Qwen2Config, score_tokens: tuple[int, int]
) -> NDArray[np.float32]:
    """Return final norm gain * (head[positive] - head[negative]), float32 [H]."""
    head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
    positive, negative = checkpoint.rows(head, score_tokens, config.vocab_size, config.hidden_size)
    gain = checkpoint.tensor("model.norm.weight", config.hidden_size)
    vector: NDArray[np.float32] = gain * (positive - negative)
    return vector


def _rotary_angles(g: Graph, positions: str, config: Qwen2Config) -> Angles:
    """Return cosines and sines of the rotary angles, float32 [1, T, head_size / 2]."""
    exponents = np.arange(0, config.head_size, 2, dtype=np.float32) / config.head_size
    frequencies = (1 / config.theta**exponents).astype(np.float32)
    column = g.op("Unsqueeze", g.op("Cast", positions, to=TensorProto.FLOAT), g.constant([0, 2]))
    angles = g.op("Mul", column, g.constant(frequencies))
    return g.op("Cos", angles), g.op("Sin", angles)


def _rotate(g: Graph, x: str, angles: Angles, num_heads: int) -> str:
    """Rotate the heads of float32 [T, heads·D] by their positions."""
    batched = g.op("Unsqueeze", x, g.constant([0]))
    rotated = g.op("RotaryEmbedding", batched, *angles, num_heads=num_heads)
    return g.op("Squeeze", rotated, g.constant([0]))


class _Layer:
    """One decoder layer's weights and the three steps that read them."""

    def __init__(
        self,
        g: Graph,
        checkpoint: Checkpoint,
        precision: Precision,
        config: Qwen2Config,
        index: int,
    ) -> None:
        self.g, self.checkpoint, self.precision, self.config = g, checkpoint, precision, config
        self.scope = f"layers.{index}"
        self.prefix = f"model.layers.{index}"

    def query(self, rows: Rows, angles: Angles) -> str:
        """Compute rotated queries, float32 [T, H·D]."""
        query = self._linear(rows, ["q"])
        return _rotate(self.g, query, angles, self.config.num_attention_heads)

    def keys_values(self, rows: Rows, angles: Angles) -> str:
        """Compute rotated keys and, beside them, values: float32 [T, 2·KV·D]."""
        width = self.config.kv_width
        key, value = split_columns(self.g, self._linear(rows, ["k", "v"]), [width, width])
        key = _rotate(self.g, key, angles, self.config.num_key_value_heads)
        return self.g.op("Concat", key, value, axis=1)

    def _linear(self, rows: Rows, parts: list[str]) -> str:
        """Project by q, k or v matrices laid side by side."""
        config, load = self.config, self.checkpoint.tensor
        widths = {"q": config.hidden_size, "k": config.kv_width, "v": config.kv_width}
        names = {part: f"{self.prefix}.self_attn.{part}_proj" for part in parts}
        weight = [load(f"{names[part]}.weight", widths[part], config.hidden_size) for part in parts]
        bias = [load(f"{names[part]}.bias", widths[part]) for part in parts]
        name = f"{self.prefix}.self_attn.{''.join(parts)}_proj"
        return linear(
            self.g, self.precision, rows, name, np.concatenate(weight), np.concatenate(bias)
        )

    def attend(self, query: str, keys_values: str, grid: Grid, residual: str) -> tuple[str, str]:
        """Attend and project; return the rows for the MLP and the new residual stream."""
        g, config = self.g, self.config
        heads = attention(
            g,
            grid,
            query,
            keys_values,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
        )
        name = f"{self.prefix}.self_attn.o_proj"
        weight = self.checkpoint.tensor(f"{name}.weight", config.hidden_size, config.hidden_size)
        x = linear(g, self.precision, self.precision.rows(g, heads), name, weight)
        name = f"{self.prefix}.post_attention_layernorm.weight"
        gain = self.checkpoint.tensor(name, config.hidden_size)
        return skip_rms_norm(g, x, residual, name, gain, config.rms_norm_eps)

    def feed_forward(self, x: str) -> str:
        """Compute down(silu(gate(x)) * up(x)).

        up keeps its row scale back: a row's scale does not change how the row quantizes, so it
        joins the scale of down's rows instead of costing a pass over the widest tensor.
        """
        g, config, precision = self.g, self.config, self.precision
        gate, up, down = (f"{self.prefix}.mlp.{part}_proj" for part in ("gate", "up", "down"))
        wide = (config.intermediate_size, config.hidden_size)
        rows = precision.rows(g, x)
        gated = linear(g, precision, rows, gate, self.checkpoint.tensor(f"{gate}.weight", *wide))
        gated = g.op("QuickGelu", gated, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x)
        raised = precision.matmul(g, rows, up, self.checkpoint.tensor(f"{up}.weight", *wide))
        inner = precision.rows(g, g.op("Mul", gated, raised), carried=rows)
        weight = self.checkpoint.tensor(f"{down}.weight", *reversed(wide))
        return scaled(g, precision.matmul(g, inner, down, weight), inner)
