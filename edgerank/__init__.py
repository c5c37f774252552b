"""edgerank: rerank documents on ordinary CPUs with int8 models, without a network.

    for hit in Reranker().rank("who wrote dune?", documents, top_k=5):
        print(hit.score, hit.index, hit.document)

``Reranker`` ranks in this process, ``DocumentStore`` ranks documents that were encoded before, and
``Client`` and ``AsyncClient`` ask a server. Errors are subclasses of ``EdgerankError``.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from edgerank.documents import Document, LongDocuments
from edgerank.errors import (
    BatchError,
    BundleError,
    DeadlineExceeded,
    EdgerankError,
    InputError,
    Overloaded,
    ProviderError,
    RequestTooLarge,
    ServerError,
    ServerFailure,
    StoreError,
    Unauthenticated,
    Unavailable,
    UnknownModel,
)
from edgerank.ranking import Hit

if TYPE_CHECKING:
    from edgerank.bundle import Bundle as Bundle
    from edgerank.client import AsyncClient as AsyncClient
    from edgerank.client import Client as Client
    from edgerank.reranker import Reranker as Reranker
    from edgerank.store.store import DocumentStore as DocumentStore

__version__ = "0.1.0"

# ONNX Runtime sends telemetry, on Linux from 1.29 on, unless this is set before it loads
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# loaded on first use: a client needs no onnxruntime, and a reranker no gRPC
_MODULES = {
    "AsyncClient": "edgerank.client",
    "Bundle": "edgerank.bundle",
    "Client": "edgerank.client",
    "DocumentStore": "edgerank.store.store",
    "Reranker": "edgerank.reranker",
}

# without the clients, so that `from edgerank import *` needs no gRPC
__all__ = [
    "BatchError",
    "Bundle",
    "BundleError",
    "DeadlineExceeded",
    "Document",
    "DocumentStore",
    "EdgerankError",
    "Hit",
    "InputError",
    "LongDocuments",
    "Overloaded",
    "ProviderError",
    "RequestTooLarge",
    "Reranker",
    "ServerError",
    "ServerFailure",
    "StoreError",
    "Unauthenticated",
    "Unavailable",
    "UnknownModel",
]


def __getattr__(name: str) -> Any:
    """Load a class, and the libraries that it needs, on first use."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES[name]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if module != "edgerank.client":
            raise
        raise ModuleNotFoundError(
            f"edgerank.{name} needs {error.name}: pip install 'edgerank[client]'", name=error.name
        ) from error
