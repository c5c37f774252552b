"""Gemma 3 without its eyes, as decoder or, bidirectional, as EmbeddingGemma.

Follows ``transformers.models.gemma3.modeling_gemma3``: Gemma's layers, with a norm after each half
too, norms of each head's queries and keys, and most layers within a sliding window.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from edgerank.manifest import Positive
from quantize.architectures.decoder import PooledDecoder
from quantize.architectures.decoder_spec import (
    DecoderConfig,
    DecoderSpec,
    LocalAttention,
    spec_of,
)
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.sidecars import Pooling
from quantize.errors import QuantizeError
from quantize.graph.rotary import (
    LayerType,
    RopeByLayerType,
    RopeScaling,
)
from quantize.rounding.rounding import Floats


class Gemma3Config(DecoderConfig, frozen=True):
    """The part of config.json that shapes the graph."""

    attn_logit_softcapping: None = None
    final_logit_softcapping: None = None
    hidden_activation: Literal["gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    layer_types: tuple[LayerType, ...] | None = None
    query_pre_attn_scalar: float = 256.0
    rope_local_base_freq: float = 10000.0
    rope_parameters: RopeByLayerType | None = None  # of transformers 5
    rope_scaling: RopeScaling | None = None
    rope_theta: float = 1e6
    sliding_window: Positive = 4096
    sliding_window_pattern: Positive = 6  # where there are no layer_types
    use_bidirectional_attention: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer_types is not None and len(self.layer_types) != self.num_hidden_layers:
            raise ValueError("layer_types must name as many layers as num_hidden_layers")

    @property
    def head_size(self) -> int:
        return self.head_dim or 256

    @property
    def window(self) -> int:
        """How many tokens away a local layer sees; to both sides if it sees those that follow."""
        is_two_sided = self.use_bidirectional_attention
        return self.sliding_window // 2 if is_two_sided else self.sliding_window - 1

    @property
    def frequencies(self) -> Floats:
        """Those of layers that see everything."""
        by_type = self.rope_parameters
        rope = by_type.full_attention if by_type else self.rope_scaling or RopeScaling()
        return rope.frequencies(self.head_size, rope.rope_theta or self.rope_theta)

    @property
    def local_frequencies(self) -> Floats:
        by_type = self.rope_parameters
        rope = by_type.sliding_attention if by_type else RopeScaling()
        return rope.frequencies(self.head_size, rope.rope_theta or self.rope_local_base_freq)

    def is_local(self, index: int) -> bool:
        if self.layer_types is not None:
            return self.layer_types[index] == "sliding_attention"
        return (index + 1) % self.sliding_window_pattern != 0


def read_spec(checkpoint: Checkpoint) -> DecoderSpec:
    """Read and check config.json of a decoder.

    :raises QuantizeError: a field is missing or asks for what the graph does not do
    """
    config = checkpoint.config_as(Gemma3Config)
    if config.use_bidirectional_attention:
        raise QuantizeError(
            f"{checkpoint.directory / 'config.json'}: use_bidirectional_attention is supported in"
            " embedding models alone, not in decoders"
        )
    return _spec(config)


def embedder(checkpoint: Checkpoint, pooling: Pooling) -> PooledDecoder:
    """Read an embedding model.

    :raises QuantizeError: a field of config.json or the pooling is not that of EmbeddingGemma
    """
    config = checkpoint.config_as(Gemma3Config)
    if not config.use_bidirectional_attention or pooling != "mean":
        raise QuantizeError(
            f"{checkpoint.directory}: an embedding model of Gemma 3 needs"
            " use_bidirectional_attention in config.json and mean pooling"
        )
    return PooledDecoder(checkpoint, replace(_spec(config), is_causal=False))


def _spec(config: Gemma3Config) -> DecoderSpec:
    layers = frozenset(filter(config.is_local, range(config.num_hidden_layers)))
    return spec_of(
        config,
        is_tied=True,
        frequencies=config.frequencies,
        activation="gelu_tanh",
        has_head_norms=True,
        has_post_norms=True,
        gain_offset=1.0,
        embedding_scale=config.hidden_size**0.5,
        query_scale=(config.head_size / config.query_pre_attn_scalar) ** 0.5,
        local=LocalAttention(layers, config.window, config.local_frequencies),
    )
