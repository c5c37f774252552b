"""The maximum length of a model, from its positions and its files."""

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
    """The fields of config.json that limit the length."""

    model_type: str = ""
    pad_token_id: int | None = None
    max_position_embeddings: int | None = None
    n_positions: int | None = None  # of GPT-2's kind


def pad_token_id(checkpoint: Checkpoint) -> int:
    """Return the id of the padding token."""
    return checkpoint.config_as(_PositionConfig).pad_token_id or 0


def first_position(checkpoint: Checkpoint) -> int:
    """Return the position of a sequence's first token."""
    model_type = checkpoint.config_as(_PositionConfig).model_type
    if model_type not in POSITIONS_AFTER_PADDING:
        return 0
    padding = POSITIONS_AFTER_PADDING[model_type]
    return 1 + (pad_token_id(checkpoint) if padding is None else padding)


def position_limit(checkpoint: Checkpoint) -> int | None:
    """Return the model's number of positions; None if config.json has none."""
    config = checkpoint.config_as(_PositionConfig)
    limit = config.max_position_embeddings or config.n_positions
    if limit is None or limit <= 0:  # -1 for relative positions
        return None
    return limit - first_position(checkpoint)


def max_lengths(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return the default of the maximum length, and its largest value, in tokens.

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
