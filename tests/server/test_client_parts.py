"""The clients with a server of gRPC alone, which answers whatever a test wants answered."""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from edgerank import errors
from edgerank._proto import rerank_pb2 as pb
from edgerank.client import (
    AsyncClient,
    Client,
    Ranking,
    ScoreArray,
    Timings,
    TlsFiles,
    Usage,
)
from edgerank.client.failures import ERRORS
from edgerank.errors import EdgerankError, InputError, Remedy, ServerError
from edgerank.ranking import Hit
from tests.support.clients import KINDS, call, from_afar
from tests.support.serving import eventually

QUERY = "who wrote dune?"
DOCUMENTS = ["Frank Herbert", "Paris"]
LIMIT = 1 << 20
FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@dataclass
class Server:
    """A server whose answers are set by a test, and which keeps the requests."""

    address: str = ""
    answer: Callable[[Any], bytes] = lambda context: b""
    requests: list[bytes] = field(default_factory=list)

    def fail(self, code: Any, message: str, *metadata: tuple[str, str | bytes]) -> None:
        """Answer all requests with a status."""

        def answer(context: Any) -> bytes:
            context.set_trailing_metadata(metadata)
            context.abort(code, message)

        self.answer = answer


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def answer(request: bytes, context: Any) -> bytes:
                server.requests.append(request)
                return server.answer(context)

            def stream(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
                for request in requests:
                    server.requests.append(request)
                yield server.answer(context)

            if details.method.endswith("Stream"):
                return grpc.stream_stream_rpc_method_handler(stream)
            return grpc.unary_unary_rpc_method_handler(answer)

    with serve(Handlers()) as server.address:
        yield server


@contextmanager
def serve(handlers: Any) -> Iterator[str]:
    """Listen; give the address."""
    options = [("grpc.max_receive_message_length", LIMIT)]
    with ThreadPoolExecutor(4) as threads:
        listener = grpc.server(threads, [handlers], options=options)
        port = listener.add_insecure_port("127.0.0.1:0")
        listener.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            listener.stop(None).wait()


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def details(*messages: Any) -> tuple[str, bytes]:
    """The metadata that carries details as google.rpc says."""
    status = status_pb2.Status(code=3, message="")
    for message in messages:
        packed = any_pb2.Any()
        packed.Pack(message)
        status.details.append(packed)
    return "grpc-status-details-bin", status.SerializeToString()


def violation(path: str, description: str) -> tuple[str, bytes]:
    found = error_details_pb2.BadRequest.FieldViolation(field=path, description=description)
    return details(error_details_pb2.BadRequest(field_violations=[found]))


def failure(kind: Any, server: Server, method: str = "rank", **options: Any) -> Any:
    """The error of a call."""
    with pytest.raises(EdgerankError) as raised:
        call(kind, server.address, method, QUERY, DOCUMENTS, options=options)
    return raised.value


# errors


def test_every_status_has_a_class_and_every_class_a_status():
    assert set(ERRORS) == set(FAILURES)
    subclasses = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, ServerError)
    }
    assert set(ERRORS.values()) == {*subclasses, InputError} - {errors.RequestTooLarge}


@pytest.mark.parametrize("method", ["rank", "score_stream"])
@pytest.mark.parametrize(
    "code", [code for code in FAILURES if code.name != "INVALID_ARGUMENT"], ids=lambda c: c.name
)
def test_a_status_becomes_its_error_with_the_id_of_the_request(server, kind, method, code):
    server.fail(code, "so it is", ("x-request-id", "abc-123"))
    error = failure(kind, server, method)
    assert type(error) is ERRORS[code]
    assert str(error) == f"{code.name}: so it is"
    assert (error.code, error.request_id, error.retry_after_s) == (code.name, "abc-123", None)


