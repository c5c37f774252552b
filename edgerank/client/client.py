"""``Client``: blocking calls of a server."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import Any

import grpc

from edgerank.client.connection import MAX_ATTEMPTS, TIMEOUT_S, Connection, TlsFiles
from edgerank.client.failures import request_id_of
from edgerank.client.messages import (
    CHUNK,
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
from edgerank.closing import Closing
from edgerank.documents import Document, LongDocuments, as_documents


class Client(Closing):
    """A client of a server over gRPC. Several threads may share it.

        with Client("localhost:50051") as client:
            for hit in client.rank("who wrote dune?", documents, top_k=5):
                print(hit.score, hit.index, hit.document)

    The first call opens the connection. Keep a client for many calls: every client opens its own
    connection. ``close``, or the end of a ``with`` block, closes it.
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
        """Prepare a connection.

        :param target: address of the server: HOST:PORT or unix:PATH
        :param tls: certificates for TLS; ``TlsFiles()`` trusts the system's authorities. The
            default is no TLS
        :param token: bearer token to send with every call
        :param timeout: default time-out of a call, in seconds
        :param max_attempts: how often to send a call while the server is busy or unavailable, from
            1 to 5
        :raises InputError: an argument is unusable, or a file cannot be read
        """
        self._connection = Connection(
            grpc, target, tls=tls, token=token, timeout=timeout, max_attempts=max_attempts
        )

    def rank(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        top_k: int | None = None,
        return_documents: bool = True,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Ranking:
        """Rank documents by relevance to a query, best first, as ``Reranker.rank`` does.

        Other parameters are those of ``Reranker.rank``.

        :param model: name of the model; the server's first by default
        :param timeout: time-out in seconds; the client's by default
        :return: a list of hits, with attributes of the response
        :raises InputError: a text or an option is unusable, or the server refuses it
        :raises ServerError: the server did not answer; the subclass is the reason
        :raises EdgerankError: the client is closed
        """
        options = options_of(model, instruction, normalize, long_documents)
        exchange = rank_exchange(query, documents, options, top_k, return_documents)
        return self._exchange(exchange, timeout)

    def rank_stored(
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
        """Rank documents of a store on the server by their ids, best first.

        A hit's ``document`` is the id.

        :param ids: ids of the documents to rank
        :param store: name of the store; the server's first by default

        Other parameters and errors are those of ``rank``.
        """
        options = options_of(None, instruction, normalize, None)
        return self._exchange(stored_exchange(query, ids, options, store, top_k), timeout)

    def score(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> ScoreArray:
        """Score documents against a query: float32 [len(documents)], in input order.

        Parameters and errors are those of ``rank``.
        """
        options = options_of(model, instruction, normalize, long_documents)
        return self._exchange(score_exchange(query, documents, options), timeout)

    def score_pairs(
        self,
        pairs: Iterable[tuple[str, Document]],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> ScoreArray:
        """Score (query, document) pairs: float32 [len(pairs)], in input order.

        Parameters and errors are those of ``rank``.
        """
        options = options_of(model, instruction, normalize, long_documents)
        return self._exchange(pairs_exchange(pairs, options), timeout)

    def score_stream(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout: float | None = None,
    ) -> Generator[tuple[int, float], None, None]:
        """Yield (index, score) as soon as documents are scored, in any order.

        There may be any number of documents. They are read in another thread, and checked and sent
        in chunks. If a document is unusable, or reading fails, the documents sent before are scored
        first, and then the error is raised. Other arguments are checked at once.

        :param timeout: time-out of the whole stream in seconds; the client's by default

        Other parameters and errors are those of ``rank``.
        """
        start = stream_start(query, options_of(model, instruction, normalize, long_documents))
        documents = as_documents(documents)
        call_options = self._connection.call_options(timeout)
        self._connection.method("RerankStream")
        return self._stream(start, documents, call_options)

    def models(self, *, timeout: float | None = None) -> list[ServedModel]:
        """List the server's models, the default one first; errors are those of ``rank``."""
        return self._exchange(models_exchange(), timeout)

    def close(self) -> None:
        """Close the connection; calls in progress and later ones raise ``EdgerankError``."""
        channel = self._connection.close()
        if channel is not None:
            channel.close()

    def _exchange(self, exchange: Exchange[R], timeout: float | None) -> R:
        call_options = self._connection.call_options(timeout)
        method = self._connection.method(exchange.method)
        with self._connection.errors():
            response, call = method.with_call(exchange.request, **call_options)
        return exchange.read(response, request_id_of(call.trailing_metadata()))

    def _stream(
        self, start: Any, documents: Iterable[Document], call_options: dict[str, Any]
    ) -> Generator[tuple[int, float], None, None]:
        failures: list[Exception] = []  # of the documents, which gRPC's thread reads

        def requests() -> Iterator[Any]:
            yield start
            first = 0
            try:
                rest = iter(documents)
                while chunk := list(islice(rest, CHUNK)):
                    yield stream_chunk(chunk, first)
                    first += len(chunk)
            except Exception as error:
                failures.append(error)

        method = self._connection.method("RerankStream")
        with self._connection.errors():
            call = method(requests(), **call_options)
        try:
            with self._connection.errors():
                for response in call:
                    yield from stream_scores(response)
        finally:
            call.cancel()
        if failures:
            raise failures[0]
