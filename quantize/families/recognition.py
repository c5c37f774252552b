"""Families: what a checkpoint's files say about how it is to be asked and read.

A family is recognised from the checkpoint's own files and becomes data in the bundle's manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import msgspec
from tokenizers import Tokenizer

from edgerank.bundle import Prompt, Scoring, Truncation
from quantize.architectures import (
    bert,
    deberta,
    decoder,
    gemma,
    late_interaction,
    llama,
    modernbert,
    qwen2,
    qwen3,
)
from quantize.architectures.decoder_spec import DecoderSpec
from quantize.architectures.layered_model import Encoder, LayeredModel
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.sidecars import (
    Pooling,
    activation_of,
    embedding_prompts,
    has_modules,
    longest_input,
    only_token,
    pooling_of,
)
from quantize.checkpoint.tokenization import joined, pad_token_id, position_limit
from quantize.errors import QuantizeError
from quantize.families.templates import (
    BGE_RERANKER_GEMMA,
    MXBAI_RERANK_V2,
    QWEN3_RERANKER,
    ZERANK,
    Template,
)

Head = Literal["ForCausalLM", "ForSequenceClassification", "ForLateInteraction", "Model"]

DECODERS: dict[str, Callable[[Checkpoint], DecoderSpec]] = {
    "Gemma": gemma.read_spec,
    "Llama": llama.read_spec,
    "Qwen2": qwen2.read_spec,
    "Qwen3": qwen3.read_spec,
}
BERTS = {
    "Bert": bert.BERT,
    "Camembert": bert.ROBERTA,
    "Electra": bert.ELECTRA,
    "Roberta": bert.ROBERTA,
    "XLMRoberta": bert.ROBERTA,
}

CLASSIFIERS: dict[str, Callable[[Checkpoint], Encoder[Any]]] = {
    **{name: partial(bert.Bert, head="classifier", spec=spec) for name, spec in BERTS.items()},
    "DebertaV2": deberta.Deberta,
    "ModernBert": modernbert.classifier,
}
EMBEDDERS: dict[str, Callable[[Checkpoint, Pooling], Encoder[Any]]] = {
    **{name: partial(bert.Bert, spec=spec) for name, spec in BERTS.items()},
    "ModernBert": modernbert.ModernBert,
}


@dataclass(frozen=True)
class FamilySpec:
    """A family, and the files that tell it."""

    name: str
    models: str  # for people
    score: str  # how it reads, for people
    heads: tuple[Head, ...]
    backbones: tuple[str, ...]
    template: Template | None = None  # the tokenizer's own way to join two texts by default
    remote_code: str | None = None  # a module that config.json names


FAMILIES = (
    FamilySpec(
        "zerank",
        "zerank-1, zerank-1-small, zerank-2",
        'sigmoid(logit("Yes") / 5)',
        ("ForCausalLM",),
        ("Qwen3",),
        ZERANK,
        remote_code="modeling_zeranker",
    ),
    FamilySpec(
        "qwen3-reranker",
        "Qwen3-Reranker 0.6B, 4B, 8B, and those with a classifier instead",
        'the probability of "yes" against "no"; or the logit, through the activation that the'
        " checkpoint names",
        ("ForCausalLM", "ForSequenceClassification"),
        ("Qwen3",),
        QWEN3_RERANKER,
    ),
    FamilySpec(
        "mxbai-rerank-v2",
        "mxbai-rerank base, large v2",
        'logit("1") - logit("0")',
        ("ForCausalLM",),
        ("Qwen2", "Llama"),
        MXBAI_RERANK_V2,
    ),
    FamilySpec(
        "bge-reranker-gemma",
        "bge-reranker-v2-gemma",
        'logit("Yes")',
        ("ForCausalLM",),
        ("Gemma",),
        BGE_RERANKER_GEMMA,
    ),
    FamilySpec(
        "cross-encoder",
        "ms-marco MiniLM, TinyBERT, ELECTRA; bge-reranker base, large, v2-m3; mxbai-rerank v1;"
        " gte-reranker-modernbert, granite-embedding-reranker; others with one logit, through"
        " optimum (edgerank[export]) where the architecture is none of these",
        "the logit, through the activation that the checkpoint names",
        ("ForSequenceClassification",),
        (*CLASSIFIERS, *DECODERS),
    ),
    FamilySpec(
        "late-interaction",
        "edgerank's own (python -m quantize.training)",
        "sigmoid of a logit from the cosine, the nearest tokens and the words in common",
        ("ForLateInteraction",),
        ("Bert",),
    ),
    FamilySpec(
        "embedding",
        "MiniLM, bge, e5 and other sentence-transformers models with mean or cls pooling",
        "the cosine of query and document",
        ("Model",),
        tuple(EMBEDDERS),
    ),
)


def describe(family: FamilySpec) -> list[str]:
    """Say in a few lines what a family is, how it is recognised and how its scores read."""
    heads = (f"{head} with modules.json" if head == "Model" else head for head in family.heads)
    recognized = f"{', '.join(family.backbones)} + {' or '.join(heads)}"
    if family.remote_code is not None:
        recognized += f", {family.remote_code} in auto_map"
    return [
        family.name,
        f"    models      {family.models}",
        f"    recognised  {recognized}",
        f"    score       {family.score}",
    ]


class _Config(msgspec.Struct):
    """config.json, as far as it tells families apart."""

    architectures: list[str] | None = None
    auto_map: dict[str, Any] = {}
    hidden_size: int = 0


@dataclass(frozen=True)
class ModelSpec:
    """How a checkpoint is prompted, cut and scored."""

    name: str
    architecture: str
    max_length: int
    max_length_limit: int
    prompt: Prompt
    truncation: Truncation
    scoring: Scoring


@dataclass(frozen=True)
class RecognizedModel(ModelSpec):
    """A description, and how the checkpoint is written as a graph."""

    model: LayeredModel[Any]


@dataclass(frozen=True)
class OptimumModel(ModelSpec):
    """A description of a checkpoint whose graph is to be exported by optimum."""

    exported_class: str  # of transformers
    pad_token_id: int


def recognize(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    name: str | None = None,
    template: Template | None = None,
) -> RecognizedModel | OptimumModel:
    """Tell a checkpoint's family from its files.

    :param name: a family of ``FAMILIES`` that it is known to be
    :param template: to ask it with instead of the family's
    :raises QuantizeError: no family fits, or the checkpoint lacks what its family needs
    """
    config = checkpoint.config_as(_Config)
    path = checkpoint.directory / "config.json"
    architecture = (config.architectures or ["none named"])[0]
    backbone, head = _parse(architecture)
    fitting = [
        family
        for family in FAMILIES
        if backbone in (DECODERS if name and family.template else family.backbones)
        and head in family.heads
        and (head != "Model" or has_modules(checkpoint))
        and (name or family.remote_code is None or family.remote_code in str(config.auto_map))
    ]
    if name is not None:
        if name not in (known.name for known in FAMILIES):
            names = ", ".join(known.name for known in FAMILIES)
            raise QuantizeError(f"family {name!r} is unknown; choose {names}")
        fitting = [family for family in fitting if family.name == name]
    if template is not None and backbone not in DECODERS:
        raise QuantizeError(f"{path}: {architecture} takes no template; only decoders do")
    if not fitting and head == "ForSequenceClassification" and name in (None, "cross-encoder"):
        return _imported(checkpoint, tokenizer, architecture)
    if not fitting:
        is_bare = head == "Model" and not has_modules(checkpoint)
        without = " without modules.json" if is_bare else ""
        raise QuantizeError(
            f"{path}: architecture {architecture}{without}"
            f" is not supported{f' by family {name}' if name else ''}; supported:"
            f" {', '.join(sorted({*DECODERS, *CLASSIFIERS}))}, and what optimum exports for"
            " sequence classification; `edgerank families` says more"
        )
    family = fitting[0]
    template = template or family.template
    if head == "Model":
        return _embedding(checkpoint, tokenizer, family, backbone)
    if head == "ForLateInteraction":
        return _late_interaction(checkpoint, tokenizer, family, backbone)
    if template is None:
        return _pair(checkpoint, tokenizer, family, backbone)
    return _templated(checkpoint, tokenizer, family, template, backbone, head, config.hidden_size)


def _parse(architecture: str) -> tuple[str, Head | None]:
    """Cut a class of transformers into backbone and head."""
    heads: tuple[Head, ...] = get_args(Head)
    for head in heads:
        if architecture.endswith(head):
            return architecture.removesuffix(head), head
    return architecture, None


def _templated(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    family: FamilySpec,
    template: Template,
    backbone: str,
    head: Head | None,
    hidden_size: int,
) -> RecognizedModel:
    """A prompt of fixed pieces, then one dot product with the last token's state."""
    prompt = template.prompt
    shape = DECODERS[backbone](checkpoint)
    fixed = sum(_count(tokenizer, piece.text) for piece in prompt.query + prompt.document)
    reserved = sum(sign * _count(tokenizer, text) for text, sign in template.counted.items())
    limit = shape.max_positions - fixed + reserved
    has_classifier = head == "ForSequenceClassification"
    weights: Mapping[int, float] = {}
    if not has_classifier:
        if not template.score:
            raise QuantizeError(f"{checkpoint.directory}: the template names no tokens to score by")
        weights = {
            only_token(checkpoint, tokenizer, token): weight
            for token, weight in template.score.items()
        }
    offset = template.normalize_offset
    if template is MXBAI_RERANK_V2 and hidden_size == 896:
        offset = 4.5  # half of what the base model's scores reach, as the reference has it
    return RecognizedModel(
        name=family.name,
        architecture=backbone.lower(),
        max_length=min(template.max_length, limit),
        max_length_limit=limit,
        prompt=prompt,
        truncation=Truncation("document", reserved, template.query_share),
        scoring=Scoring(
            "logit",
            activation_of(checkpoint) if has_classifier else template.activation,
            0.0 if has_classifier else offset,
        ),
        model=decoder.Decoder(checkpoint, shape, weights),
    )


