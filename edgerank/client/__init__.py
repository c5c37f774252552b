"""Clients of ``edgerank serve``, with the calls of ``Reranker``.

Both retry what may succeed later, as the server asks, within the deadline of the call.
"""

from edgerank.client.async_client import AsyncClient
from edgerank.client.client import Client
from edgerank.client.messages import ServedModel, TlsFiles

__all__ = ["AsyncClient", "Client", "ServedModel", "TlsFiles"]
