"""Messages, errors and channels: what both clients share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2

from edgerank._proto import rerank_pb2 as pb
from edgerank.documents import (
    Document,
    LongDocuments,
    check_long_documents,
    make_pairs,
    validate_pairs,
)
from edgerank.errors import EdgerankError, InputError, ServerError
from edgerank.ranking import Hit, Scores

MAX_ATTEMPTS = 4
CHUNK = 64  # documents of a message of a stream
Metadata = list[tuple[str, str | bytes]]


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a client: whom it trusts, and who it is where the server asks."""

    ca: str | os.PathLike[str] | None = None  # the system's authorities by default
    cert: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None


@dataclass(frozen=True)
class ServedModel:
    """A model of the server."""

    name: str
    source: str  # the checkpoint that it was made from
    family: str
    precision: str
    max_length: int  # tokens of query and document together
    takes_instruction: bool
    digest: str  # sha256 of the bundle's manifest


def channel_options(max_attempts: int) -> list[tuple[str, Any]]:
    """Say how often a call is tried, and how the connection is kept."""
    config: dict[str, Any] = {"methodConfig": [{"name": [{"service": "edgerank.v1.Reranker"}]}]}
    if max_attempts > 1:
        config["methodConfig"][0]["retryPolicy"] = {
            "maxAttempts": max_attempts,
            "initialBackoff": "0.1s",  # a server that is busy says itself how long to wait
            "maxBackoff": "2s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        }
        config["retryThrottling"] = {"maxTokens": 100, "tokenRatio": 0.1}
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.max_send_message_length", -1),  # the server has limits
        ("grpc.max_receive_message_length", -1),
    ]


def credentials(tls: TlsFiles) -> grpc.ChannelCredentials:
    """Read the certificates.

    :raises InputError: a file cannot be read
    """
    try:
        ca, key, cert = (
            None if path is None else Path(path).read_bytes()
            for path in (tls.ca, tls.key, tls.cert)
        )
    except OSError as error:
        raise InputError("tls", str(error)) from error
    return grpc.ssl_channel_credentials(ca, key, cert)


def metadata(token: str | None) -> Metadata:
    """Return what goes with every call."""
    return [] if token is None else [("authorization", f"Bearer {token}")]


def options_of(
    model: str | None,
    instruction: str | None,
    normalize: bool,
    long_documents: LongDocuments | None,
) -> pb.Options:
    """Build the options.

    :raises InputError: one is unusable
    """
    check_long_documents(long_documents)
    return pb.Options(
        model=model or "",
        instruction=instruction or "",
        normalize=normalize,
        long_documents=f"LONG_DOCUMENTS_{(long_documents or 'unspecified').upper()}",
    )


def rerank_request(
    query: str, documents: Iterable[Document], top_k: int | None, options: pb.Options
) -> pb.RerankRequest:
    """Build a request.

    :raises InputError: a text or an option is unusable
    """
    if top_k is not None and top_k < 1:
        raise InputError("top_k", f"{top_k} is out of range; it must be at least 1")
    texts = [pair.text for pair in make_pairs(query, documents)]
    return pb.RerankRequest(query=query, documents=texts, top_k=top_k or 0, options=options)


def pairs_request(
    pairs: Iterable[tuple[str, Document]], options: pb.Options
) -> pb.ScorePairsRequest:
    """Build a request.

    :raises InputError: a pair is unusable
    """
    messages = [pb.Pair(query=pair.query, document=pair.text) for pair in validate_pairs(pairs)]
    return pb.ScorePairsRequest(pairs=messages, options=options)


def stream_requests(
    query: str, documents: Iterable[str], options: pb.Options
) -> Iterator[pb.RerankStreamRequest]:
    """Yield the requests of a stream, reading documents as they are sent."""
    yield pb.RerankStreamRequest(start=pb.RerankStreamStart(query=query, options=options))
    rest = iter(documents)
    while chunk := list(islice(rest, CHUNK)):
        yield pb.RerankStreamRequest(documents=pb.DocumentChunk(documents=chunk))


def hits_of(response: pb.RerankResponse, documents: Sequence[Document] | None) -> list[Hit]:
    """Return the ranked documents."""
    return [
        Hit(result.index, result.score, None if documents is None else documents[result.index])
        for result in response.results
    ]


def in_order(response: pb.RerankResponse) -> Scores:
    """Return scores in the order of the request."""
    scores = np.zeros(len(response.results), np.float32)
    for result in response.results:
        scores[result.index] = result.score
    return scores


def served_model(model: pb.Model) -> ServedModel:
    """Return a model's description."""
    return ServedModel(
        model.name,
        model.source,
        model.family,
        model.precision,
        model.max_length,
        model.takes_instruction,
        model.digest,
    )


def error_of(error: Any) -> EdgerankError:
    """Turn a failed call into an error of ours."""
    code, message = error.code(), error.details() or "no details"
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return InputError(*message.split(": ", 1))
    return ServerError(code.name, message, _retry_after_s(error.trailing_metadata() or ()))


def _retry_after_s(metadata: Iterable[tuple[str, str | bytes]]) -> float | None:
    for key, value in metadata:
        if key != "grpc-status-details-bin" or not isinstance(value, bytes):
            continue
        for detail in status_pb2.Status.FromString(value).details:
            info = error_details_pb2.RetryInfo()
            if detail.Unpack(info):
                return float(info.retry_delay.ToTimedelta().total_seconds())
    return None
