"""``AsyncClient``: the methods of ``Client`` for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Iterable
from types import TracebackType
from typing import Any, TypeVar

import grpc.aio

from edgerank.client.connection import (
    MAX_ATTEMPTS,
    TIMEOUT_S,
    Connection,
    TlsFiles,
    closed_error,
)
from edgerank.client.failures import request_id_of
from edgerank.client.messages import (
    Exchange,
    R,
    models_exchange,
    options_of,
    pairs_exchange,
    rank_exchange,
    score_exchange,
    stored_exchange,
    stream_chunk,
    stream_scores,
    stream_start,
)
from edgerank.client.results import Ranking, ScoreArray, ServedModel
from edgerank.client.streaming import chunks, collect, keep_status
from edgerank.documents import Document, LongDocuments, as_documents

T = TypeVar("T")


class AsyncClient:
    """``Client`` for asyncio, in one event loop.

    Documents and pairs may also be async iterables. Cancelling the task of a call also cancels the
    call on the server.

        async with AsyncClient("localhost:50051") as client:
            for hit in await client.rank("who wrote dune?", documents, top_k=5):
                print(hit.score, hit.index, hit.document)
    """

    def __init__(
        self,
        target: str,
        *,
        tls: TlsFiles | None = None,
        token: str | None = None,
        timeout: float = TIMEOUT_S,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        """Prepare a connection; parameters and errors are those of ``Client``."""
        self._connection = Connection(
            grpc.aio, target, tls=tls, token=token, timeout=timeout, max_attempts=max_attempts
        )

    async def rank(
        self,
        query: str,
        documents: Iterable[Document] | AsyncIterable[Document],
        *,
        top_k: int | None = None,
        return_documents: bool = True,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Ranking:
        """Rank documents; parameters and errors are those of ``Client.rank``."""
        options = options_of(model, instruction, normalize, long_documents)
        items = await collect(documents)
        exchange = rank_exchange(query, items, options, top_k, return_documents)
        return await self._exchange(exchange, timeout)

    async def rank_stored(
        self,
        query: str,
        ids: Iterable[str],
        *,
        store: str | None = None,
        top_k: int | None = None,
        instruction: str | None = None,
        normalize: bool = False,
        timeout: float | None = None,
    ) -> Ranking:
        """Rank documents of a store; parameters and errors are those of ``Client.rank_stored``."""
        options = options_of(None, instruction, normalize, None)
        return await self._exchange(stored_exchange(query, ids, options, store, top_k), timeout)

    async def score(
        self,
        query: str,
        documents: Iterable[Document] | AsyncIterable[Document],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> ScoreArray:
        """Score documents against a query: float32 [len(documents)], in input order.

        Parameters and errors are those of ``Client.score``.
        """
        options = options_of(model, instruction, normalize, long_documents)
        exchange = score_exchange(query, await collect(documents), options)
        return await self._exchange(exchange, timeout)

    async def score_pairs(
        self,
        pairs: Iterable[tuple[str, Document]] | AsyncIterable[tuple[str, Document]],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> ScoreArray:
        """Score (query, document) pairs: float32 [len(pairs)], in input order.

        Parameters and errors are those of ``Client.score_pairs``.
        """
        options = options_of(model, instruction, normalize, long_documents)
        return await self._exchange(pairs_exchange(await collect(pairs), options), timeout)

    def score_stream(
        self,
        query: str,
        documents: Iterable[Document] | AsyncIterable[Document],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[tuple[int, float], None]:
        """Yield (index, score) as soon as documents are scored, as ``Client.score_stream`` does.

        Documents are read in a separate task. Parameters and errors are those of
        ``Client.score_stream``.
        """
        start = stream_start(query, options_of(model, instruction, normalize, long_documents))
        if not isinstance(documents, AsyncIterable):
            documents = as_documents(documents)
        call_options = self._connection.call_options(timeout)
        self._connection.method("RerankStream")
        return self._stream(start, documents, call_options)

    async def models(self, *, timeout: float | None = None) -> list[ServedModel]:
        """List the server's models, the default one first; errors are those of ``Client.rank``."""
        return await self._exchange(models_exchange(), timeout)

    async def aclose(self) -> None:
        """Close the connection; calls in progress and later ones raise ``EdgerankError``."""
        channel = self._connection.close()
        if channel is not None:
            await channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _exchange(self, exchange: Exchange[R], timeout: float | None) -> R:
        call_options = self._connection.call_options(timeout)
        call = self._connection.method(exchange.method)(exchange.request, **call_options)
        try:
            response = await self._finished(call)
            return exchange.read(response, request_id_of(await call.trailing_metadata()))
        finally:
            call.cancel()

    async def _stream(
        self,
        start: Any,
        documents: Iterable[Document] | AsyncIterable[Document],
        call_options: dict[str, Any],
    ) -> AsyncGenerator[tuple[int, float], None]:
        failures: list[Exception] = []  # from reading documents, which gRPC does in its own task

        async def requests() -> AsyncIterator[Any]:
            yield start
            first = 0
            try:
                async for chunk in chunks(documents):
                    yield stream_chunk(chunk, first)
                    first += len(chunk)
            except Exception as error:
                failures.append(error)

        call = self._connection.method("RerankStream")(requests(), **call_options)
        keep_status(call)
        try:
            while (response := await self._finished(call.read())) is not grpc.aio.EOF:
                for result in stream_scores(response):
                    yield result
        finally:
            call.cancel()
        if failures:
            raise failures[0]

    async def _finished(self, operation: Awaitable[T]) -> T:
        """Wait for a step of a call, in another task.

        gRPC cancels calls when their channel is closed. In this task, that would look as if the
        caller had cancelled it.
        """
        step = asyncio.ensure_future(operation)
        await asyncio.wait({step})
        if step.cancelled():
            raise closed_error()
        with self._connection.errors():
            return step.result()
