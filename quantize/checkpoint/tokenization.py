"""A checkpoint's tokenizer, and the special tokens that it puts around texts."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from edgerank.errors import BundleError
from edgerank.manifest import Piece
from edgerank.tokenization import open_tokenizer
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.sidecars import TokenizerSettings
from quantize.errors import QuantizeError


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load a checkpoint's tokenizer.json, to be used without truncation and padding.

    :raises QuantizeError: it cannot be read
    """
    try:
        return open_tokenizer(directory / "tokenizer.json")
    except BundleError as error:
        raise QuantizeError(str(error)) from error


def joined(checkpoint: Checkpoint, tokenizer: Tokenizer, *texts: str) -> tuple[Piece, ...]:
    """Return the sequence of one or two texts: the special tokens around them.

    :param texts: placeholders of the texts, such as "{query}"
    :raises QuantizeError: it does not keep their order, or a special token cannot be written as
        text
    """
    path = checkpoint.tokenizer_path
    encoded = tokenizer.encode(*("text" for _ in texts))
    settings = checkpoint.json_as("tokenizer_config.json", TokenizerSettings)
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


def token_id(checkpoint: Checkpoint, tokenizer: Tokenizer, text: str) -> int:
    """Return the one token of a text.

    :raises QuantizeError: it is several
    """
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        raise QuantizeError(
            f"{checkpoint.tokenizer_path}: {text!r} is not one token; is this the checkpoint's"
            " own tokenizer?"
        )
    return ids[0]


def _special(path: Path, tokenizer: Tokenizer, token: int) -> str:
    """Return the text that spells a special token."""
    text: str = tokenizer.id_to_token(token)
    if tokenizer.encode(text, add_special_tokens=False).ids != [token]:
        raise QuantizeError(
            f"{path}: {text!r} is put around texts but is not read as one token; is this the"
            " checkpoint's own tokenizer?"
        )
    return text