def test_a_full_queue_says_when_to_come_again(server, kind):
    wait = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(nanos=250_000_000))
    server.fail(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", details(wait))
    error = failure(kind, server)
    assert type(error) is errors.Overloaded
    assert error.retry_after_s == 0.25


def test_a_message_that_is_too_large_for_the_server_has_an_error_of_its_own(server, kind):
    with pytest.raises(errors.RequestTooLarge) as raised:
        call(kind, server.address, "rank", QUERY, ["x" * LIMIT])
    assert raised.value.code == "RESOURCE_EXHAUSTED"
    assert server.requests == []


@pytest.mark.parametrize(
    ("path", "field", "index", "named"),
    [
        ("query", "query", None, "query"),
        ("start.query", "query", None, "query"),
        ("documents", "documents", None, "documents"),
        ("documents[1]", "documents", 1, "documents[1]"),
        ("pairs[12].query", "pairs.query", 12, "pairs[12].query"),
        ("pairs[0].document", "pairs.document", 0, "pairs[0].document"),
        ("options.instruction", "instruction", None, "instruction"),
        ("options.long_documents", "long_documents", None, "long_documents"),
    ],
)
@pytest.mark.parametrize("method", ["rank", "score_stream"])
def test_an_unusable_field_of_a_request_is_named_as_the_argument_that_it_was(
    server, kind, method, path, field, index, named
):
    message = f"{path}: it is: no good"
    server.fail(grpc.StatusCode.INVALID_ARGUMENT, message, violation(path, "it is: no good"))
    error = failure(kind, server, method)
    assert type(error) is InputError
    assert (error.field, error.index, error.reason) == (field, index, "it is: no good")
    assert str(error) == f"{named}: it is: no good"


def test_an_unusable_request_without_a_field_keeps_the_server_s_message(server, kind):
    server.fail(grpc.StatusCode.INVALID_ARGUMENT, "bad: bytes")
    assert str(failure(kind, server)) == "request: bad: bytes"


def test_an_option_that_would_help_is_a_remedy_whatever_the_description_says(server, kind):
    found = error_details_pb2.BadRequest.FieldViolation(field="documents[1]", description="Long.")
    known = {
        "problem": "it is long; shorten it",
        "option": "long_documents",
        "values": "truncate,split",
    }
    server.fail(
        grpc.StatusCode.INVALID_ARGUMENT,
        "no",
        details(
            error_details_pb2.BadRequest(field_violations=[found]),
            error_details_pb2.ErrorInfo(reason="OPTION_HELPS", domain="edgerank", metadata=known),
        ),
    )
    error = failure(kind, server)
    assert error.path == "documents[1]"
    assert error.reason == "it is long; shorten it"
    assert error.remedy == Remedy("long_documents", ("truncate", "split"))
    assert str(error).endswith(", or pass long_documents='truncate' or 'split'")


def test_a_description_that_reads_like_advice_is_left_as_it_is(server, kind):
    description = "it is long, or set options.long_documents to LONG_DOCUMENTS_SPLIT"
    server.fail(grpc.StatusCode.INVALID_ARGUMENT, "no", violation("documents[1]", description))
    error = failure(kind, server)
    assert (error.reason, error.remedy) == (description, None)


# retries


@pytest.mark.parametrize("num_bytes", [10, 300_000])
@pytest.mark.parametrize("max_attempts", [1, 2, 5])
@pytest.mark.parametrize("code", ["UNAVAILABLE", "CANCELLED"])
def test_a_call_is_sent_as_often_as_the_client_was_told(
    server, kind, num_bytes, max_attempts, code
):
    pushback = ("grpc-retry-pushback-ms", "1")
    server.fail(grpc.StatusCode[code], "later", pushback)
    with pytest.raises(errors.Unavailable):
        options = {"max_attempts": max_attempts}
        call(kind, server.address, "rank", QUERY, ["x" * num_bytes], options=options)
    assert len(server.requests) == max_attempts
    assert len(set(server.requests)) == 1


# arguments


@pytest.mark.parametrize(
    ("arguments", "path"),
    [
        ({"target": ""}, "target"),
        ({"target": 50051}, "target"),
        ({"target": "http://localhost:50051"}, "target"),
        ({"token": "two\nlines"}, "token"),
        ({"token": "Schlüssel"}, "token"),
        ({"token": b"bytes"}, "token"),
        ({"tls": True}, "tls"),
        ({"tls": TlsFiles(ca="absent.pem")}, "tls"),
        ({"tls": TlsFiles(cert="cert.pem")}, "tls"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 6}, "max_attempts"),
        ({"max_attempts": 2.0}, "max_attempts"),
        *(
            ({"timeout": value}, "timeout")
            for value in (0, -1, 0.0, math.nan, math.inf, 1e12, "5", True, None)
        ),
    ],
    ids=str,
)
def test_a_client_is_made_with_usable_arguments_only(kind, arguments, path):
    with pytest.raises(InputError, match=f"^{path}: "):
        kind(**{"target": "localhost:50051", **arguments})


@pytest.mark.parametrize("method", ["rank", "score", "score_stream"])
@pytest.mark.parametrize(
    ("keywords", "path"),
    [
        ({"timeout": 0}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"timeout": math.inf}, "timeout"),
        ({"model": 5}, "model"),
        ({"instruction": 5}, "instruction"),
        ({"instruction": "\ud800"}, "instruction"),
        ({"long_documents": "cut"}, "long_documents"),
    ],
    ids=str,
)
def test_a_call_takes_usable_options_only(server, kind, method, keywords, path):
    with pytest.raises(InputError, match=f"^{path}: "):
        call(kind, server.address, method, QUERY, DOCUMENTS, **keywords)
    assert server.requests == []


