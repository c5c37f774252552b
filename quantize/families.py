"""Families: what a checkpoint's files say about how it is to be asked and read.

A family is recognised from the checkpoint's own files and becomes data in the bundle's manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from tokenizers import Tokenizer

from edgerank.bundle import Piece, Prompt, Scoring, Truncation
from quantize.architectures import bert, modernbert, qwen2
from quantize.checkpoint import Checkpoint
from quantize.errors import QuantizeError
from quantize.model import Model


class _Config(msgspec.Struct):
    """config.json, as far as it tells families apart."""

    architectures: list[str] | None = None


class _Module(msgspec.Struct):
    """An entry of sentence-transformers' modules.json."""

    type: str = ""


class _TransformerSettings(msgspec.Struct):
    """sentence-transformers' sentence_bert_config.json."""

    max_seq_length: int | None = None


class _TokenizerSettings(msgspec.Struct):
    """tokenizer_config.json"""

    model_max_length: float | None = None


class _ActivationSettings(msgspec.Struct):
    activation_fn: str | None = None


class _CrossEncoderConfig(msgspec.Struct):
    """What sentence-transformers keeps in config.json, and kept there before its version 4."""

    sentence_transformers: _ActivationSettings | None = None
    sbert_ce_default_activation_function: str | None = None


@dataclass(frozen=True)
class Family:
    """How a checkpoint is prompted, cut, scored and written as a graph."""

    name: str
    architecture: str
    max_length: int
    max_length_limit: int
    prompt: Prompt
    truncation: Truncation
    scoring: Scoring
    model: Model[Any]


