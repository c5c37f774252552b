"""The served models by name; each can be replaced while requests use it.

A model that runs on GPUs is opened once for each of them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edgerank.bundle import sha256_of
from edgerank.errors import EdgerankError, InputError
from edgerank.gpu import visible_gpus
from edgerank.manifest import MANIFEST_NAME
from edgerank.providers import GPU_PROVIDERS
from edgerank.reranker import Reranker
from edgerank.serving.errors import NoSuchModel, NotReady
from edgerank.serving.settings import (
    DEVICES,
    KERNELS,
    MAX_BATCH_TOKENS,
    MAX_LENGTH,
    PROVIDERS,
    THREADS,
    TRUST,
    WARMUP,
)

WARMUP_DOCUMENTS = ["Dune was written by Frank Herbert.", "Paris is the capital of France. " * 40]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSettings:
    """Settings for opening bundles."""

    threads: int | None = THREADS.default
    providers: Sequence[str] = PROVIDERS.default  # empty: the bundle's order
    devices: str | None = DEVICES.default  # numbers of GPUs; None: all
    kernels: str | None = KERNELS.default
    max_length: int | None = MAX_LENGTH.default
    max_batch_tokens: int | None = MAX_BATCH_TOKENS.default
    warmup: bool = WARMUP.default
    trust: Path | None = TRUST.default

    @cached_property
    def gpus(self) -> Sequence[int]:
        """Numbers of the GPUs that models may run on; without ``devices`` they are counted once.

        :raises InputError: they are not numbers with commas between them, or one is there twice
        """
        if self.devices is None:
            return range(len(visible_gpus()))
        words = [word.strip() for word in self.devices.split(",")]
        if not all(word.isdecimal() for word in words) or len(set(words)) < len(words):
            raise InputError(
                "devices", f"expected numbers of GPUs such as 0,1, got {self.devices!r}"
            )
        return [int(word) for word in words]

    @property
    def num_engines(self) -> int:
        """Return the number of engines: one for each GPU, or one for the CPU.

        :raises InputError: ``devices`` is unusable
        """
        return max(1, len(self.gpus))


@dataclass(frozen=True)
class LoadedModel:
    """An open bundle with its name."""

    name: str
    rerankers: tuple[Reranker, ...]  # one for each engine

    @property
    def reranker(self) -> Reranker:
        """The first reranker; all are alike."""
        return self.rerankers[0]

    @property
    def digest(self) -> str:
        """The sha256 of the bundle's manifest, hexadecimal."""
        return self.reranker.bundle.digest

    @property
    def entry(self) -> dict[str, object]:
        """Fields for the log: the bundle, the variant and the kernels, with reasons."""
        return {
            "model": self.name,
            "digest": self.digest,
            "variant": str(self.reranker.variant),
            "kernels": str(self.reranker.kernels),
            "engines": len(self.rerankers),
        }


class Models:
    """The models, the default one first. A request keeps its model during a reload."""

    def __init__(self, paths: Mapping[str, Path], settings: ModelSettings) -> None:
        self._paths = paths
        self._settings = settings
        self._models: dict[str, LoadedModel] = {}

    def load(self) -> None:
        """Open all.

        :raises EdgerankError: a bundle or a setting is unusable
        """
        self._models = {
            name: open_model(name, path, self._settings) for name, path in self._paths.items()
        }
        for model in self._models.values():
            log.info("loaded", extra=model.entry)

    def reload(self) -> None:
        """Reopen bundles whose manifests have changed; after a failure the old one is kept."""
        for name, path in self._paths.items():
            try:
                if _digest(path) == self._models[name].digest:
                    continue
                model = open_model(name, path, self._settings)
            except EdgerankError as error:
                log.error("reload failed", extra={"model": name, "reason": str(error)})
                continue
            self._models = {**self._models, name: model}
            log.info("reloaded", extra=model.entry)

    def get(self, name: str) -> LoadedModel:
        """Return a model, the first for the empty name.

        :raises NotReady: the models are still being loaded
        :raises NoSuchModel: there is none of that name
        """
        models = self._models
        if not models:
            raise NotReady("the models are being loaded")
        if not name:
            return next(iter(models.values()))
        if name not in models:
            raise NoSuchModel(f"no model has that name; there are: {', '.join(models)}")
        return models[name]

    def all(self) -> Sequence[LoadedModel]:
        """Return all models, the default one first.

        :raises NotReady: the models are still being loaded
        """
        self.get("")
        return list(self._models.values())


def open_model(name: str, path: Path, settings: ModelSettings) -> LoadedModel:
    """Open a bundle on each GPU, or on the CPU; with warm-up, score with it once.

    :raises EdgerankError: the bundle or a setting is unusable
    """
    gpus = settings.gpus
    first = _open(path, settings, gpus[0] if gpus else 0)
    rerankers = [first]
    if first.variant.provider in GPU_PROVIDERS:
        rerankers += [_open(path, settings, gpu) for gpu in gpus[1:]]
    elif settings.devices is not None:
        raise InputError("devices", f"{name} does not run on a GPU: its variant is {first.variant}")
    return LoadedModel(name, tuple(rerankers))


def _open(path: Path, settings: ModelSettings, gpu: int) -> Reranker:
    reranker = Reranker(
        path,
        threads=settings.threads,
        providers=settings.providers or None,
        device=gpu,
        kernels=settings.kernels,
        max_length=settings.max_length,
        max_batch_tokens=settings.max_batch_tokens,
        trust=settings.trust,
    )
    if settings.warmup:
        reranker.score("who wrote dune?", WARMUP_DOCUMENTS)
    return reranker


def _digest(path: Path) -> str:
    try:
        return sha256_of(path / MANIFEST_NAME)
    except OSError:
        return ""  # opening the bundle will raise the error