@pytest.mark.parametrize("timeout", [60, 600.5, 1e7])
def test_a_timeout_is_a_number_of_seconds(server, kind, timeout):
    remaining: list[float] = []

    def answer(context: Any) -> bytes:
        remaining.append(context.time_remaining())
        return b""

    server.answer = answer
    call(kind, server.address, "models", timeout=timeout)
    call(kind, server.address, "models", options={"timeout": timeout})
    assert remaining == [pytest.approx(timeout, rel=1e-3, abs=30)] * 2


@pytest.mark.parametrize("top_k", [1, 2, 3, 1 << 40])
def test_more_hits_than_documents_may_be_asked_for(server, kind, top_k):
    call(kind, server.address, "rank", QUERY, DOCUMENTS, top_k=top_k)
    assert pb.RerankRequest.FromString(server.requests[0]).top_k == min(top_k, 2)


def test_a_token_goes_with_every_call(server, kind):
    seen: list[str] = []

    def answer(context: Any) -> bytes:
        seen.append(dict(context.invocation_metadata()).get("authorization"))
        return b""

    server.answer = answer
    call(kind, server.address, "models", options={"token": "a secret"})
    call(kind, server.address, "score_stream", QUERY, DOCUMENTS, options={"token": "a secret"})
    call(kind, server.address, "models")
    assert seen == ["Bearer a secret", "Bearer a secret", None]


# streams


def texts_of(requests: list[bytes]) -> list[list[str]]:
    """The documents of the messages of a stream."""
    start, *chunks = map(pb.RerankStreamRequest.FromString, requests)
    assert start.start.query == QUERY
    return [list(chunk.documents.documents) for chunk in chunks]


def test_a_stream_sends_the_text_of_documents_in_chunks(server, kind):
    documents = [{"title": "Dune", "text": f"part {n}", "year": "1965"} for n in range(150)]
    call(kind, server.address, "score_stream", QUERY, documents)
    sent = texts_of(server.requests)
    assert [len(chunk) for chunk in sent] == [64, 64, 22]
    expected = [f"Dune\npart {n}\nyear: 1965" for n in range(150)]
    assert [text for chunk in sent for text in chunk] == expected


@pytest.mark.parametrize(
    ("document", "reason"), [(5, "expected a string, got int"), ("\udfff", "lone surrogate")]
)
def test_nothing_is_sent_of_a_chunk_with_an_unusable_document(server, kind, document, reason):
    documents = [*["fine"] * 70, document, "fine"]
    with pytest.raises(InputError, match=reason) as raised:
        call(kind, server.address, "score_stream", QUERY, documents)
    assert (raised.value.field, raised.value.index) == ("documents", 70)
    assert texts_of(server.requests) == [["fine"] * 64]


def test_an_error_of_the_caller_s_own_documents_reaches_the_caller(server, kind):
    def documents() -> Iterator[str]:
        yield "fine"
        raise LookupError("the file is shorter than it was")

    with pytest.raises(LookupError, match="shorter"):
        call(kind, server.address, "score_stream", QUERY, documents())
    with pytest.raises(LookupError, match="shorter"):
        call(AsyncClient, server.address, "score_stream", QUERY, from_afar(documents()))


