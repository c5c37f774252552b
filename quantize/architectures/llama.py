"""Llama: the plain decoder; ``transformers.models.llama.modeling_llama``."""

from __future__ import annotations

from typing import Literal

from quantize.architectures.decoder_spec import DecoderSpec, UniformConfig, spec_of
from quantize.checkpoint.files import Checkpoint


class LlamaConfig(UniformConfig, frozen=True):
    """The part of config.json that shapes the graph."""

    hidden_act: Literal["silu"] = "silu"


def read_spec(checkpoint: Checkpoint) -> DecoderSpec:
    """Read and check config.json.

    :raises QuantizeError: a field is missing or asks for what the graph does not do
    """
    config = checkpoint.config_as(LlamaConfig)
    return spec_of(config, is_tied=False, frequencies=config.frequencies)
