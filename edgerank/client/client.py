"""``Client``: calls that wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from edgerank._proto import rerank_pb2 as pb
from edgerank._proto import rerank_pb2_grpc
from edgerank.client.messages import (
    MAX_ATTEMPTS,
    ServedModel,
    TlsFiles,
    channel_options,
    credentials,
    error_of,
    hits_of,
    in_order,
    metadata,
    options_of,
    pairs_request,
    rerank_request,
    served_model,
    stream_requests,
)
from edgerank.documents import Document, LongDocuments, as_documents
from edgerank.ranking import Hit, Scores


class Client:
    """A connection to a server, safe to share between threads; it opens when first used.

    with Client("localhost:50051") as client:
        hits = client.rank("who wrote dune?", documents, top_k=5)
    """

    def __init__(
        self,
        target: str,
        *,
        tls: TlsFiles | None = None,
        token: str | None = None,
        timeout_s: float = 60.0,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> None:
        """Prepare a connection.

        :param target: HOST:PORT or unix:PATH
        :param tls: TlsFiles() for the system's authorities; in the clear by default
        :param token: sent with every call
        :param timeout_s: seconds until a call that names no time fails
        :param max_attempts: how often a call is sent while the server is busy or away
        :raises InputError: a file cannot be read
        """
        options = channel_options(max_attempts)
        self._channel = (
            grpc.insecure_channel(target, options)
            if tls is None
            else grpc.secure_channel(target, credentials(tls), options)
        )
        self._stub: Any = rerank_pb2_grpc.RerankerStub(self._channel)
        self._metadata = metadata(token)
        self._timeout_s = timeout_s

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
        timeout_s: float | None = None,
    ) -> list[Hit]:
        """Rank documents by relevance to a query, best first, as ``Reranker.rank`` does.

        :param model: its name; the server's first by default
        :param timeout_s: seconds until the call fails
        :raises InputError: a text or an option is unusable, here or for the server
        :raises ServerError: the server did not answer
        """
        documents = list(as_documents(documents))
        options = options_of(model, instruction, normalize, long_documents)
        request = rerank_request(query, documents, top_k, options)
        response = self._call(self._stub.Rerank, request, timeout_s)
        return hits_of(response, documents if return_documents else None)

    def score(
        self,
        query: str,
        documents: Iterable[Document],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """Score documents against a query: float32 [len(documents)], in input order."""
        options = options_of(model, instruction, normalize, long_documents)
        request = rerank_request(query, documents, None, options)
        return in_order(self._call(self._stub.Rerank, request, timeout_s))

    def score_pairs(
        self,
        pairs: Iterable[tuple[str, Document]],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Scores:
        """Score (query, document) pairs: float32 [len(pairs)], in input order."""
        options = options_of(model, instruction, normalize, long_documents)
        request = pairs_request(pairs, options)
        response = self._call(self._stub.ScorePairs, request, timeout_s)
        return np.array(response.scores, np.float32)

    def score_stream(
        self,
        query: str,
        documents: Iterable[str],
        *,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        model: str | None = None,
        timeout_s: float | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Yield (index, score) as documents are scored, in any order; any number of documents."""
        options = options_of(model, instruction, normalize, long_documents)
        call = self._stub.RerankStream(
            stream_requests(query, documents, options),
            timeout=self._timeout_s if timeout_s is None else timeout_s,
            metadata=self._metadata,
        )
        try:
            for response in call:
                yield from ((result.index, result.score) for result in response.results)
        except grpc.RpcError as error:
            raise error_of(error) from error
        finally:
            call.cancel()

    def models(self, *, timeout_s: float | None = None) -> list[ServedModel]:
        """List the server's models, the default one first."""
        response = self._call(self._stub.ListModels, pb.ListModelsRequest(), timeout_s)
        return [served_model(model) for model in response.models]

    def close(self) -> None:
        """Close the connection; calls in progress fail."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        try:
            return method(
                request,
                timeout=self._timeout_s if timeout_s is None else timeout_s,
                metadata=self._metadata,
            )
        except grpc.RpcError as error:
            raise error_of(error) from error
