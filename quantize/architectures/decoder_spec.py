"""What config.json says of a decoder, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edgerank.manifest import Positive
from quantize.graph.grid import Refines
from quantize.graph.rotary import RopeScaling
from quantize.rounding.rounding import Floats


@dataclass(frozen=True)
class LocalAttention:
    """Layers that see a window of the tokens, and have rotary angles of their own."""

    layers: frozenset[int]
    window: int  # how many tokens away a token is seen
    frequencies: Floats  # [head_size / 2]


@dataclass(frozen=True)
class DecoderSpec:
    """What there is to know of a decoder but its weights."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    norm_epsilon: float
    frequencies: Floats  # of the rotary angles, [head_size / 2]
    is_tied: bool  # the vocabulary head is the embedding
    activation: Literal["silu", "gelu_tanh"] = "silu"
    has_qkv_bias: bool = False
    has_head_norms: bool = False  # RMSNorm of each head's queries and keys
    has_post_norms: bool = False  # RMSNorm of what each half of a layer adds to the stream
    gain_offset: float = 0.0  # what a norm adds to its stored gain
    embedding_scale: float = 1.0
    query_scale: float = 1.0  # of normalised queries, besides attention's own
    is_causal: bool = True
    local: LocalAttention | None = None

    @property
    def query_width(self) -> int:
        return self.num_heads * self.head_size

    @property
    def kv_width(self) -> int:
        return self.num_kv_heads * self.head_size

    @property
    def refines(self) -> Refines:
        """Which rows may be rounded in two terms.

        A stream that cannot be rotated keeps its outliers, in the rows of all tokens.
        """
        if self.has_post_norms:
            return "all"
        return "scored" if self.is_causal else "all if fine"

    def is_local(self, index: int) -> bool:
        return self.local is not None and index in self.local.layers


class DecoderConfig(msgspec.Struct, frozen=True):
    """The part of config.json that decoders share."""

    hidden_size: Positive
    intermediate_size: Positive
    num_attention_heads: Positive
    num_hidden_layers: Positive
    num_key_value_heads: Positive
    rms_norm_eps: float
    vocab_size: Positive
    head_dim: Positive | None = None
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


class UniformConfig(DecoderConfig, frozen=True):
    """A decoder whose layers all have the same rotary angles."""

    rope_parameters: RopeScaling | None = None  # of transformers 5
    rope_scaling: RopeScaling | None = None
    rope_theta: float = 10000.0

    @property
    def frequencies(self) -> Floats:
        rope = self.rope_parameters or self.rope_scaling or RopeScaling()
        return rope.frequencies(self.head_size, rope.rope_theta or self.rope_theta)


def spec_of(
    config: DecoderConfig, *, is_tied: bool, frequencies: Floats, **others: Any
) -> DecoderSpec:
    """Turn what decoders share into a ``DecoderSpec``.

    :param is_tied: unless the configuration says
    :param frequencies: of the rotary angles, [head_size / 2]
    :param others: further fields of ``DecoderSpec``
    """
    tied = config.tie_word_embeddings
    return DecoderSpec(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_size=config.head_size,
        vocab_size=config.vocab_size,
        norm_epsilon=config.rms_norm_eps,
        frequencies=frequencies,
        is_tied=is_tied if tied is None else tied,
        **others,
    )
