"""Clients of ``edgerank serve``, with the calls of ``Reranker``.

Both retry what may succeed later, as the server asks, within the deadline of the call.
"""

from edgerank.client.aio import AsyncClient
from edgerank.client.blocking import Client
from edgerank.client.wire import ServedModel, TlsFiles

__all__ = ["AsyncClient", "Client", "ServedModel", "TlsFiles"]
