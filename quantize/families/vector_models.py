"""Families whose models read texts by themselves: embedding models and late interaction."""

from __future__ import annotations

import msgspec
from tokenizers import Tokenizer

from edgerank.manifest import Expansion, Piece, Prompt, Scoring, Truncation
from quantize.architectures.late_interaction import LateInteraction
from quantize.architectures.modernbert import ModernBert
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.late_interaction import late_interaction_settings
from quantize.checkpoint.lengths import max_lengths
from quantize.checkpoint.sidecars import (
    embedding_prompts,
    pooling_of,
)
from quantize.checkpoint.tokenization import joined
from quantize.errors import QuantizeError
from quantize.families.families import (
    EMBEDDERS,
    TOKEN_ENCODERS,
    FamilySpec,
)
from quantize.families.model_spec import RecognizedModel, no_special_tokens

TOKEN_WEIGHTS_NAME = "token_weights.npy"  # a file of the bundle


def embedding(
    checkpoint: Checkpoint, tokenizer: Tokenizer, family: FamilySpec, backbone: str
) -> RecognizedModel:
    """A sentence-transformers embedding model: the score is a cosine."""
    pooling = pooling_of(checkpoint)
    if pooling == "lasttoken":
        raise QuantizeError(
            f"{checkpoint.directory}: lasttoken pooling is not supported in embedding models;"
            " supported: mean, cls"
        )
    model = EMBEDDERS[backbone](checkpoint, pooling)
    max_length, limit = max_lengths(checkpoint)
    query, document = (
        joined(checkpoint, tokenizer, text) for text in embedding_prompts(checkpoint)
    )
    if len(query) == 1:
        raise no_special_tokens(checkpoint)
    return RecognizedModel(
        family=family.name,
        architecture=backbone.lower(),
        max_length=max_length,
        max_length_limit=limit,
        prompt=Prompt(query, document),
        truncation=Truncation("each", reserved=len(query) - 1),
        scoring=Scoring("cosine"),
        model=model,
    )


def late_interaction(
    checkpoint: Checkpoint, tokenizer: Tokenizer, family: FamilySpec, backbone: str
) -> RecognizedModel:
    """A vector for each token: the score is MaxSim, as PyLate and MultiVectorEncoder have it."""
    model = TOKEN_ENCODERS[backbone](checkpoint)
    settings = late_interaction_settings(checkpoint, tokenizer)
    query, document = (
        _with_prefix(checkpoint, joined(checkpoint, tokenizer, text), prefix)
        for text, prefix in (
            (settings.query, settings.query_prefix),
            (settings.document, settings.document_prefix),
        )
    )
    names = [settings.query_prefix, settings.document_prefix]
    names += [settings.expansion.token] if settings.expansion else []
    for name in filter(None, names):
        _check_token(checkpoint, tokenizer, name, model.config.vocab_size)
    limit = max_lengths(checkpoint)[1]
    longest = max(settings.query_length, settings.document_length)
    if longest > limit or settings.query_length <= len(query):
        raise QuantizeError(
            f"{checkpoint.directory}: a query of {settings.query_length} tokens and a document of"
            f" {settings.document_length} must fit into {limit}, and a query needs more than"
            f" {len(query)}"
        )
    expansion = settings.expansion
    if isinstance(model, ModernBert) and expansion is not None and not expansion.is_seen:
        _check_window(checkpoint, expansion, len(query), model.config.window)
    return RecognizedModel(
        family=family.name,
        architecture=backbone.lower(),
        max_length=settings.document_length,
        max_length_limit=limit,
        prompt=Prompt(query, document, strip=settings.strip, expansion=expansion),
        truncation=Truncation(
            "each", reserved=len(document) - 1, query_length=settings.query_length
        ),
        scoring=Scoring("maxsim", skipped_tokens=settings.skipped_tokens, is_mean=settings.is_mean),
        model=model,
    )


def pair_late_interaction(
    checkpoint: Checkpoint, tokenizer: Tokenizer, family: FamilySpec, backbone: str
) -> RecognizedModel:
    """Query and document beside each other, each as the encoder reads a text by itself."""
    model = LateInteraction(checkpoint)
    comparison, token_weights = model.comparison(TOKEN_WEIGHTS_NAME)
    max_length, limit = max_lengths(checkpoint)
    query = joined(checkpoint, tokenizer, "{query}")
    document = joined(checkpoint, tokenizer, "{document}")
    num_special = len(query) + len(document) - 2
    return RecognizedModel(
        family=family.name,
        architecture=backbone.lower(),
        max_length=max_length,
        max_length_limit=limit,
        prompt=Prompt(query, tuple(msgspec.structs.replace(p, token_type=1) for p in document)),
        truncation=Truncation("longest", reserved=num_special, long_documents="split"),
        scoring=Scoring("late_interaction", activation="sigmoid", comparison=comparison),
        model=model,
        tables={TOKEN_WEIGHTS_NAME: token_weights},
    )


def _with_prefix(
    checkpoint: Checkpoint, pieces: tuple[Piece, ...], prefix: str
) -> tuple[Piece, ...]:
    """Put a token after the first of those around a text, where PyLate inserts it.

    :raises QuantizeError: there are none around it
    """
    if len(pieces) == 1:
        raise no_special_tokens(checkpoint)
    if not prefix:
        return pieces
    return (pieces[0], Piece(prefix, is_token=True), *pieces[1:])


def _check_token(checkpoint: Checkpoint, tokenizer: Tokenizer, name: str, vocabulary: int) -> None:
    """Check that the model has a vector for a token that its settings name.

    :raises QuantizeError: it has none; a library would draw one at random
    """
    token = tokenizer.token_to_id(name)
    if token is None or token >= vocabulary:
        raise QuantizeError(
            f"{checkpoint.directory}: config_sentence_transformers.json names the token {name!r},"
            " which the tokenizer or the weights lack; is this the checkpoint's own tokenizer?"
        )


def _check_window(
    checkpoint: Checkpoint, expansion: Expansion, num_fixed: int, window: int
) -> None:
    """Check that all tokens see one of the query's, however short it is.

    :raises QuantizeError: some would see nothing in layers with a window
    """
    if expansion.length > num_fixed + window:
        raise QuantizeError(
            f"{checkpoint.directory}: queries filled up to {expansion.length} tokens that none sees"
            f" are not supported: some would lie more than {window} tokens from the query, and see"
            " nothing in layers with a window"
        )
