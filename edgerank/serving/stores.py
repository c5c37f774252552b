"""The served stores by name, each with the model that encoded its documents."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgerank.errors import EdgerankError, InputError, StoreError
from edgerank.serving.errors import NotReady
from edgerank.serving.models import LoadedModel, Models
from edgerank.store.format import read_binding
from edgerank.store.store import DocumentStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedStore:
    """An open store with its name."""

    name: str
    store: DocumentStore
    model: LoadedModel


class Stores:
    """The stores, the default one first. A request keeps its state of a store during a reload."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths
        self._stores: dict[str, LoadedStore] = {}

    def load(self, models: Models) -> None:
        """Open all.

        :raises EdgerankError: a store is unusable, or its model is not served
        """
        self._stores = {name: _open_store(name, path, models) for name, path in self._paths.items()}

    def reload(self, models: Models) -> None:
        """Read all stores again; after a failure the old state is kept."""
        for name, path in self._paths.items():
            try:
                opened = _open_store(name, path, models)
            except EdgerankError as error:
                log.error("reload failed", extra={"store": name, "reason": str(error)})
                continue
            self._stores = {**self._stores, name: opened}

    def get(self, name: str, model: str) -> LoadedStore:
        """Return a store, the first for the empty name.

        :param model: the model that the request names; empty: the store's
        :raises NotReady: the stores are still being loaded
        :raises InputError: there is none of that name, or the model is another's
        """
        stores = self._stores
        if not self._paths:
            raise InputError("store", "this server has no store of documents")
        if not stores:
            raise NotReady("the stores are being loaded")
        if name and name not in stores:
            raise InputError("store", f"no store has that name; there are: {', '.join(stores)}")
        found = stores[name] if name else next(iter(stores.values()))
        if model and model != found.model.name:
            raise InputError("model", f"the store {found.name} is of the model {found.model.name}")
        return found


def _open_store(name: str, path: Path, models: Models) -> LoadedStore:
    binding = read_binding(path)
    model = next((each for each in models.all() if each.digest == binding.bundle), None)
    if model is None:
        raise StoreError(
            f"{path}: its model {binding.model}, with digest {binding.bundle[:12]}, is not served;"
            " give its bundle with --model"
        )
    store = DocumentStore.open(path, model.reranker)
    if len(store):
        store.score("who wrote dune?", store.ids[:1])  # numba compiles, if it compares
    log.info(
        "loaded",
        extra={
            "store": name,
            "model": model.name,
            "documents": len(store),
            "backend": store.backend,
        },
    )
    return LoadedStore(name, store, model)