def _pair(
    checkpoint: Checkpoint, tokenizer: Tokenizer, family: FamilySpec, backbone: str
) -> RecognizedModel:
    """One logit for a pair, as sentence-transformers' CrossEncoder reads it."""
    model: LayeredModel[Any]
    if backbone in DECODERS:
        shape = DECODERS[backbone](checkpoint)
        model, limit = decoder.Decoder(checkpoint, shape, {}), shape.max_positions
    else:
        encoder = CLASSIFIERS[backbone](checkpoint)
        model, limit = encoder, encoder.max_positions
    prompt, num_special = _pair_prompt(checkpoint, tokenizer)
    if backbone in CLASSIFIERS and not num_special:
        raise _no_special_tokens(checkpoint)
    return RecognizedModel(
        name=family.name,
        architecture=backbone.lower(),
        max_length=min(longest_input(checkpoint) or limit, limit),
        max_length_limit=limit,
        prompt=prompt,
        truncation=Truncation("longest", reserved=num_special),
        scoring=Scoring("logit", activation=activation_of(checkpoint)),
        model=model,
    )


def _imported(checkpoint: Checkpoint, tokenizer: Tokenizer, architecture: str) -> OptimumModel:
    """One logit for a pair, from a graph that optimum exports."""
    prompt, num_special = _pair_prompt(checkpoint, tokenizer)
    wanted = longest_input(checkpoint)
    limit = position_limit(checkpoint) or wanted
    if limit is None:
        raise QuantizeError(
            f"{checkpoint.directory}: neither config.json's max_position_embeddings nor"
            " tokenizer_config.json's model_max_length says how many tokens the model takes"
        )
    return OptimumModel(
        name="cross-encoder",
        architecture="imported",
        max_length=min(wanted or limit, limit),
        max_length_limit=limit,
        prompt=prompt,
        truncation=Truncation("longest", reserved=num_special),
        scoring=Scoring("logit", activation=activation_of(checkpoint)),
        exported_class=architecture,
        pad_token_id=pad_token_id(checkpoint),
    )


