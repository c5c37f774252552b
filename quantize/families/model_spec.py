"""How a checkpoint is prompted, cut and scored, once its family is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerank.manifest import Prompt, Scoring, Truncation
from quantize.architectures.layered_model import LayeredModel
from quantize.checkpoint.files import Checkpoint
from quantize.errors import QuantizeError


@dataclass(frozen=True)
class ModelSpec:
    """How a checkpoint is prompted, cut and scored: what its manifest says."""

    family: str
    architecture: str
    max_length: int  # tokens
    max_length_limit: int
    prompt: Prompt
    truncation: Truncation
    scoring: Scoring

    @property
    def is_causal(self) -> bool:
        """Whether a token sees only those before it."""
        return False


@dataclass(frozen=True)
class RecognizedModel(ModelSpec):
    """A checkpoint of an architecture that is written layer by layer."""

    model: LayeredModel[Any]
    tables: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)  # .npy files, by name

    @property
    def is_causal(self) -> bool:
        return self.model.cache_width > 0


@dataclass(frozen=True)
class OptimumModel(ModelSpec):
    """A checkpoint that optimum exports."""

    model_class: str  # of transformers
    pad_token_id: int


def no_special_tokens(checkpoint: Checkpoint) -> QuantizeError:
    return QuantizeError(
        f"{checkpoint.tokenizer_path}: it puts no special tokens around texts; is this the"
        " checkpoint's own tokenizer?"
    )
