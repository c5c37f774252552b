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

from edgerank.bundle import Positive
from quantize.blocks import (
    Grid,
    attention,
    flat_inputs,
    gather_rows,
    grid_inputs,
    linear,
    split_columns,
)
from quantize.checkpoint import Checkpoint
from quantize.errors import QuantizeError
from quantize.graph import CONTRIB, Graph
from quantize.precision import Precision, Rows

Angles = tuple[str, str]  # cosines and sines, float32 [1, T, head_size / 2]


class RopeParameters(msgspec.Struct, frozen=True):
    """Where transformers 5 keeps the rotary settings."""

    rope_theta: float
    rope_type: Literal["default"] = "default"


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


def write(
    g: Graph, checkpoint: Checkpoint, precision: Precision, score_tokens: tuple[int, int]
) -> None:
    """Write the graph; the score is logit(``score_tokens[0]``) - logit(``score_tokens[1]``)."""
    config = read_config(checkpoint)
    token_ids, positions = flat_inputs(g)
    grid, scored_rows, scored_grid = grid_inputs(g, with_past=True)
    cache_rows = g.input("cache_rows", TensorProto.INT64, ["cached"])
    qwen2 = _Qwen2(g, checkpoint, precision, config, cache_rows)

    x = qwen2.embed(token_ids)
    angles = _rotary_angles(g, positions, config)
    last = config.num_hidden_layers - 1
    for index in range(last):
        x = qwen2.layer(index, x, angles, grid, None)
    x = qwen2.layer(last, x, angles, scored_grid, scored_rows)
    g.output("scores", qwen2.score(x, score_tokens), ["scored"])


def _rotary_angles(g: Graph, positions: str, config: Qwen2Config) -> Angles:
    """Return cosines and sines of the rotary angles, float32 [1, T, head_size / 2]."""
    g.scope = "rotary"
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


class _Qwen2:
    """The weights of a decoder and the steps that read them; x is the residual stream [T, H]."""

    def __init__(
        self,
        g: Graph,
        checkpoint: Checkpoint,
        precision: Precision,
        config: Qwen2Config,
        cache_rows: str,
    ) -> None:
        self.g, self.checkpoint, self.precision, self.config = g, checkpoint, precision, config
        self.cache_rows = cache_rows

    def embed(self, token_ids: str) -> str:
        """Look up the tokens."""
        name = "model.embed_tokens.weight"
        table = self.checkpoint.tensor(name, self.config.vocab_size, self.config.hidden_size)
        self.g.scope = "embeddings"
        return self.precision.embedding(self.g, name, table, token_ids)

    def layer(self, index: int, x: str, angles: Angles, grid: Grid, scored_rows: str | None) -> str:
        """Run one layer; with ``scored_rows``, only those leave it."""
        g, config = self.g, self.config
        g.scope = f"layers.{index}"
        prefix = f"model.layers.{index}"
        past = g.input(f"past.{index}", TensorProto.FLOAT, ["past", 2 * config.kv_width])

        rows = self.precision.rows(g, self._norm(f"{prefix}.input_layernorm", x))
        keys_values = self._keys_values(f"{prefix}.self_attn", rows, angles)
        g.output(
            f"present.{index}",
            g.op("Gather", keys_values, self.cache_rows),
            ["cached", 2 * config.kv_width],
        )
        if scored_rows is not None:
            rows, x = gather_rows(g, rows, scored_rows), g.op("Gather", x, scored_rows)
            cosines, sines = (g.op("Gather", part, scored_rows, axis=1) for part in angles)
            angles = (cosines, sines)
        query = self._project(f"{prefix}.self_attn", ["q"], rows)
        attended = attention(
            g,
            grid,
            _rotate(g, query, angles, config.num_attention_heads),
            g.op("Concat", past, keys_values, axis=0),
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
        )
        name = f"{prefix}.self_attn.o_proj"
        weight = self.checkpoint.tensor(f"{name}.weight", config.hidden_size, config.hidden_size)
        rows = self.precision.rows(g, attended)
        x = g.op("Add", x, linear(g, self.precision, rows, name, weight))
        rows = self.precision.rows(g, self._norm(f"{prefix}.post_attention_layernorm", x))
        return g.op("Add", x, self._feed_forward(f"{prefix}.mlp", rows))

    def score(self, x: str, score_tokens: tuple[int, int]) -> str:
        """Compute norm(x) · (head[positive] - head[negative]): float32 [R]."""
        g, config = self.g, self.config
        g.scope = "score"
        head = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        positive, negative = self.checkpoint.rows(
            head, score_tokens, config.vocab_size, config.hidden_size
        )
        gain = self.checkpoint.tensor("model.norm.weight", config.hidden_size)
        products = self._rms_norm("score.weight", x, gain * (positive - negative))
        return g.op("ReduceSum", products, g.constant([-1]), keepdims=0)

    def _norm(self, name: str, x: str) -> str:
        gain = self.checkpoint.tensor(f"{name}.weight", self.config.hidden_size)
        return self._rms_norm(f"{name}.weight", x, gain)

    def _rms_norm(self, name: str, x: str, gain: NDArray[np.float32]) -> str:
        epsilon = self.config.rms_norm_eps
        return self.g.op("RMSNormalization", x, self.g.weight(name, gain), epsilon=epsilon)

    def _keys_values(self, prefix: str, rows: Rows, angles: Angles) -> str:
        """Compute rotated keys and, beside them, values: float32 [T, 2·KV·D]."""
        width = self.config.kv_width
        key, value = split_columns(self.g, self._project(prefix, ["k", "v"], rows), [width, width])
        key = _rotate(self.g, key, angles, self.config.num_key_value_heads)
        return self.g.op("Concat", key, value, axis=1)

    def _project(self, prefix: str, parts: list[str], rows: Rows) -> str:
        """Project by q, k or v matrices laid side by side."""
        config, load = self.config, self.checkpoint.tensor
        widths = {"q": config.hidden_size, "k": config.kv_width, "v": config.kv_width}
        names = {part: f"{prefix}.{part}_proj" for part in parts}
        weights = [
            load(f"{names[part]}.weight", widths[part], config.hidden_size) for part in parts
        ]
        biases = [load(f"{names[part]}.bias", widths[part]) for part in parts]
        name = f"{prefix}.{''.join(parts)}_proj"
        weight, bias = np.concatenate(weights), np.concatenate(biases)
        return linear(self.g, self.precision, rows, name, weight, bias)

    def _feed_forward(self, prefix: str, rows: Rows) -> str:
        """Compute down(silu(gate(x)) * up(x)).

        up keeps its row scale back: a row's scale does not change how the row quantizes, so it
        joins the scale of down's rows instead of costing a pass over the widest tensor.
        """
        g, precision, load = self.g, self.precision, self.checkpoint.tensor
        gate, up, down = (f"{prefix}.{part}_proj" for part in ("gate", "up", "down"))
        wide = (self.config.intermediate_size, self.config.hidden_size)
        gated = linear(g, precision, rows, gate, load(f"{gate}.weight", *wide))
        gated = g.op("QuickGelu", gated, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x)
        raised = precision.matmul(g, rows, up, load(f"{up}.weight", *wide))
        inner = precision.rows(g, g.op("Mul", gated, raised), carried=rows)
        weight = load(f"{down}.weight", *reversed(wide))
        return linear(g, precision, inner, down, weight)