def _pair_prompt(checkpoint: Checkpoint, tokenizer: Tokenizer) -> tuple[Prompt, int]:
    """Return how the tokenizer joins a pair, and how many special tokens it puts around it."""
    pieces = joined(checkpoint, tokenizer, "{query}", "{document}")
    document = [piece.text for piece in pieces].index("{document}")
    return Prompt(query=pieces[:document], document=pieces[document:]), len(pieces) - 2


def _embedding(
    checkpoint: Checkpoint, tokenizer: Tokenizer, family: FamilySpec, backbone: str
) -> RecognizedModel:
    """A sentence-transformers embedding model: the score is a cosine."""
    model = EMBEDDERS[backbone](checkpoint, pooling_of(checkpoint))
    limit = model.max_positions
    query, document = (
        joined(checkpoint, tokenizer, text) for text in embedding_prompts(checkpoint)
    )
    if len(query) == 1:
        raise _no_special_tokens(checkpoint)
    return RecognizedModel(
        name=family.name,
        architecture=backbone.lower(),
        max_length=min(longest_input(checkpoint) or limit, limit),
        max_length_limit=limit,
        prompt=Prompt(query, document),
        truncation=Truncation("each", reserved=len(query) - 1),
        scoring=Scoring("similarity"),
        model=model,
    )


def _late_interaction(
    checkpoint: Checkpoint, tokenizer: Tokenizer, family: FamilySpec, backbone: str
) -> RecognizedModel:
    """Query and document beside each other, each as the encoder reads a text by itself."""
    model = late_interaction.LateInteraction(checkpoint)
    limit = model.max_positions
    query = joined(checkpoint, tokenizer, "{query}")
    document = joined(checkpoint, tokenizer, "{document}")
    return RecognizedModel(
        name=family.name,
        architecture=backbone.lower(),
        max_length=min(longest_input(checkpoint) or limit, limit),
        max_length_limit=limit,
        prompt=Prompt(query, tuple(msgspec.structs.replace(p, token_type=1) for p in document)),
        truncation=Truncation(
            "longest", reserved=len(query) + len(document) - 2, long_documents="split"
        ),
        scoring=Scoring("logit", activation="sigmoid"),
        model=model,
    )


def _no_special_tokens(checkpoint: Checkpoint) -> QuantizeError:
    return QuantizeError(
        f"{checkpoint.tokenizer_path}: it puts no special tokens around texts; is this the"
        " checkpoint's own tokenizer?"
    )


def _count(tokenizer: Tokenizer, text: str) -> int:
    """Count the tokens of a fixed text; one with a placeholder counts as none."""
    if "{query}" in text or "{document}" in text:
        return 0
    return len(tokenizer.encode(text, add_special_tokens=False))
