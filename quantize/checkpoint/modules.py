"""The modules of sentence-transformers after an encoder, listed in modules.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from edgerank.manifest import Positive
from quantize.checkpoint.files import Checkpoint, Floats, open_module
from quantize.checkpoint.sidecars import modules_of, torch_class
from quantize.errors import QuantizeError

# The input or output of a module: pooled rows, rows of tokens, or a cross-encoder's result.
Rows = Literal["sentence_embedding", "token_embeddings", "scores"]
DenseActivation = Literal["GELU", "Identity", "ReLU", "SiLU", "Sigmoid", "Tanh"]
DENSE_ACTIVATIONS: tuple[DenseActivation, ...] = (
    "GELU",
    "Identity",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Tanh",
)
READ_HERE = ("Dense", "LayerNorm", "Normalize")
LAYER_NORM_EPSILON = 1e-5  # of torch.nn.LayerNorm


class _DenseSettings(msgspec.Struct):
    """config.json of a Dense module."""

    in_features: Positive
    out_features: Positive
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    module_input_name: Rows | None = None
    module_output_name: Rows | None = None
    use_residual: bool = False


class _LayerNormSettings(msgspec.Struct):
    """config.json of a LayerNorm module."""

    dimension: Positive


class _NormalizeSettings(msgspec.Struct):
    """config.json of a Normalize module."""

    module_input_name: Rows = "sentence_embedding"
    module_output_name: Rows | None = None


@dataclass(frozen=True)
class DenseModule:
    """A linear layer over rows, with activation and residual."""

    weight: Floats  # [out, in]
    bias: Floats | None  # [out]
    activation: DenseActivation
    adds_rows: bool  # whether the input is added to the output
    residual: Floats | None  # [out, in], multiplies the input before that


@dataclass(frozen=True)
class LayerNormModule:
    """A norm of rows."""

    gain: Floats  # [width]
    bias: Floats  # [width]


@dataclass(frozen=True)
class NormalizeModule:
    """Rows become vectors of length 1."""


@dataclass(frozen=True)
class RowModules:
    """A chain of modules, each of which reads what the one before has written."""

    modules: tuple[DenseModule | LayerNormModule | NormalizeModule, ...]
    gives: Rows  # the output of the last module
    width: int


def row_modules(checkpoint: Checkpoint, width: int, reads: Rows) -> RowModules:
    """Load the modules that follow an encoder's rows, in their order.

    A Normalize at the end is left out: embeddings and token vectors get length 1 in any case.

    :param width: of the rows
    :param reads: the required input of the first module
    :raises QuantizeError: one reads something else or rows of another width, has an activation that
        is not supported, or lacks weights
    """
    entries = [entry for entry in modules_of(checkpoint) if entry.name in READ_HERE]
    if entries and entries[-1].name == "Normalize":
        entries.pop()
    chain = RowModules((), reads, width)
    for entry in entries:
        if entry.name == "Dense":
            chain = _dense(open_module(checkpoint, entry.path), chain)
        elif entry.name == "LayerNorm":
            chain = _layer_norm(open_module(checkpoint, entry.path), chain)
        else:
            chain = _normalize(checkpoint, entry.path, chain)
    return chain


def _dense(module: Checkpoint, chain: RowModules) -> RowModules:
    settings = module.config_as(_DenseSettings)
    reads = settings.module_input_name or chain.gives
    _check(module.directory, chain, reads, "in_features", settings.in_features)
    activation = next(
        (one for one in DENSE_ACTIVATIONS if one == torch_class(settings.activation_function)), None
    )
    if activation is None:
        raise QuantizeError(
            f"{module.directory / 'config.json'}: activation_function"
            f" {settings.activation_function!r} is not supported; supported: those of torch.nn"
            f" called {', '.join(DENSE_ACTIVATIONS)}"
        )
    shape = (settings.out_features, settings.in_features)
    has_residual = settings.use_residual and settings.in_features != settings.out_features
    dense = DenseModule(
        weight=module.tensor("linear.weight", *shape),
        bias=module.tensor("linear.bias", settings.out_features) if settings.bias else None,
        activation=activation,
        adds_rows=settings.use_residual,
        residual=module.tensor("residual.weight", *shape) if has_residual else None,
    )
    gives = settings.module_output_name or reads
    return RowModules((*chain.modules, dense), gives, settings.out_features)


def _layer_norm(module: Checkpoint, chain: RowModules) -> RowModules:
    width = module.config_as(_LayerNormSettings).dimension
    _check(module.directory, chain, "sentence_embedding", "dimension", width)
    gain, bias = (module.tensor(f"norm.{part}", width) for part in ("weight", "bias"))
    norm = LayerNormModule(gain, bias)
    return RowModules((*chain.modules, norm), "sentence_embedding", width)


def _normalize(checkpoint: Checkpoint, path: str, chain: RowModules) -> RowModules:
    settings = checkpoint.json_as(f"{path}/config.json", _NormalizeSettings)
    settings = settings or _NormalizeSettings()  # older versions saved none
    reads = settings.module_input_name
    _check(checkpoint.directory / path, chain, reads, "width", chain.width)
    gives = settings.module_output_name or reads
    return RowModules((*chain.modules, NormalizeModule()), gives, chain.width)


def _check(directory: Path, chain: RowModules, reads: Rows, name: str, width: int) -> None:
    """Check that a module reads what the one before it gives.

    :raises QuantizeError: it does not
    """
    where = directory / "config.json"
    if reads != chain.gives:
        raise QuantizeError(
            f"{where}: the module reads {reads!r}, but the one before it writes {chain.gives!r};"
            " only chains are supported"
        )
    if width != chain.width:
        raise QuantizeError(
            f"{where}: {name} is {width}, but the module before gives out {chain.width}"
        )