def recognize(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Family:
    """Tell a checkpoint's family from its files.

    :raises QuantizeError: no family fits, or the checkpoint lacks what its family needs
    """
    architectures = checkpoint.config_as(_Config).architectures or ["none named"]
    has_pooling = checkpoint.json_as("modules.json", list[_Module]) is not None
    for architecture, needs_pooling, describe in RECOGNIZED:
        if architecture in architectures and needs_pooling == has_pooling:
            return describe(checkpoint, tokenizer)
    supported = ", ".join(
        f"{name} with modules.json" if pooling else name for name, pooling, _ in RECOGNIZED
    )
    raise QuantizeError(
        f"{checkpoint.directory / 'config.json'}: architecture {architectures[0]}"
        f"{' with modules.json' if has_pooling else ''} is not supported; supported: {supported}"
    )


def _mxbai_rerank_v2(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Family:
    """mxbai-rerank v2: the PyPI package mxbai-rerank, ``mxbai_rerank_v2.py``."""
    config = qwen2.read_config(checkpoint)
    prompt = Prompt(
        query=(
            Piece(
                "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful"
                " assistant.<|im_end|>\n<|im_start|>user\n"
            ),
            Piece("query: {query}"),
            Piece("\n"),
        ),
        document=(
            Piece("document: {document}"),
            Piece("\n"),
            Piece(
                "You are a search relevance expert who evaluates how well documents match search"
                " queries. For each query-document pair, carefully analyze the semantic"
                " relationship between them, then provide your binary relevance judgment (0 for"
                " not relevant, 1 for relevant).\nRelevance:"
            ),
            Piece("<|im_end|>\n<|im_start|>assistant\n"),
        ),
        instruction="instruction: {instruction}\n",
    )
    fixed = sum(_count(tokenizer, piece) for piece in prompt.query + prompt.document)
    separator = _count(tokenizer, Piece("\n"))
    positive, negative = (_only_token(checkpoint, tokenizer, digit) for digit in "10")
    limit = config.max_position_embeddings - (fixed - separator)
    estimated_max = 9.0 if config.hidden_size == 896 else 12.0  # base, large

    return Family(
        name="mxbai-rerank-v2",
        architecture="qwen2",
        max_length=min(8192, limit),
        max_length_limit=limit,
        prompt=prompt,
        truncation=Truncation("document", reserved=separator, query_share=(3, 4)),
        scoring=Scoring("logit", normalize_offset=estimated_max / 2),
        model=qwen2.Qwen2(checkpoint, (positive, negative)),
    )


def _bert_cross_encoder(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Family:
    limit = bert.read_config(checkpoint).max_position_embeddings
    model = bert.Bert(checkpoint, "classifier")
    return _cross_encoder(checkpoint, tokenizer, "bert", limit, model, document_type=1)


def _bert_embedding(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Family:
    limit = bert.read_config(checkpoint).max_position_embeddings
    model = bert.Bert(checkpoint, _pooling(checkpoint))
    return _embedding(checkpoint, tokenizer, "bert", limit, model)


def _modernbert_cross_encoder(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Family:
    config = modernbert.read_config(checkpoint)
    model = modernbert.ModernBert(checkpoint, config.classifier_pooling, is_classifier=True)
    limit = config.max_position_embeddings
    return _cross_encoder(checkpoint, tokenizer, "modernbert", limit, model, document_type=0)


def _modernbert_embedding(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Family:
    limit = modernbert.read_config(checkpoint).max_position_embeddings
    model = modernbert.ModernBert(checkpoint, _pooling(checkpoint), is_classifier=False)
    return _embedding(checkpoint, tokenizer, "modernbert", limit, model)


def _cross_encoder(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    architecture: str,
    limit: int,
    model: Model[Any],
    *,
    document_type: int,
) -> Family:
    """One logit for a pair, as sentence-transformers' CrossEncoder reads it."""
    for token in ("[CLS]", "[SEP]"):
        _only_token(checkpoint, tokenizer, token)
    return Family(
        name=f"{architecture}-cross-encoder",
        architecture=architecture,
        max_length=min(_tokenizer_max_length(checkpoint) or limit, limit),
        max_length_limit=limit,
        prompt=Prompt(
            query=(Piece("[CLS]"), Piece("{query}"), Piece("[SEP]")),
            document=(Piece("{document}", document_type), Piece("[SEP]", document_type)),
        ),
        truncation=Truncation("longest", reserved=3),
        scoring=Scoring("logit", activation=_cross_encoder_activation(checkpoint)),
        model=model,
    )


def _embedding(
    checkpoint: Checkpoint,
    tokenizer: Tokenizer,
    architecture: str,
    limit: int,
    model: Model[Any],
) -> Family:
    """A sentence-transformers embedding model: the score is a cosine."""
    for token in ("[CLS]", "[SEP]"):
        _only_token(checkpoint, tokenizer, token)
    settings = checkpoint.json_as("sentence_bert_config.json", _TransformerSettings)
    wanted = settings.max_seq_length if settings else None
    wanted = wanted or _tokenizer_max_length(checkpoint) or limit
    return Family(
        name=f"{architecture}-embedding",
        architecture=architecture,
        max_length=min(wanted, limit),
        max_length_limit=limit,
        prompt=Prompt(
            query=(Piece("[CLS]"), Piece("{query}"), Piece("[SEP]")),
            document=(Piece("[CLS]"), Piece("{document}"), Piece("[SEP]")),
        ),
        truncation=Truncation("each", reserved=2),
        scoring=Scoring("similarity"),
        model=model,
    )


RECOGNIZED: tuple[tuple[str, bool, Callable[[Checkpoint, Tokenizer], Family]], ...] = (
    ("Qwen2ForCausalLM", False, _mxbai_rerank_v2),
    ("BertForSequenceClassification", False, _bert_cross_encoder),
    ("BertModel", True, _bert_embedding),
    ("ModernBertForSequenceClassification", False, _modernbert_cross_encoder),
    ("ModernBertModel", True, _modernbert_embedding),
)


def _count(tokenizer: Tokenizer, piece: Piece) -> int:
    """Count the tokens of a piece without placeholders; a piece with one counts as none."""
    if "{" in piece.text:
        return 0
    return len(tokenizer.encode(piece.text, add_special_tokens=False))


def _only_token(checkpoint: Checkpoint, tokenizer: Tokenizer, text: str) -> int:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        raise QuantizeError(
            f"{checkpoint.tokenizer_path}: {text!r} is not one token; is this the checkpoint's"
            " own tokenizer?"
        )
    return ids[0]


def _tokenizer_max_length(checkpoint: Checkpoint) -> int | None:
    settings = checkpoint.json_as("tokenizer_config.json", _TokenizerSettings)
    length = settings.model_max_length if settings else None
    return int(length) if length and length < 1e9 else None  # transformers writes 1e30 for none


def _cross_encoder_activation(checkpoint: Checkpoint) -> Literal["identity", "sigmoid"]:
    """Read which activation sentence-transformers applies; a sigmoid unless the config says."""
    config = checkpoint.config_as(_CrossEncoderConfig)
    settings = config.sentence_transformers
    name = (
        (settings.activation_fn if settings else None)
        or config.sbert_ce_default_activation_function
        or "torch.nn.modules.activation.Sigmoid"
    )
    activations: dict[str, Literal["identity", "sigmoid"]] = {
        "torch.nn.modules.linear.Identity": "identity",
        "torch.nn.modules.activation.Sigmoid": "sigmoid",
    }
    if name not in activations:
        raise QuantizeError(
            f"{checkpoint.directory / 'config.json'}: activation {name!r} is not supported;"
            f" supported: {', '.join(activations)}"
        )
    return activations[name]


def _pooling(checkpoint: Checkpoint) -> Literal["mean", "cls"]:
    entries = checkpoint.json_as("modules.json", list[_Module]) or []
    modules = [module.type.split(".")[-1] for module in entries]
    if any(module not in ("Transformer", "Pooling", "Normalize") for module in modules):
        raise QuantizeError(
            f"{checkpoint.directory / 'modules.json'}: modules {', '.join(modules)} are not"
            " supported; supported: Transformer, Pooling, Normalize"
        )
    settings = checkpoint.json_as("1_Pooling/config.json", dict[str, Any]) or {}
    mode: str = settings.get("pooling_mode") or ", ".join(
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, is_on in settings.items()  # one flag a mode before sentence-transformers 5.3
        if name.startswith("pooling_mode_") and is_on
    )
    if mode == "mean":
        return "mean"
    if mode == "cls":
        return "cls"
    raise QuantizeError(
        f"{checkpoint.directory / '1_Pooling/config.json'}: pooling mode {mode or 'none'!r} is not"
        " supported; supported: mean, cls"
    )
