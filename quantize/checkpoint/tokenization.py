"""How a tokenizer lays out texts, read off its own post-processor, and how long they may be."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from edgerank.bundle import Piece
from quantize.checkpoint.files import Checkpoint
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


class _Config(msgspec.Struct):
    """config.json, as far as it bounds the length."""

    model_type: str = ""
    pad_token_id: int | None = None
    max_position_embeddings: int | None = None
    n_positions: int | None = None  # of GPT-2's kind


class _TokenizerSettings(msgspec.Struct):
    """tokenizer_config.json"""

    model_input_names: list[str] | None = None


def joined(checkpoint: Checkpoint, tokenizer: Tokenizer, *texts: str) -> tuple[Piece, ...]:
    """Return how the tokenizer makes one sequence of a text or two: its special tokens around them.

    :param texts: what stands in the place of each, such as "{query}"
    :raises QuantizeError: it does not keep their order, or a special token cannot be written as
        text
    """
    path = checkpoint.tokenizer_path
    encoded = tokenizer.encode(*("text" for _ in texts))
    settings = checkpoint.json_as("tokenizer_config.json", _TokenizerSettings)
    names = settings.model_input_names if settings else None
    has_types = names is None or "token_type_ids" in names
    pieces: list[Piece] = []
    places: list[int] = []
    columns = (encoded.sequence_ids, encoded.type_ids, encoded.ids)
    for place, token_type, token in zip(*columns, strict=True):
        if place is None:
            content = _special(path, tokenizer, token)
        elif places and places[-1] == place:
            continue  # the text's later tokens
        else:
            content = texts[place]
            places.append(place)
        pieces.append(Piece(content, token_type if has_types else 0))
    if places != list(range(len(texts))):
        raise QuantizeError(
            f"{path}: its post-processor does not make one sequence of the texts; is this the"
            " checkpoint's own tokenizer?"
        )
    return tuple(pieces)


def position_limit(checkpoint: Checkpoint) -> int | None:
    """Return how many tokens the model has positions for; None if config.json does not say."""
    config = checkpoint.config_as(_Config)
    limit = config.max_position_embeddings or config.n_positions
    if limit is None or limit <= 0:  # -1 where positions are relative
        return None
    if config.model_type not in POSITIONS_AFTER_PADDING:
        return limit
    padding = POSITIONS_AFTER_PADDING[config.model_type]
    return limit - 1 - (padding if padding is not None else pad_token_id(checkpoint))


def pad_token_id(checkpoint: Checkpoint) -> int:
    """Return the id that empty slots are filled with."""
    return checkpoint.config_as(_Config).pad_token_id or 0


def _special(path: Path, tokenizer: Tokenizer, token: int) -> str:
    """Return the text that spells a special token."""
    text: str = tokenizer.id_to_token(token)
    if tokenizer.encode(text, add_special_tokens=False).ids != [token]:
        raise QuantizeError(
            f"{path}: {text!r} is put around texts but is not read as one token; is this the"
            " checkpoint's own tokenizer?"
        )
    return text
