"""Clients of ``edgerank serve``, with the methods of ``Reranker``.

Both retry calls that may succeed later, within the time-out of the call, and wait as long as the
server asks.
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
