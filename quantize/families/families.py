"""The table of families, with their architectures and prompts.

A family is recognised from a checkpoint's own files (``quantize.families.recognition``) and becomes
data in the bundle's manifest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from quantize.architectures import bert, deberta, gemma, gemma3, llama, modernbert, qwen2, qwen3
from quantize.architectures.decoder_spec import DecoderSpec
from quantize.architectures.layered_model import LayeredModel
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.sidecars import ModulesKind, Pooling
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
    "Gemma3": gemma3.read_spec,
    "Gemma3Text": gemma3.read_spec,
    "Llama": llama.read_spec,
    "Qwen2": qwen2.read_spec,
    "Qwen3": qwen3.read_spec,
}
BERTS = {
    "Bert": bert.BERT,
    "Camembert": bert.ROBERTA,
    "Electra": bert.ELECTRA,
    "MPNet": bert.MPNET,
    "Roberta": bert.ROBERTA,
    "XLMRoberta": bert.ROBERTA,
}

CLASSIFIERS: dict[str, Callable[[Checkpoint], LayeredModel[Any]]] = {
    **{name: partial(bert.Bert, head="classifier", spec=spec) for name, spec in BERTS.items()},
    "DebertaV2": deberta.Deberta,
    "ModernBert": modernbert.classifier,
}
TOKEN_ENCODERS: dict[str, Callable[[Checkpoint], bert.Bert | modernbert.ModernBert]] = {
    **{name: partial(bert.Bert, head="tokens", spec=spec) for name, spec in BERTS.items()},
    "ModernBert": partial(modernbert.ModernBert, pooling="tokens"),
}
EMBEDDERS: dict[str, Callable[[Checkpoint, Pooling], LayeredModel[Any]]] = {
    **{name: partial(bert.Bert, spec=spec) for name, spec in BERTS.items()},
    "DebertaV2": deberta.Deberta,
    "Gemma3Text": gemma3.embedder,
    "ModernBert": modernbert.ModernBert,
}


@dataclass(frozen=True)
class FamilySpec:
    """A family, and the properties by which a checkpoint of it is recognised."""

    name: str
    models: str  # for people
    score: str  # meaning of the score, for people
    heads: tuple[Head, ...]
    backbones: tuple[str, ...]
    template: Template | None = None  # None: the tokenizer joins the two texts
    remote_code: str | None = None  # a module that config.json names
    modules: ModulesKind | None = None  # of modules.json, for ForCausalLM and Model


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
        "logit-score",
        "decoders that sentence-transformers saved with LogitScore, such as its revision of"
        " Qwen3-Reranker, each asked by its own chat template",
        "the true token's logit, less the false one's if there is one, through the activation that"
        " the checkpoint names",
        ("ForCausalLM",),
        tuple(DECODERS),
        modules="logit-score",
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
        "bge-reranker-v2-gemma, and others that FlagEmbedding makes of Gemma or Gemma 3",
        'logit("Yes")',
        ("ForCausalLM",),
        ("Gemma", "Gemma3"),
        BGE_RERANKER_GEMMA,
    ),
    FamilySpec(
        "cross-encoder",
        "ettin-reranker 17m, 32m, 68m, 150m, 400m, 1b and others of sentence-transformers' modules;"
        " ms-marco MiniLM, TinyBERT, ELECTRA; bge-reranker base, large, v2-m3; mxbai-rerank v1;"
        " gte-reranker-modernbert, granite-embedding-reranker; others with one logit, through"
        " optimum (edgerank[export]) where the architecture is none of these",
        "the logit, through the activation that the checkpoint names",
        ("ForSequenceClassification", "Model"),
        (*CLASSIFIERS, *DECODERS),
        modules="pooled-score",
    ),
    FamilySpec(
        "late-interaction",
        "LateOn, GTE-ModernColBERT, mxbai-edge-colbert, answerai-colbert-small and other ColBERT"
        " models of PyLate and sentence-transformers (MultiVectorEncoder); edgerank's own"
        " (python -m quantize.training)",
        "MaxSim: the largest cosines of the query's tokens, added up; of edgerank's own the sigmoid"
        " of a logit from the cosine, the nearest tokens and the words in common",
        ("Model", "ForLateInteraction"),
        tuple(TOKEN_ENCODERS),
        modules="token-vectors",
    ),
    FamilySpec(
        "embedding",
        "MiniLM, mpnet, bge, e5, EmbeddingGemma and other sentence-transformers models with mean or"
        " cls pooling",
        "the cosine of query and document",
        ("Model",),
        tuple(EMBEDDERS),
        modules="vector",
    ),
)


MODULES: dict[ModulesKind, str] = {
    "logit-score": "modules.json of a CrossEncoder with LogitScore",
    "pooled-score": "modules.json of a CrossEncoder with Pooling",
    "token-vectors": "modules.json without pooling",
    "vector": "modules.json with pooling",
}


def describe(family: FamilySpec) -> list[str]:
    """Describe a family in a few lines: how it is recognised, and what its scores mean."""
    modules = MODULES[family.modules] if family.modules else ""
    heads = (
        f"{head} with {modules}" if modules and head in ("Model", "ForCausalLM") else head
        for head in family.heads
    )
    recognized = f"{', '.join(family.backbones)} + {' or '.join(heads)}"
    if family.remote_code is not None:
        recognized += f", {family.remote_code} in auto_map"
    return [
        family.name,
        f"    models      {family.models}",
        f"    recognised  {recognized}",
        f"    score       {family.score}",
    ]
