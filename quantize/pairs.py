"""How a tokenizer lays out a pair of texts, read off its own post-processor."""

from __future__ import annotations

from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from edgerank.bundle import Piece, Prompt
from quantize.checkpoint import Checkpoint
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


def pair_prompt(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[Prompt, int]:
    """Return the prompt of a query and a document, and how many tokens of it are special.

    :raises QuantizeError: the tokenizer does not put the query before the document, or a special
        token cannot be written as text
    """
    path = checkpoint.tokenizer_path
    encoded = tokenizer.encode("query", "document")
    settings = checkpoint.json_as("tokenizer_config.json", _TokenizerSettings)
    names = settings.model_input_names if settings else None
    has_types = names is None or "token_type_ids" in names
    pieces: list[tuple[int | None, Piece]] = []
    columns = (encoded.sequence_ids, encoded.type_ids, encoded.ids)
    for text, token_type, token in zip(*columns, strict=True):
        if text is None:
            content = _special(path, tokenizer, token)
        elif pieces and pieces[-1][0] == text:
            continue  # the text's later tokens
        else:
            content = ("{query}", "{document}")[text]
        pieces.append((text, Piece(content, token_type if has_types else 0)))
    order = [text for text, _ in pieces]
    if [text for text in order if text is not None] != [0, 1]:
        raise QuantizeError(
            f"{path}: its post-processor does not make one sequence of a pair; is this the"
            " checkpoint's own tokenizer?"
        )
    document = order.index(1)
    prompt = Prompt(
        query=tuple(piece for _, piece in pieces[:document]),
        document=tuple(piece for _, piece in pieces[document:]),
    )
    return prompt, order.count(None)


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
