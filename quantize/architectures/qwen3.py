"""Qwen3: heads of a size of their own, normalised; ``transformers.models.qwen3.modeling_qwen3``."""

from __future__ import annotations

from quantize.architectures.decoder_spec import DecoderSpec, spec_of
from quantize.architectures.qwen2 import Qwen2Config
from quantize.checkpoint.files import Checkpoint


class Qwen3Config(Qwen2Config, frozen=True):
    """The part of config.json that shapes the graph."""

    @property
    def head_size(self) -> int:
        return self.head_dim or 128


def read_spec(checkpoint: Checkpoint) -> DecoderSpec:
    """Read and check config.json.

    :raises QuantizeError: a field is missing or asks for what the graph does not do
    """
    config = checkpoint.config_as(Qwen3Config)
    return spec_of(config, is_tied=False, frequencies=config.frequencies, has_head_norms=True)
