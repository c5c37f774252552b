"""What a checkpoint's files say of its family: how it is prompted, cut and scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgerank.errors import InputError
from edgerank.manifest import Expansion, Piece, Prompt, Scoring, Truncation
from quantize.architectures.decoder import Decoder, LastTokenDecoder
from quantize.architectures.late_interaction import LateInteraction
from quantize.architectures.layered_model import LayeredModel
from quantize.architectures.modernbert import ModernBert
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.late_interaction import late_interaction_settings
from quantize.checkpoint.lengths import max_lengths, pad_token_id
from quantize.checkpoint.sidecars import (
    ModulesKind,
    activation_of,
    chat_settings,
    embedding_prompts,
    has_modules,
    logit_score_tokens,
    modules_kind,
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
    FAMILIES,
    TOKEN_ENCODERS,
    FamilySpec,
    Head,
)
from quantize.families.templates import MXBAI_RERANK_V2, Template

TOKEN_WEIGHTS_NAME = "token_weights.npy"  # a file of the bundle
CROSS_ENCODER = "cross-encoder"  # the family of what optimum exports
STANFORD = "HF_ColBERT"  # what Stanford's own code calls its BERT
MASKED_LM = "ForMaskedLM"  # a head that sentence-transformers does not load


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


class _ArchitectureConfig(msgspec.Struct):
    """config.json, as far as it tells families apart."""

    architectures: list[str] | None = None
    model_type: str = ""
    auto_map: dict[str, Any] = {}


def recognize(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    name: str | None = None,
    template: Template | None = None,
) -> RecognizedModel | OptimumModel:
    """Tell a checkpoint's family from its files.

    :param name: the name of the family in ``FAMILIES``, if it is known
    :param template: to prompt a decoder by instead of its family's
    :raises InputError: there is no family of that name
    :raises QuantizeError: no family fits, or the checkpoint lacks what its family needs
    """
    config = checkpoint.config_as(_ArchitectureConfig)
    architecture = (config.architectures or ["none named"])[0]
    backbone, head = _parse(architecture)
    kind = modules_kind(checkpoint)
    if architecture.endswith(MASKED_LM) and kind is not None:
        backbone, head = architecture.removesuffix(MASKED_LM), "Model"
    if architecture == STANFORD and kind == "token-vectors" and config.model_type == "bert":
        backbone, head = "Bert", "Model"
    if kind == "pooled-score":  # whatever head the weights were saved with, it is not read
        head = "Model"
    if template is not None and backbone not in DECODERS:
        raise QuantizeError(
            f"{checkpoint.directory / 'config.json'}: {architecture} takes no template; only"
            " decoders do"
        )
    family = _find_family(config, backbone, head, kind, name)
    is_chosen = name is not None or template is not None
    if kind == "unknown-score" and not is_chosen and (family is None or not family.remote_code):
        raise QuantizeError(
            f"{checkpoint.directory / 'modules.json'}: these modules of a cross-encoder are not"
            " supported; supported: Transformer, with Pooling and a chain of Dense and LayerNorm,"
            " or with LogitScore; --family NAME passes over them where it is a known family's model"
        )
    if family is None:
        if head == "ForSequenceClassification" and name in (None, CROSS_ENCODER):
            return _for_optimum(checkpoint, tokenizer, architecture)
        raise _not_supported(checkpoint, architecture, head, name)
    if head == "ForLateInteraction":
        return _pair_late_interaction(checkpoint, tokenizer, family, backbone)
    if family.modules == "token-vectors":
        return _late_interaction(checkpoint, tokenizer, family, backbone)
    if family.modules == "vector":
        return _embedding(checkpoint, tokenizer, family, backbone)
    template = template or family.template
    is_chat = not is_chosen and head == "ForSequenceClassification" and chat_settings(checkpoint)
    if template is not None and not is_chat:
        return _decoder(checkpoint, tokenizer, family, template, backbone, head)
    return _cross_encoder(checkpoint, tokenizer, family, backbone, kind)


def _parse(architecture: str) -> tuple[str, Head | None]:
    """Cut a class of transformers into backbone and head."""
    heads: tuple[Head, ...] = get_args(Head)
    for head in heads:
        if architecture.endswith(head):
            return architecture.removesuffix(head), head
    return architecture, None


def _find_family(
    config: _ArchitectureConfig,
    backbone: str,
    head: Head | None,
    kind: ModulesKind | None,
    name: str | None,
) -> FamilySpec | None:
    """Return the first family that fits, or the one of that name if it does."""
    names = [family.name for family in FAMILIES]
    if name is not None and name not in names:
        raise InputError("family", f"{name!r} is unknown; choose {', '.join(names)}")
    for family in FAMILIES:
        if name is None:
            backbones = family.backbones
            has_code = family.remote_code is None or family.remote_code in str(config.auto_map)
        elif name == family.name:
            backbones = tuple(DECODERS) if family.template else family.backbones
            has_code = True
        else:
            continue
        has_head = head in family.heads and _fits(family, head, kind)
        if has_head and has_code and backbone in backbones:
            return family
    return None


def _fits(family: FamilySpec, head: Head | None, kind: ModulesKind | None) -> bool:
    """Say whether modules.json is of the family's kind, where that tells families apart."""
    if head == "Model" or family.modules == "logit-score":
        return family.modules == kind
    return True


