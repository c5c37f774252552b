"""Arguments into requests, and responses into results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from edgerank._proto import rerank_pb2 as pb
from edgerank.client.results import Ranking, ScoreArray, ServedModel, Timings, Usage
from edgerank.documents import (
    Document,
    LongDocuments,
    as_documents,
    check_integer,
    check_long_documents,
    check_query,
    check_text,
    document_text,
    make_pairs,
    validate_pairs,
)
from edgerank.ranking import Hit

CHUNK = 64  # documents of a message of a stream

R = TypeVar("R")


@dataclass(frozen=True)
class Exchange(Generic[R]):
    """A request of one message, and how its response is read."""

    method: str
    request: Any
    read: Callable[[Any, str], R]  # the response, and the id that the request had on the server


def options_of(
    model: str | None,
    instruction: str | None,
    normalize: bool,
    long_documents: LongDocuments | None,
) -> pb.Options:
    """Build the options.

    :raises InputError: one is unusable
    """
    for field, text in (("model", model), ("instruction", instruction)):
        if text is not None:
            check_text(text, field)
    check_long_documents(long_documents)
    return pb.Options(
        model=model or "",
        instruction=instruction or "",
        normalize=bool(normalize),
        long_documents=f"LONG_DOCUMENTS_{(long_documents or 'unspecified').upper()}",
    )


def rank_exchange(
    query: str,
    documents: Iterable[Document],
    options: pb.Options,
    top_k: int | None,
    return_documents: bool,
) -> Exchange[Ranking]:
    """Ask for hits.

    :raises InputError: a text or ``top_k`` is unusable
    """
    documents = list(as_documents(documents))
    if top_k is not None:
        check_integer("top_k", top_k, 1)
    request = _rerank_request(query, documents, options)
    request.top_k = min(top_k or 0, len(documents))

    def read(response: pb.RerankResponse, request_id: str) -> Ranking:
        hits = (
            Hit(result.index, result.score, documents[result.index] if return_documents else None)
            for result in response.results
        )
        return Ranking(hits, *_about(response, request_id))

    return Exchange("Rerank", request, read)


def stored_exchange(
    query: str, ids: Iterable[str], options: pb.Options, store: str | None, top_k: int | None
) -> Exchange[Ranking]:
    """Ask for hits among documents of a store.

    :raises InputError: the query, an id or ``top_k`` is unusable
    """
    names = [check_text(name, "ids", index) for index, name in enumerate(as_documents(ids))]
    if top_k is not None:
        check_integer("top_k", top_k, 1)
    request = pb.RerankRequest(
        query=check_query(query),
        document_ids=names,
        store=check_text(store or "", "store"),
        top_k=min(top_k or 0, len(names)),
        options=options,
    )

    def read(response: pb.RerankResponse, request_id: str) -> Ranking:
        hits = (Hit(result.index, result.score, names[result.index]) for result in response.results)
        return Ranking(hits, *_about(response, request_id))

    return Exchange("Rerank", request, read)


def score_exchange(
    query: str, documents: Iterable[Document], options: pb.Options
) -> Exchange[ScoreArray]:
    """Ask for scores of documents.

    :raises InputError: a text is unusable
    """

    def read(response: pb.RerankResponse, request_id: str) -> ScoreArray:
        found = np.zeros(len(response.results), np.float32)
        for result in response.results:
            found[result.index] = result.score
        return ScoreArray(found, *_about(response, request_id))

    return Exchange("Rerank", _rerank_request(query, documents, options), read)


def pairs_exchange(
    pairs: Iterable[tuple[str, Document]], options: pb.Options
) -> Exchange[ScoreArray]:
    """Ask for scores of pairs.

    :raises InputError: a pair is unusable
    """

    def read(response: pb.ScorePairsResponse, request_id: str) -> ScoreArray:
        return ScoreArray(np.array(response.scores), *_about(response, request_id))

    messages = [pb.Pair(query=pair.query, document=pair.text) for pair in validate_pairs(pairs)]
    return Exchange("ScorePairs", pb.ScorePairsRequest(pairs=messages, options=options), read)


def models_exchange() -> Exchange[list[ServedModel]]:
    """Ask for the models."""

    def read(response: pb.ListModelsResponse, request_id: str) -> list[ServedModel]:
        return [
            ServedModel(
                model.name,
                model.source,
                model.family,
                model.precision,
                model.max_length,
                model.takes_instruction,
                model.digest,
                model.variant,
                model.variant_reason,
                model.kernels,
                model.kernels_reason,
            )
            for model in response.models
        ]

    return Exchange("ListModels", pb.ListModelsRequest(), read)


def stream_start(query: str, options: pb.Options) -> pb.RerankStreamRequest:
    """Build the first request of a stream.

    :raises InputError: the query is unusable
    """
    start = pb.RerankStreamStart(query=check_query(query), options=options)
    return pb.RerankStreamRequest(start=start)


def stream_chunk(documents: Sequence[Document], first: int) -> pb.RerankStreamRequest:
    """Build a further request of a stream.

    :param first: place of the first document in the whole stream
    :raises InputError: a document is unusable
    """
    chunk = pb.DocumentChunk()
    for index, document in enumerate(documents, first):
        chunk.documents.append(document_text(document, index=index))
    return pb.RerankStreamRequest(documents=chunk)


def stream_scores(response: pb.RerankStreamResponse) -> Iterator[tuple[int, float]]:
    """Read a response of a stream: places of documents, and their scores."""
    return ((result.index, result.score) for result in response.results)


def _rerank_request(
    query: str, documents: Iterable[Document], options: pb.Options
) -> pb.RerankRequest:
    texts = [pair.text for pair in make_pairs(query, documents)]
    return pb.RerankRequest(query=query, documents=texts, options=options)


def _about(
    response: pb.RerankResponse | pb.ScorePairsResponse, request_id: str
) -> tuple[Usage, Timings, str, str]:
    times = response.timings
    nanoseconds = (times.total_ns, times.tokenize_ns, times.queue_ns, times.inference_ns)
    timings = Timings(*(value / 1e9 for value in nanoseconds))
    return Usage(response.usage.tokens), timings, response.model, request_id
