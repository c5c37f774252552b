"""Settings in the files of the tokenizer and of sentence-transformers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from edgerank.manifest import Activation
from quantize.checkpoint.files import Checkpoint
from quantize.errors import QuantizeError

Pooling = Literal["mean", "cls"]  # how an encoder pools the vectors of its tokens
AnyPooling = Literal[Pooling, "lasttoken"]  # and how a decoder does
Reading = Literal[Pooling, "tokens"]  # or keeps a vector for each token

ACTIVATIONS: dict[str | None, Activation] = {  # by the names of torch.nn
    "Identity": "identity",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
NonNegative = Annotated[int, msgspec.Meta(ge=0)]
ModulesKind = Literal["vector", "token-vectors", "pooled-score", "logit-score", "unknown-score"]
TOKENIZER_ARGUMENTS = {"max_length", "padding", "return_tensors", "truncation"}
DOCUMENT_PROMPTS = ("document", "passage", "corpus")  # in the order of encode_document


class Module(msgspec.Struct):
    """An entry of modules.json."""

    type: str = ""
    path: str = ""

    @property
    def name(self) -> str:
        return self.type.split(".")[-1]


class _TransformerSettings(msgspec.Struct):
    """sentence_bert_config.json"""

    max_seq_length: int | None = None
    modality_config: dict[str, dict[str, Any]] = {}
    processing_kwargs: dict[str, dict[str, Any] | None] | None = None


class TokenizerSettings(msgspec.Struct):
    """tokenizer_config.json"""

    model_max_length: float | None = None
    model_input_names: list[str] | None = None


class _ModelSettings(msgspec.Struct):
    """config_sentence_transformers.json"""

    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None
    activation_fn: str | None = None
    model_type: str | None = None  # the class that saved it


class _ActivationSettings(msgspec.Struct):
    activation_fn: str | None = None


class _CrossEncoderConfig(msgspec.Struct):
    """The settings of sentence-transformers in config.json, up to its version 4."""

    sentence_transformers: _ActivationSettings | None = None
    sbert_ce_default_activation_function: str | None = None


def has_modules(checkpoint: Checkpoint) -> bool:
    """Whether sentence-transformers saved the checkpoint with modules."""
    return checkpoint.json_as("modules.json", list[Module]) is not None


def modules_kind(checkpoint: Checkpoint) -> ModulesKind | None:
    """Return the kind of the modules; None for a Transformer alone, or without the file."""
    names = [module.name for module in modules_of(checkpoint)]
    settings = checkpoint.json_as("config_sentence_transformers.json", _ModelSettings)
    if settings is not None and settings.model_type == "CrossEncoder":
        if len(names) <= 1:
            return None
        if names[:2] == ["Transformer", "Pooling"]:
            return "pooled-score"
        return "logit-score" if names == ["Transformer", "LogitScore"] else "unknown-score"
    if "MultiVectorMask" in names or names[:2] == ["Transformer", "Dense"]:
        return "token-vectors"
    return "vector" if names else None


@dataclass(frozen=True)
class ChatSettings:
    """How sentence-transformers turns a pair of texts into messages of a chat."""

    has_parts: bool  # whether a message's content is a list of parts
    arguments: dict[str, Any]  # of the template
    restores_end: bool  # whether the text after the document is kept when it is cut


def chat_settings(checkpoint: Checkpoint) -> ChatSettings | None:
    """Read how pairs become messages; None if they do not.

    :raises QuantizeError: in a way that is not supported
    """
    settings = checkpoint.json_as("sentence_bert_config.json", _TransformerSettings)
    if settings is None or "message" not in settings.modality_config:
        return None
    kwargs = {name: values or {} for name, values in (settings.processing_kwargs or {}).items()}
    arguments = dict(kwargs.pop("chat_template", {}))
    restores_end = arguments.pop("restore_suffix", True)
    if any(kwargs.values()) or not TOKENIZER_ARGUMENTS.isdisjoint(arguments):
        raise QuantizeError(
            f"{checkpoint.directory / 'sentence_bert_config.json'}: processing_kwargs are supported"
            " for the variables of the chat template alone"
        )
    structured = settings.modality_config["message"].get("format") == "structured"
    return ChatSettings(structured, arguments, bool(restores_end))


class _LogitScoreSettings(msgspec.Struct):
    """config.json of a LogitScore module."""

    true_token_id: NonNegative
    false_token_id: NonNegative | None = None


def logit_score_tokens(checkpoint: Checkpoint) -> dict[int, float]:
    """Return the ids of the tokens by whose logits a LogitScore module scores, and their weights.

    :raises QuantizeError: its settings are missing
    """
    (path,) = (module.path for module in modules_of(checkpoint) if module.name == "LogitScore")
    settings = checkpoint.json_as(f"{path}/config.json", _LogitScoreSettings)
    if settings is None:
        raise QuantizeError(f"{checkpoint.directory / path}: no config.json; is it complete?")
    weights = {settings.true_token_id: 1.0}
    if settings.false_token_id is not None:
        weights[settings.false_token_id] = -1.0
    return weights


def longest_input(checkpoint: Checkpoint) -> int | None:
    """Return the maximum length in tokens in the files, None if there is none."""
    settings = checkpoint.json_as("sentence_bert_config.json", _TransformerSettings)
    if settings and settings.max_seq_length:
        return settings.max_seq_length
    tokenizer = checkpoint.json_as("tokenizer_config.json", TokenizerSettings)
    length = tokenizer.model_max_length if tokenizer else None
    return int(length) if length and length < 1e9 else None  # transformers writes 1e30 for none


def activation_of(checkpoint: Checkpoint) -> Activation:
    """Read the activation of a CrossEncoder; a sigmoid by default.

    :raises QuantizeError: it is one that is not supported
    """
    config = checkpoint.config_as(_CrossEncoderConfig)
    newer = checkpoint.json_as("config_sentence_transformers.json", _ModelSettings)
    settings = config.sentence_transformers
    name = (
        (newer.activation_fn if newer else None)
        or (settings.activation_fn if settings else None)
        or config.sbert_ce_default_activation_function
        or "torch.nn.modules.activation.Sigmoid"
    )
    activation = ACTIVATIONS.get(torch_class(name))
    if activation is None:
        raise QuantizeError(
            f"{checkpoint.directory / 'config.json'}: activation {name!r} is not supported;"
            " supported: Identity, Sigmoid and Tanh of torch.nn"
        )
    return activation


def torch_class(path: str) -> str | None:
    """Return the name of a class of torch.nn by its dotted path; None if it is another module's."""
    return path.split(".")[-1] if path.startswith("torch.nn.") else None


