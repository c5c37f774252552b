"""How many tokens a model takes: what it has positions for, and what the files beside it say."""

from __future__ import annotations

import msgspec

from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.sidecars import longest_input
from quantize.errors import QuantizeError

# Model types that count positions from the padding token's id + 1, which transformers calls
# create_position_ids_from_input_ids. None: the id that config.json gives.
POSITIONS_AFTER_PADDING: dict[str, int | None] = {
    "camembert": None,
    "data2vec-text": None,
    "esm": None,
    "ibert": None,
    "lilt": None,
    "longformer": None,
    "markuplm": None,
    "mpnet": 1,
    "roberta": None,
    "xlm-roberta": None,
}


class _PositionConfig(msgspec.Struct):
    """config.json, as far as it bounds the length."""

    model_type: str = ""
    pad_token_id: int | None = None
    max_position_embeddings: int | None = None
    n_positions: int | None = None  # of GPT-2's kind


def pad_token_id(checkpoint: Checkpoint) -> int:
    """Return the id that empty slots are filled with."""
    return checkpoint.config_as(_PositionConfig).pad_token_id or 0


def first_position(checkpoint: Checkpoint) -> int:
    """Return the position of a sequence's first token."""
    model_type = checkpoint.config_as(_PositionConfig).model_type
    if model_type not in POSITIONS_AFTER_PADDING:
        return 0
    padding = POSITIONS_AFTER_PADDING[model_type]
    return 1 + (pad_token_id(checkpoint) if padding is None else padding)


def position_limit(checkpoint: Checkpoint) -> int | None:
    """Return how many tokens the model has positions for; None if config.json does not say."""
    config = checkpoint.config_as(_PositionConfig)
    limit = config.max_position_embeddings or config.n_positions
    if limit is None or limit <= 0:  # -1 where positions are relative
        return None
    return limit - first_position(checkpoint)


def max_lengths(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return the maximum length in tokens by default, and the most that it may be set to.

    :raises QuantizeError: no file says
    """
    wanted = longest_input(checkpoint)
    limit = position_limit(checkpoint) or wanted
    if limit is None:
        raise QuantizeError(
            f"{checkpoint.directory}: neither config.json's max_position_embeddings nor"
            " tokenizer_config.json's model_max_length says how many tokens the model takes"
        )
    return min(wanted or limit, limit), limit
