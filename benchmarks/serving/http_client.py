"""A caller over HTTP that costs the machine little: the load shares the server's cores."""

from __future__ import annotations

import asyncio
import re

import msgspec
import numpy as np

from edgerank import ServerError
from edgerank.ranking import Scores

STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpClient:
    """Scores by ``/v1/rerank``, on as many connections as there are calls at once."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.rpartition(":")
        self._free: list[Connection] = []

    async def score(
        self, query: str, documents: list[str], *, timeout: float | None = None
    ) -> Scores:
        """Score documents: float32 [len(documents)].

        :param timeout: seconds
        :raises ServerError: the server refuses; the code is the status
        """
        body = msgspec.json.encode({"query": query, "documents": documents, "raw_scores": True})
        deadline = "" if timeout is None else f"x-request-timeout: {timeout}\r\n"
        head = f"POST /v1/rerank HTTP/1.1\r\nhost: {self._host}\r\n{deadline}"
        content = await self._ask(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        scores = np.zeros(len(documents), np.float32)
        for result in content["results"]:
            scores[result["index"]] = result["relevance_score"]
        return scores

    async def aclose(self) -> None:
        """Close the connections."""
        for _, writer in self._free:
            writer.close()

    async def _connection(self) -> Connection:
        while self._free:
            reader, writer = self._free.pop()
            if not reader.at_eof():  # the server closes what is idle for long
                return reader, writer
            writer.close()
        return await asyncio.open_connection(self._host, self._port)

    async def _ask(self, request: bytes) -> dict:
        reader, writer = await self._connection()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        status, length = STATUS.match(head), LENGTH.search(head)
        assert status is not None and length is not None
        content = await reader.readexactly(int(length[1]))
        self._free.append((reader, writer))
        if status[1] != b"200":
            raise ServerError(status[1].decode(), content.decode())
        return msgspec.json.decode(content)
