"""Chooses the variant of a bundle that runs on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnxruntime as ort

from edgerank.bundle import Bundle
from edgerank.cpu import instruction_sets
from edgerank.cuda import INSTALL
from edgerank.errors import InputError, ProviderError
from edgerank.gpu import Gpu, visible_gpus
from edgerank.kernels import DOMAIN, Kernels
from edgerank.manifest import Variant
from edgerank.providers import provider_name, runs


@dataclass(frozen=True)
class Capabilities:
    """The capabilities of a machine that variants may need."""

    providers: tuple[str, ...]  # of the installed onnxruntime
    instruction_sets: frozenset[str]
    libraries: frozenset[str]  # of custom operators
    find_gpus: Callable[[], tuple[Gpu, ...]]

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """The GPUs of this process; the driver is asked the first time that they matter."""
        return self.find_gpus()


@dataclass(frozen=True)
class ChosenVariant:
    """The chosen variant, its provider, and the reason for the choice."""

    variant: Variant
    provider: str  # the variant's own, or another one that was asked for
    reason: str

    @property
    def name(self) -> str:
        return self.variant.name

    def __str__(self) -> str:
        return f"{self.variant.name} on {self.provider}: {self.reason}"


def machine_capabilities(kernels: Kernels) -> Capabilities:
    """Find out the capabilities of this machine.

    :param kernels: the chosen kernels; a variant may need the library of kernels
    """
    return Capabilities(
        providers=tuple(ort.get_available_providers()),
        instruction_sets=instruction_sets(),
        libraries=frozenset({DOMAIN}) if kernels.are_compiled else frozenset(),
        find_gpus=visible_gpus,
    )


def choose_variant(
    bundle: Bundle,
    machine: Capabilities,
    name: str | None = None,
    providers: Sequence[str] | None = None,
) -> ChosenVariant:
    """Choose the variant to run: the first in the bundle's order that the machine can run.

    :param name: name of the variant to run, whatever the order
    :param providers: execution providers to choose among, the preferred one first, by ONNX
        Runtime's names or as "cpu", "cuda", "tensorrt"; the bundle's order by default
    :raises InputError: the bundle has no variant of that name, or none for these providers
    :raises ProviderError: a provider is not installed, or the machine lacks what every variant
        needs
    """
    if providers is not None:
        providers = [provider_name(asked) for asked in providers]
    for provider in providers or ():
        if provider not in machine.providers:
            raise ProviderError(
                f"{provider} is not available: the installed onnxruntime has"
                f" {', '.join(machine.providers)} ({INSTALL} brings CUDA)"
            )
    passed_over: list[str] = []
    for variant, provider in _candidates(bundle, name, providers):
        missing = list(_missing(variant, machine))
        if not missing:
            return ChosenVariant(variant, provider, _reason(name, providers, passed_over))
        passed_over.append(f"{variant.name} needs {' and '.join(missing)}")
    raise ProviderError(f"{bundle.directory}: this machine cannot run it: {'; '.join(passed_over)}")


def _candidates(
    bundle: Bundle, name: str | None, providers: Sequence[str] | None
) -> Iterator[tuple[Variant, str]]:
    """Yield the allowed variants, the preferred one first, each with its provider."""
    variants = bundle.manifest.variants
    if name is not None:
        variants = tuple(variant for variant in variants if variant.name == name)
        if not variants:
            known = ", ".join(variant.name for variant in bundle.manifest.variants)
            raise InputError("variant", f"{name!r} is not in the bundle; it has {known}")
    if providers is None:
        yield from ((variant, variant.provider) for variant in variants)
        return
    wanted = [
        (variant, provider)
        for provider in providers
        for variant in variants
        if runs(provider, variant.provider)
    ]
    if not wanted:
        known = ", ".join(f"{variant.name} ({variant.provider})" for variant in variants)
        asked = ", ".join(providers) or "none"
        raise InputError("providers", f"{asked}: the bundle has no variant for it; it has {known}")
    yield from wanted


def _missing(variant: Variant, machine: Capabilities) -> Iterator[str]:
    """List the needs of a variant that the machine does not meet."""
    needs = variant.needs
    if variant.provider not in machine.providers:
        yield f"{variant.provider}, and onnxruntime has {', '.join(machine.providers)}"
    yield from (name for name in needs.instruction_sets if name not in machine.instruction_sets)
    yield from (name for name in needs.libraries if name not in machine.libraries)
    if needs.gpu and not machine.gpus:
        yield "a GPU, and no NVIDIA driver shows one"


def _reason(name: str | None, providers: Sequence[str] | None, passed_over: Sequence[str]) -> str:
    """Return the reason for the choice of a variant."""
    if name is not None:
        return "asked for by name"
    by = "the bundle's order" if providers is None else "the order of the providers asked for"
    return "; ".join([f"the first in {by} that this machine can run", *passed_over])