def _not_supported(
    checkpoint: Checkpoint, architecture: str, head: Head | None, name: str | None
) -> QuantizeError:
    is_bare = head == "Model" and not has_modules(checkpoint)
    if architecture == STANFORD:
        return QuantizeError(
            f"{checkpoint.directory}: in the files of Stanford's ColBERT, which are not supported;"
            " pylate.models.ColBERT(DIRECTORY).save(ANOTHER) writes those that are"
        )
    return QuantizeError(
        f"{checkpoint.directory / 'config.json'}: architecture {architecture}"
        f"{' without modules.json' if is_bare else ''} is not supported"
        f"{f' by family {name}' if name else ''}; supported:"
        f" {', '.join(sorted({*DECODERS, *CLASSIFIERS}))}, and what optimum exports for"
        " sequence classification; `edgerank families` says more"
    )


def _decoder(
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


def _cross_encoder(
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
        raise _no_special_tokens(checkpoint)
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


def _for_optimum(checkpoint: Checkpoint, tokenizer: Tokenizer, architecture: str) -> OptimumModel:
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


def _embedding(
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
        raise _no_special_tokens(checkpoint)
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


def _late_interaction(
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


def _with_prefix(
    checkpoint: Checkpoint, pieces: tuple[Piece, ...], prefix: str
) -> tuple[Piece, ...]:
    """Put a token after the first of those around a text, where PyLate inserts it.

    :raises QuantizeError: there are none around it
    """
    if len(pieces) == 1:
        raise _no_special_tokens(checkpoint)
    if not prefix:
        return pieces
    return (pieces[0], Piece(prefix, is_token=True), *pieces[1:])


def _pair_late_interaction(
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


def _no_special_tokens(checkpoint: Checkpoint) -> QuantizeError:
    return QuantizeError(
        f"{checkpoint.tokenizer_path}: it puts no special tokens around texts; is this the"
        " checkpoint's own tokenizer?"
    )


def _after_document(prompt: Prompt) -> str:
    """Return what follows the document in its piece, which is not cut off."""
    piece = next(piece.text for piece in prompt.document if not piece.is_fixed)
    return piece.partition("{document}")[2]


def _count(tokenizer: Tokenizer, text: str) -> int:
    """Count the tokens of a fixed text; one with a placeholder counts as none."""
    if "{query}" in text or "{document}" in text:
        return 0
    return len(tokenizer.encode(text, add_special_tokens=False))
