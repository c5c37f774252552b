"""Clients of ``edgerank serve``, with the calls of ``Reranker``.

Both retry what may succeed later, as the server asks, within the time-out of the call.
"""

from edgerank.client.async_client import AsyncClient
from edgerank.client.client import Client
from edgerank.client.connection import TlsFiles
from edgerank.client.results import Ranking, ScoreArray, ServedModel, Timings, Usage

__all__ = [
    "AsyncClient",
    "Client",
    "Ranking",
    "ScoreArray",
    "ServedModel",
    "Timings",
    "TlsFiles",
    "Usage",
]
