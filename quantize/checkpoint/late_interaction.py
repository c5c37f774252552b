"""What the files say of a late-interaction model: PyLate's, and sentence-transformers'.

PyLate saves the modules Transformer and Dense and keeps its settings in
config_sentence_transformers.json; masking and norm are code of its own. MultiVectorEncoder of
sentence-transformers has modules for these, and the lengths among the Transformer's settings.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from tokenizers import Tokenizer

from edgerank.manifest import Expansion, Positive
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.lengths import max_lengths
from quantize.checkpoint.sidecars import embedding_prompts, modules_of
from quantize.errors import QuantizeError

MASK = "MultiVectorMask"  # the module that tells the two formats apart
MODULES = re.compile(rf"Transformer( Dense)+|Transformer( Dense)* {MASK} Normalize")
SETTINGS = "config_sentence_transformers.json"


@dataclass(frozen=True)
class LateInteractionSettings:
    """How texts are read and their vectors compared."""

    query: str  # with {query} in its prompt
    document: str
    query_prefix: str  # a token after the first that the tokenizer puts around a text; "" for none
    document_prefix: str
    query_length: int  # tokens
    document_length: int
    expansion: Expansion | None
    skipped_tokens: tuple[int, ...]  # ids that are left out of documents
    strip: bool
    is_mean: bool


class _PyLateSettings(msgspec.Struct):
    """config_sentence_transformers.json of PyLate; null stands for its defaults."""

    query_prefix: str | None = None
    document_prefix: str | None = None
    query_length: Positive | None = None
    document_length: Positive | None = None
    do_query_expansion: bool | None = None
    attend_to_expansion_tokens: bool | None = None
    skiplist_words: list[str] | None = None
    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None


class _QueryExpansion(msgspec.Struct, forbid_unknown_fields=True):
    strategy: Literal["fixed", "min"]
    length: Positive
    attend: bool = False
    token: str | None = None


class _TransformerSettings(msgspec.Struct):
    """sentence_bert_config.json of sentence-transformers 6.2."""

    query_length: Positive | None = None
    document_length: Positive | None = None
    query_expansion: _QueryExpansion | None = None


class _MaskSettings(msgspec.Struct):
    """config.json of a MultiVectorMask; a list of what is kept is for images."""

    skiplist_words: list[str] = []
    skiplist_tasks: tuple[Literal["document"], ...] = ("document",)
    keep_only_token_ids: None = None


class _EncoderSettings(msgspec.Struct):
    """config_sentence_transformers.json of a MultiVectorEncoder."""

    similarity_fn_name: Literal["maxsim", "meanmaxsim"] | None = None


class _TokenizerSettings(msgspec.Struct):
    """tokenizer_config.json: special tokens, by their text or as objects that have it."""

    mask_token: str | dict[str, Any] | None = None
    eos_token: str | dict[str, Any] | None = None
    pad_token: str | dict[str, Any] | None = None
    unk_token: str | dict[str, Any] | None = None

    def text(self, *names: str) -> str | None:
        """Return the first of some tokens that there is."""
        for name in names:
            token = getattr(self, f"{name}_token")
            if token is not None:
                return str(token["content"] if isinstance(token, dict) else token)
        return None


def late_interaction_settings(
    checkpoint: Checkpoint, tokenizer: Tokenizer
) -> LateInteractionSettings:
    """Read the settings of a model that gives a vector for each token.

    :raises QuantizeError: it has modules or settings that are not supported
    """
    names = " ".join(module.name for module in modules_of(checkpoint))
    if not MODULES.fullmatch(names):
        raise QuantizeError(
            f"{checkpoint.directory / 'modules.json'}: modules {names.replace(' ', ', ')} are not"
            f" supported; supported for late interaction: Transformer, Dense, perhaps {MASK} and"
            " Normalize"
        )
    tokens = checkpoint.json_as("tokenizer_config.json", _TokenizerSettings)
    read = _of_multi_vector_encoder if MASK in names else _of_pylate
    return read(checkpoint, tokenizer, tokens or _TokenizerSettings())


def _of_pylate(
    checkpoint: Checkpoint, tokenizer: Tokenizer, tokens: _TokenizerSettings
) -> LateInteractionSettings:
    """Follow ``pylate.models.ColBERT``, whose ``encode`` applies the default prompt alone."""
    settings = checkpoint.json_as(SETTINGS, _PyLateSettings) or _PyLateSettings()
    prompt = settings.prompts.get(settings.default_prompt_name or "") or ""
    query_length = settings.query_length or 32
    expansion = None
    if settings.do_query_expansion is not False:
        filler = tokens.text("mask", "eos", "pad")
        is_seen = settings.attend_to_expansion_tokens is True
        expansion = _expansion(checkpoint, filler, query_length, is_seen)
    words = settings.skiplist_words
    ids = (tokenizer.token_to_id(word) for word in (string.punctuation if words is None else words))
    unknown = tokenizer.token_to_id(tokens.text("unk") or "")  # PyLate skips it for unknown words
    found = (unknown if token is None else token for token in ids)
    prefixes = (settings.query_prefix, settings.document_prefix)
    query_prefix, document_prefix = (
        default if prefix is None else prefix
        for prefix, default in zip(prefixes, ("[Q] ", "[D] "), strict=True)
    )
    return LateInteractionSettings(
        query=prompt + "{query}",
        document=prompt + "{document}",
        query_prefix=query_prefix,
        document_prefix=document_prefix,
        query_length=query_length,
        document_length=settings.document_length or 180,
        expansion=expansion,
        skipped_tokens=_distinct(found),
        strip=True,
        is_mean=False,
    )


def _of_multi_vector_encoder(
    checkpoint: Checkpoint, tokenizer: Tokenizer, tokens: _TokenizerSettings
) -> LateInteractionSettings:
    """Follow ``sentence_transformers.MultiVectorEncoder``, whose prefixes are prompts."""
    lengths = checkpoint.json_as("sentence_bert_config.json", _TransformerSettings)
    lengths = lengths or _TransformerSettings()
    (mask_path,) = (module.path for module in modules_of(checkpoint) if module.name == MASK)
    mask = checkpoint.json_as(f"{mask_path}/config.json", _MaskSettings) or _MaskSettings()
    encoder = checkpoint.json_as(SETTINGS, _EncoderSettings) or _EncoderSettings()
    longest, _ = max_lengths(checkpoint)
    query_length, expansion = lengths.query_length or longest, None
    wanted = lengths.query_expansion
    if wanted is not None:
        filler = wanted.token or tokens.text("mask", "eos")
        expansion = _expansion(checkpoint, filler, wanted.length, wanted.attend)
        is_fixed = wanted.strategy == "fixed"
        query_length = wanted.length if is_fixed else max(query_length, wanted.length)
    query, document = embedding_prompts(checkpoint)
    words = mask.skiplist_words if mask.skiplist_tasks else []
    return LateInteractionSettings(
        query=query,
        document=document,
        query_prefix="",
        document_prefix="",
        query_length=query_length,
        document_length=lengths.document_length or longest,
        expansion=expansion,
        skipped_tokens=_distinct(tokenizer.token_to_id(word) for word in words),
        strip=False,
        is_mean=encoder.similarity_fn_name == "meanmaxsim",
    )


def _expansion(checkpoint: Checkpoint, token: str | None, length: int, is_seen: bool) -> Expansion:
    if token is None:
        raise QuantizeError(
            f"{checkpoint.directory / 'tokenizer_config.json'}: no mask_token, by which queries are"
            " to be filled up; is this the checkpoint's own tokenizer?"
        )
    return Expansion(token, length, is_seen)


def _distinct(tokens: Iterable[int | None]) -> tuple[int, ...]:
    return tuple(sorted({token for token in tokens if token is not None}))
