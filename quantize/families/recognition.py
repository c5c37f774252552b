"""Which family a checkpoint is of, by its files."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from tokenizers import Tokenizer

from edgerank.errors import InputError
from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.sidecars import (
    ModulesKind,
    chat_settings,
    has_modules,
    modules_kind,
)
from quantize.errors import QuantizeError
from quantize.families.families import (
    CLASSIFIERS,
    DECODERS,
    FAMILIES,
    FamilySpec,
    Head,
)
from quantize.families.model_spec import OptimumModel, RecognizedModel
from quantize.families.pair_models import CROSS_ENCODER, cross_encoder, decoder, for_optimum
from quantize.families.templates import Template
from quantize.families.vector_models import embedding, late_interaction, pair_late_interaction

STANFORD = "HF_ColBERT"  # what Stanford's own code calls its BERT
MASKED_LM = "ForMaskedLM"  # a head that sentence-transformers does not load


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
            return for_optimum(checkpoint, tokenizer, architecture)
        raise _not_supported(checkpoint, architecture, head, name)
    if head == "ForLateInteraction":
        return pair_late_interaction(checkpoint, tokenizer, family, backbone)
    if family.modules == "token-vectors":
        return late_interaction(checkpoint, tokenizer, family, backbone)
    if family.modules == "vector":
        return embedding(checkpoint, tokenizer, family, backbone)
    template = template or family.template
    is_chat = not is_chosen and head == "ForSequenceClassification" and chat_settings(checkpoint)
    if template is not None and not is_chat:
        return decoder(checkpoint, tokenizer, family, template, backbone, head)
    return cross_encoder(checkpoint, tokenizer, family, backbone, kind)


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
