"""Gemma: GELU gates, gains stored less one, a scaled embedding.

Follows ``transformers.models.gemma.modeling_gemma``. Old configurations say "gelu" where the
approximation by tanh was meant (https://github.com/huggingface/transformers/pull/29402), so that is
what they get.
"""

from __future__ import annotations

from typing import Literal

from quantize.architectures.decoder_spec import DecoderSpec, UniformConfig, spec_of
from quantize.checkpoint.files import Checkpoint


class GemmaConfig(UniformConfig, frozen=True):
    """The part of config.json that shapes the graph."""

    hidden_act: Literal["gelu", "gelu_pytorch_tanh"] = "gelu_pytorch_tanh"
    hidden_activation: Literal["gelu_pytorch_tanh"] | None = None

    @property
    def head_size(self) -> int:
        return self.head_dim or 256


def read_spec(checkpoint: Checkpoint) -> DecoderSpec:
    """Read and check config.json.

    :raises QuantizeError: a field is missing or asks for what the graph does not do
    """
    config = checkpoint.config_as(GemmaConfig)
    return spec_of(
        config,
        is_tied=True,
        frequencies=config.frequencies,
        activation="gelu_tanh",
        gain_offset=1.0,
        embedding_scale=config.hidden_size**0.5,
    )