def test_a_status_is_not_lost_while_documents_are_still_being_sent(kind):
    class Handlers(grpc.GenericRpcHandler):
        def service(self, details: Any) -> Any:
            def refuse(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
                next(requests)
                context.abort(grpc.StatusCode.NOT_FOUND, "no such model")

            return grpc.stream_stream_rpc_method_handler(refuse)

    with serve(Handlers()) as address:
        for count in [1, 64, 65, 1000] * 30:
            with pytest.raises(errors.UnknownModel):
                call(kind, address, "score_stream", QUERY, ["x" * 1000] * count)


# closing


def closed(method: str, *arguments: Any) -> list[Any]:
    """Calls of clients that were closed."""
    with Client("127.0.0.1:1") as client:
        pass

    async def ask() -> None:
        async with AsyncClient("127.0.0.1:1") as client:
            pass
        await client.aclose()  # once more does no harm
        await getattr(client, method)(*arguments)

    client.close()
    return [lambda: getattr(client, method)(*arguments), lambda: asyncio.run(ask())]


@pytest.mark.parametrize(
    ("method", "arguments"),
    [
        ("rank", (QUERY, DOCUMENTS)),
        ("score", (QUERY, DOCUMENTS)),
        ("score_pairs", ([(QUERY, "Paris")],)),
        ("score_stream", (QUERY, DOCUMENTS)),
        ("models", ()),
    ],
)
def test_a_closed_client_says_so(method, arguments):
    for ask in closed(method, *arguments):
        with pytest.raises(EdgerankError, match="the client is closed") as raised:
            ask()
        assert type(raised.value) is EdgerankError


@pytest.fixture
def busy(server: Server) -> Iterator[Server]:
    """A server that answers nothing before the end of the test."""
    end = threading.Event()
    server.answer = lambda context: bytes(end.wait(60) * 0)
    yield server
    end.set()


def wait_for_requests(server: Server, count: int) -> None:
    eventually(lambda: len(server.requests) == count, "requests")


def test_closing_a_client_ends_calls_in_progress(busy):
    with ThreadPoolExecutor(1) as threads:
        client = Client(busy.address)
        asked = threads.submit(client.score, QUERY, DOCUMENTS)
        wait_for_requests(busy, 1)
        client.close()
        with pytest.raises(EdgerankError, match="the client is closed"):
            asked.result()


def test_closing_an_async_client_ends_calls_in_progress_and_cancels_no_task(busy):
    async def ask() -> list[Any]:
        client = AsyncClient(busy.address)
        calls = [asyncio.create_task(client.score(QUERY, DOCUMENTS)) for _ in range(2)]
        await asyncio.to_thread(wait_for_requests, busy, 2)
        calls[1].cancel()
        await client.aclose()
        return await asyncio.gather(*calls, return_exceptions=True)

    closed, cancelled = asyncio.run(ask())
    assert (type(closed), type(cancelled)) == (EdgerankError, asyncio.CancelledError)
    assert "the client is closed" in str(closed)


def test_cancelling_a_task_gives_its_call_up_on_the_server(server):
    given_up = threading.Event()

    def answer(context: Any) -> bytes:
        context.add_callback(given_up.set)
        given_up.wait(60)
        return b""

    server.answer = answer

    async def ask() -> None:
        async with AsyncClient(server.address) as client:
            asked = asyncio.create_task(client.score(QUERY, DOCUMENTS))
            await asyncio.to_thread(wait_for_requests, server, 1)
            asked.cancel()
            assert await asyncio.to_thread(given_up.wait, 60)
            with pytest.raises(asyncio.CancelledError):
                await asked

    asyncio.run(ask())


def test_a_client_may_be_made_before_its_event_loop(server):
    client = AsyncClient(server.address)

    async def ask() -> list[Any]:
        models = await client.models()
        await client.aclose()
        return models

    assert asyncio.run(ask()) == []


# results

ABOUT = (Usage(7), Timings(4.0, 1.0, 2.0, 0.5), "small", "abc-123")


def about(result: Any) -> tuple[Usage, Timings, str, str]:
    return result.usage, result.timings, result.model, result.request_id


def test_scores_are_an_array_in_every_respect():
    plain = np.array([0.5, 0.25, 1.0], np.float32)
    scores = ScoreArray([0.5, 0.25, 1.0], *ABOUT)
    assert (scores.shape, scores.dtype, about(scores)) == ((3,), np.float32, ABOUT)
    np.testing.assert_array_equal(scores, plain)
    np.testing.assert_array_equal(scores[scores > 0.3], [0.5, 1.0])
    np.testing.assert_array_equal(np.argsort(-scores), [2, 0, 1])
    assert scores.tolist() == list(scores) == [0.5, 0.25, 1.0]
    assert json.dumps(scores.tolist()) == "[0.5, 0.25, 1.0]"
    for part in (scores[1:], scores.copy(), pickle.loads(pickle.dumps(scores))):
        assert about(part) == ABOUT
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(scores)), plain)
    for computed in (scores * 2, scores > 0.3, -scores, np.concatenate([scores, scores])):
        assert type(computed) is np.ndarray
    for number in (scores.max(), scores.mean(), scores[0], scores @ scores):
        assert type(number) is np.float32


def test_a_ranking_is_a_list_in_every_respect():
    hits = [Hit(1, 0.5, "Paris"), Hit(0, 0.25, None)]
    ranking = Ranking(hits, *ABOUT)
    assert ranking == hits
    assert (len(ranking), ranking[0], ranking[:1]) == (2, hits[0], hits[:1])
    copy = pickle.loads(pickle.dumps(ranking))
    assert (list(copy), about(copy)) == (hits, ABOUT)
