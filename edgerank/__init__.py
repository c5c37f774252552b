"""edgerank: rerank documents on plain CPUs with int8 models, offline.

from edgerank import Reranker
"""

from typing import TYPE_CHECKING, Any

from edgerank.errors import BundleError, EdgerankError, InputError, ProviderError, ServerError
from edgerank.reranker import Hit, Reranker

if TYPE_CHECKING:
    from edgerank.client import AsyncClient as AsyncClient
    from edgerank.client import Client as Client

__version__ = "0.1.0"

# the clients are not among these: what imports all of them shall not need gRPC
__all__ = [
    "BundleError",
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
    try:
        from edgerank import client
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"edgerank.{name} needs {error.name}: pip install 'edgerank[client]'", name=error.name
        ) from error
    return getattr(client, name)
