"""edgerank: rerank documents on plain CPUs with int8 models, offline.

from edgerank import Reranker
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

# ONNX Runtime reports to its makers, on Linux too from 1.29 on, unless it is told before it loads
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# loaded when they are asked for: a client needs no onnxruntime, and a reranker no gRPC
_MODULES = {
    "AsyncClient": "edgerank.client",
    "Bundle": "edgerank.bundle",
    "Client": "edgerank.client",
    "DocumentStore": "edgerank.store.store",
    "Reranker": "edgerank.reranker",
}

# the clients are not among these: what imports all of them shall not need gRPC
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
    """Load a class, and the libraries that it needs, when it is asked for."""
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
