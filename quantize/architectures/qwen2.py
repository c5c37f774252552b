"""Qwen2: queries, keys and values have biases; ``transformers.models.qwen2.modeling_qwen2``."""

from __future__ import annotations

from typing import Literal

from quantize.architectures.decoder_spec import DecoderSpec, UniformConfig, spec_of
from quantize.checkpoint.files import Checkpoint


class Qwen2Config(UniformConfig, frozen=True):
    """The part of config.json that shapes the graph."""

    hidden_act: Literal["silu"] = "silu"
    use_sliding_window: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_sliding_window:
            raise ValueError("sliding windows (use_sliding_window) are not supported")


def read_spec(checkpoint: Checkpoint) -> DecoderSpec:
    """Read and check config.json.

    :raises QuantizeError: a field is missing or asks for what the graph does not do
    """
    config = checkpoint.config_as(Qwen2Config)
    return spec_of(config, is_tied=False, frequencies=config.frequencies, has_qkv_bias=True)
