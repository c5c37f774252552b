"""Families whose models read query and document together: decoders and cross-encoders."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from edgerank.manifest import Prompt, Scoring, Truncation
from quantize.architectures.decoder import Decoder, LastTokenDecoder
from quantize.architectures.layered_model import LayeredModel
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.lengths import max_lengths, pad_token_id
from quantize.checkpoint.sidecars import (
    ModulesKind,
    activation_of,
    chat_settings,
    logit_score_tokens,
    pair_prompts,
    pooling_of,
)
from quantize.checkpoint.tokenization import joined, token_id
from quantize.errors import QuantizeError
from quantize.families.chat_template import chat_prompt
from quantize.families.families import (
    CLASSIFIERS,
    DECODERS,
    EMBEDDERS,
    FamilySpec,
    Head,
)
from quantize.families.model_spec import OptimumModel, RecognizedModel, no_special_tokens
from quantize.families.templates import MXBAI_RERANK_V2, Template

CROSS_ENCODER = "cross-encoder"  # the family of what optimum exports


def decoder(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    family: FamilySpec,
    template: Template,
    backbone: str,
    head: Head | None,
) -> RecognizedModel:
    """A prompt of fixed pieces, then one dot product with the last token's state."""
    prompt, spec = template.prompt, DECODERS[backbone](checkpoint)
    fixed = sum(_count(tokenizer, piece.text) for piece in prompt.query + prompt.document)
    reserved = sum(sign * _count(tokenizer, text) for text, sign in template.counted.items())
    kept = _count(tokenizer, _after_document(prompt))
    fixed, reserved = fixed + kept, reserved + kept
    limit = max_lengths(checkpoint)[1] - fixed + reserved
    if head == "ForSequenceClassification":
        weights, scoring = {}, Scoring("logit", activation_of(checkpoint))
    else:
        if not template.score:
            raise QuantizeError(f"{checkpoint.directory}: the template names no tokens to score by")
        weights = {
            token_id(checkpoint, tokenizer, token): weight
            for token, weight in template.score.items()
        }
        offset = template.normalize_offset
        if template is MXBAI_RERANK_V2 and spec.hidden_size == 896:
            offset = 4.5  # half of what the base model's scores reach, as the reference has it
        scoring = Scoring("logit", template.activation, offset)
    return RecognizedModel(
        family=family.name,
        architecture=backbone.lower(),
        max_length=min(template.max_length, limit),
        max_length_limit=limit,
        prompt=prompt,
        truncation=Truncation("document", reserved, template.query_share),
        scoring=scoring,
        model=Decoder(checkpoint, spec, weights),
    )


def cross_encoder(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    family: FamilySpec,
    backbone: str,
    kind: ModulesKind | None,
) -> RecognizedModel:
    """One logit for a pair, as sentence-transformers' CrossEncoder reads it."""
    max_length, limit = max_lengths(checkpoint)
    chat = chat_settings(checkpoint)
    _, default_prompt = pair_prompts(checkpoint)
    if chat is not None:
        prompt = chat_prompt(checkpoint, tokenizer, chat, default_prompt)
        fixed = [piece.text for piece in prompt.query + prompt.document]
        reserved = sum(_count(tokenizer, text) for text in (*fixed, _after_document(prompt)))
        truncation = Truncation("document", reserved)
    else:
        prompt, num_special = _pair_prompt(checkpoint, tokenizer)
        truncation = Truncation("longest", reserved=num_special)
    model = _scored_model(checkpoint, backbone, kind)
    if model.cache_width == 0 and chat is not None:
        raise QuantizeError(
            f"{checkpoint.directory}: a chat template is supported with decoders alone"
        )
    if backbone not in DECODERS and not truncation.reserved:
        raise no_special_tokens(checkpoint)
    return RecognizedModel(
        family=family.name,
        architecture=backbone.lower(),
        max_length=max_length,
        max_length_limit=limit,
        prompt=prompt,
        truncation=truncation,
        scoring=Scoring("logit", activation=activation_of(checkpoint)),
        model=model,
    )


def _scored_model(
    checkpoint: Checkpoint, backbone: str, kind: ModulesKind | None
) -> LayeredModel[Any]:
    """Read what gives the logit: modules of sentence-transformers, or a classification head.

    :raises QuantizeError: it is not supported
    """
    if kind == "pooled-score":
        pooling = pooling_of(checkpoint)
        if pooling != "lasttoken" and backbone in EMBEDDERS:
            return EMBEDDERS[backbone](checkpoint, pooling)
        if pooling == "lasttoken" and backbone in DECODERS:
            return LastTokenDecoder(checkpoint, DECODERS[backbone](checkpoint), {})
        raise QuantizeError(
            f"{checkpoint.directory}: {pooling} pooling is not supported for {backbone}; supported:"
            " mean and cls of encoders, lasttoken of decoders"
        )
    if kind == "logit-score":
        weights, spec = logit_score_tokens(checkpoint), DECODERS[backbone](checkpoint)
        if max(weights) >= spec.vocab_size:
            raise QuantizeError(
                f"{checkpoint.directory}: LogitScore names token {max(weights)}, but the vocabulary"
                f" has {spec.vocab_size}; is config.json the one the checkpoint came with?"
            )
        return Decoder(checkpoint, spec, weights)
    if backbone in DECODERS:
        return Decoder(checkpoint, DECODERS[backbone](checkpoint), {})
    return CLASSIFIERS[backbone](checkpoint)


def for_optimum(checkpoint: Checkpoint, tokenizer: Tokenizer, architecture: str) -> OptimumModel:
    """One logit for a pair, from a graph that optimum exports."""
    max_length, limit = max_lengths(checkpoint)
    prompt, num_special = _pair_prompt(checkpoint, tokenizer)
    return OptimumModel(
        family=CROSS_ENCODER,
        architecture="optimum",
        max_length=max_length,
        max_length_limit=limit,
        prompt=prompt,
        truncation=Truncation("longest", reserved=num_special),
        scoring=Scoring("logit", activation=activation_of(checkpoint)),
        model_class=architecture,
        pad_token_id=pad_token_id(checkpoint),
    )


def _pair_prompt(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[Prompt, int]:
    """Return how the tokenizer joins a pair, and how many special tokens it puts around it."""
    pieces = joined(checkpoint, tokenizer, "{query}", "{document}")
    document = [piece.text for piece in pieces].index("{document}")
    has_prompts, default = pair_prompts(checkpoint)
    prompt = Prompt(
        query=pieces[:document],
        document=pieces[document:],
        instruction="{instruction}" if has_prompts else None,
        default_instruction=default or None,
    )
    return prompt, len(pieces) - 2


def _after_document(prompt: Prompt) -> str:
    """Return what follows the document in its piece, which is not cut off."""
    piece = next(piece.text for piece in prompt.document if not piece.is_fixed)
    return piece.partition("{document}")[2]


def _count(tokenizer: Tokenizer, text: str) -> int:
    """Count the tokens of a fixed text; one with a placeholder counts as none."""
    if "{query}" in text or "{document}" in text:
        return 0
    return len(tokenizer.encode(text, add_special_tokens=False))
