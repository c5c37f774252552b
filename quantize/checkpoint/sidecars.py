"""What the files beside a checkpoint's weights say: the tokenizer's, and sentence-transformers'."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from edgerank.manifest import Activation, Positive
from quantize.checkpoint.files import Checkpoint, Floats, open_module
from quantize.errors import QuantizeError

Pooling = Literal["mean", "cls"]  # how an embedding model makes one vector of its tokens'
Reading = Literal[Pooling, "tokens"]  # or leaves each token its own
DenseRows = Literal["sentence_embedding", "token_embeddings"]  # what Dense modules read

ACTIVATIONS: dict[str, Activation] = {
    "torch.nn.modules.linear.Identity": "identity",
    "torch.nn.modules.activation.Sigmoid": "sigmoid",
    "torch.nn.modules.activation.Tanh": "tanh",
}
DENSE_ACTIVATIONS: dict[str, Literal["Identity", "Gelu", "Tanh"]] = {
    "GELU": "Gelu",
    "Identity": "Identity",
    "Tanh": "Tanh",
}
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


class TokenizerSettings(msgspec.Struct):
    """tokenizer_config.json"""

    model_max_length: float | None = None
    model_input_names: list[str] | None = None


class _ModelSettings(msgspec.Struct):
    """config_sentence_transformers.json"""

    prompts: dict[str, str | None] = {}
    default_prompt_name: str | None = None
    activation_fn: str | None = None


class _ActivationSettings(msgspec.Struct):
    activation_fn: str | None = None


class _CrossEncoderConfig(msgspec.Struct):
    """What sentence-transformers kept in config.json: in its version 4, and before."""

    sentence_transformers: _ActivationSettings | None = None
    sbert_ce_default_activation_function: str | None = None


def has_modules(checkpoint: Checkpoint) -> bool:
    """Say whether sentence-transformers saved the checkpoint with modules of its own."""
    return checkpoint.json_as("modules.json", list[Module]) is not None


def gives_token_vectors(checkpoint: Checkpoint) -> bool:
    """Say whether the modules leave each token a vector: that is late interaction."""
    names = [module.name for module in modules_of(checkpoint)]
    return "MultiVectorMask" in names or names[:2] == ["Transformer", "Dense"]


def longest_input(checkpoint: Checkpoint) -> int | None:
    """Return the maximum length in tokens that the files name, if they do."""
    settings = checkpoint.json_as("sentence_bert_config.json", _TransformerSettings)
    if settings and settings.max_seq_length:
        return settings.max_seq_length
    tokenizer = checkpoint.json_as("tokenizer_config.json", TokenizerSettings)
    length = tokenizer.model_max_length if tokenizer else None
    return int(length) if length and length < 1e9 else None  # transformers writes 1e30 for none


def activation_of(checkpoint: Checkpoint) -> Activation:
    """Read which activation a CrossEncoder applies; a sigmoid unless a file says.

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
    if name not in ACTIVATIONS:
        raise QuantizeError(
            f"{checkpoint.directory / 'config.json'}: activation {name!r} is not supported;"
            f" supported: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def embedding_prompts(checkpoint: Checkpoint) -> tuple[str, str]:
    """Return what an embedding model reads for a query and for a document."""
    settings = checkpoint.json_as("config_sentence_transformers.json", _ModelSettings)
    settings = settings or _ModelSettings()
    prompts = {name: prompt or "" for name, prompt in settings.prompts.items()}
    default = prompts.get(settings.default_prompt_name or "", "")
    document = next((prompts[name] for name in DOCUMENT_PROMPTS if name in prompts), default)
    return prompts.get("query", default) + "{query}", document + "{document}"


def modules_of(checkpoint: Checkpoint) -> list[Module]:
    """Return the modules of sentence-transformers in their order."""
    return checkpoint.json_as("modules.json", list[Module]) or []


def pooling_of(checkpoint: Checkpoint) -> Pooling:
    """Read how an embedding model makes one vector of its tokens'.

    :raises QuantizeError: in a way, or with modules, that are not supported
    """
    modules = " ".join(module.name for module in modules_of(checkpoint))
    if not re.fullmatch(r"Transformer Pooling( Dense)*( Normalize)?", modules):
        raise QuantizeError(
            f"{checkpoint.directory / 'modules.json'}: modules {modules.replace(' ', ', ')} are not"
            " supported; supported: Transformer, Pooling, perhaps Dense, Normalize"
        )
    path = checkpoint.directory / "1_Pooling/config.json"
    settings = checkpoint.json_as("1_Pooling/config.json", dict[str, Any]) or {}
    mode: str = settings.get("pooling_mode") or ", ".join(
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, is_on in settings.items()  # one flag a mode before sentence-transformers 5.3
        if name.startswith("pooling_mode_") and is_on
    )
    if settings.get("include_prompt") is False:
        raise QuantizeError(f"{path}: pooling without the prompt's tokens is not supported")
    if mode == "mean":
        return "mean"
    if mode == "cls":
        return "cls"
    raise QuantizeError(
        f"{path}: pooling mode {mode or 'none'!r} is not supported; supported: mean, cls"
    )


class _DenseSettings(msgspec.Struct):
    """config.json of a Dense module."""

    in_features: Positive
    out_features: Positive
    bias: bool = True
    activation_function: Literal[
        "torch.nn.modules.linear.Identity",
        "torch.nn.modules.activation.GELU",
        "torch.nn.modules.activation.Tanh",
    ] = "torch.nn.modules.activation.Tanh"
    module_input_name: DenseRows | None = None
    module_output_name: DenseRows | None = None
    use_residual: bool = False


@dataclass(frozen=True)
class DenseModule:
    """A linear layer over rows, and what follows it."""

    weight: Floats  # [out, in]
    bias: Floats | None  # [out]
    activation: Literal["Identity", "Gelu", "Tanh"]  # an operator of ONNX
    adds_rows: bool  # whether what it reads is added to what it gives
    residual: Floats | None  # [out, in], by which what it reads is multiplied before that


def dense_modules(
    checkpoint: Checkpoint, width: int, reads: DenseRows = "sentence_embedding"
) -> list[DenseModule]:
    """Load the Dense modules, in their order.

    :param width: of the rows
    :param reads: the rows that they are to read and write
    :raises QuantizeError: one has another activation, reads other rows or lacks weights
    """
    found = []
    for entry in modules_of(checkpoint):
        if entry.name != "Dense":
            continue
        module = open_module(checkpoint, entry.path)
        settings = module.config_as(_DenseSettings)
        if settings.in_features != width:
            raise QuantizeError(
                f"{module.directory / 'config.json'}: in_features is {settings.in_features}, but"
                f" the module before gives out {width}"
            )
        names = (settings.module_input_name, settings.module_output_name)
        if any(name not in (None, reads) for name in names):
            raise QuantizeError(
                f"{module.directory / 'config.json'}: module_input_name and module_output_name are"
                f" not supported but for {reads!r}"
            )
        shape = (settings.out_features, settings.in_features)
        width = settings.out_features
        has_residual = settings.use_residual and settings.in_features != width
        activation = settings.activation_function.split(".")[-1]
        found.append(
            DenseModule(
                weight=module.tensor("linear.weight", *shape),
                bias=module.tensor("linear.bias", width) if settings.bias else None,
                activation=DENSE_ACTIVATIONS[activation],
                adds_rows=settings.use_residual,
                residual=module.tensor("residual.weight", *shape) if has_residual else None,
            )
        )
    return found
