"""edgerank: rerank documents on plain CPUs with int8 models, offline.

from edgerank import Reranker
"""

from typing import TYPE_CHECKING, Any

from edgerank.errors import BundleError, EdgerankError, InputError, ProviderError, ServerError
from edgerank.reranker import Hit, Reranker

if TYPE_CHECKING:
    from edgerank.client import AsyncClient, Client

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BundleError",
    "Client",
    "EdgerankError",
    "Hit",
    "InputError",
    "ProviderError",
    "Reranker",
    "ServerError",
]


def __getattr__(name: str) -> Any:
    """Load the clients, and gRPC with them, when they are asked for."""
    if name not in ("AsyncClient", "Client"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from edgerank import client

    return getattr(client, name)