def embedding_prompts(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return the prompts of an embedding model for a query and for a document."""
    settings = checkpoint.json_as("config_sentence_transformers.json", _ModelSettings)
    settings = settings or _ModelSettings()
    prompts = {name: prompt or "" for name, prompt in settings.prompts.items()}
    default = prompts.get(settings.default_prompt_name or "", "")
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), default)
    return prompts.get("query", default) + "{query}", document + "{document}"


def pair_prompts(checkpoint: Checkpoint) -> tuple[bool, str]:
    """Return whether a CrossEncoder has prompts, and its default one, "" for none."""
    settings = checkpoint.json_as("config_sentence_transformers.json", _ModelSettings)
    if settings is None or settings.model_type != "CrossEncoder":
        return False, ""
    default = settings.prompts.get(settings.default_prompt_name or "")
    return any(settings.prompts.values()), default or ""


def modules_of(checkpoint: Checkpoint) -> list[Module]:
    """Return the modules of sentence-transformers in their order."""
    return checkpoint.json_as("modules.json", list[Module]) or []


FLAGS = {  # of older versions, by the mode that each stands for
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class _PoolingSettings(msgspec.Struct):
    """config.json of a Pooling module: its mode, or a flag for each in files of older versions."""

    pooling_mode: str | list[str] | None = None
    pooling_mode_cls_token: bool | None = None
    pooling_mode_max_tokens: bool | None = None
    pooling_mode_mean_tokens: bool | None = None
    pooling_mode_mean_sqrt_len_tokens: bool | None = None
    pooling_mode_weightedmean_tokens: bool | None = None
    pooling_mode_lasttoken: bool | None = None
    include_prompt: bool = True

    @property
    def modes(self) -> list[str]:
        if self.pooling_mode is not None:
            return [self.pooling_mode] if isinstance(self.pooling_mode, str) else self.pooling_mode
        flags = {name: getattr(self, name) for name in self.__struct_fields__ if name in FLAGS}
        if all(is_on is None for is_on in flags.values()):
            return []
        return [FLAGS[name] for name, is_on in flags.items() if is_on] or ["mean"]


def pooling_of(checkpoint: Checkpoint) -> AnyPooling:
    """Read how the vectors of tokens are pooled.

    :raises QuantizeError: in a way, or with modules, that are not supported
    """
    entries = modules_of(checkpoint)
    modules = " ".join(module.name for module in entries)
    if not re.fullmatch(r"Transformer Pooling( Dense| LayerNorm| Normalize| Dropout)*", modules):
        raise QuantizeError(
            f"{checkpoint.directory / 'modules.json'}: modules {modules.replace(' ', ', ')} are not"
            " supported; supported: Transformer, Pooling, perhaps Dense, LayerNorm, Normalize"
        )
    name = f"{entries[1].path}/config.json"
    settings = checkpoint.json_as(name, _PoolingSettings)
    path = checkpoint.directory / name
    if settings is None:
        raise QuantizeError(f"{path}: it is missing; is the checkpoint complete?")
    if not settings.include_prompt:
        raise QuantizeError(f"{path}: pooling without the prompt's tokens is not supported")
    if settings.modes == ["mean"]:
        return "mean"
    if settings.modes == ["cls"]:
        return "cls"
    if settings.modes == ["lasttoken"]:
        return "lasttoken"
    modes = ", ".join(settings.modes) or "none"
    raise QuantizeError(
        f"{path}: pooling mode {modes!r} is not supported; supported: mean and cls, and lasttoken"
        " of a decoder"
    )
