"""The server as a process of its own, with real clients."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import grpc
import msgspec
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import edgerank
from edgerank._proto import rerank_pb2 as pb
from edgerank._proto import rerank_pb2_grpc, tei_pb2, tei_pb2_grpc
from edgerank.bundle import read_bundle, write_manifest
from edgerank.client import AsyncClient, Client, TlsFiles
from edgerank.errors import InputError, ServerError, Unavailable
from edgerank.kernels import choose_kernels
from edgerank.manifest import MANIFEST_NAME
from tests.support import ROOT
from tests.support.cli import fail, succeed
from tests.support.serving import Authority, ServerProcess, eventually

QUERY = "who wrote dune?"
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965",
    "Paris, since 987",
    "",
    "a list of documents and relevance " * 12,
    "Paris, since 987",
]
LONG = [f"{n} a reranker reads a query and a list of documents " * 4 for n in range(1000)]
MODELS = ["qwen2.int8", "cross-encoder.int8", "embedding.int8"]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # of HTTP/2
SERVICES = ["edgerank.v1.Reranker", "tei.v1.Info", "tei.v1.Rerank"]


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[ServerProcess]:
    """A server of all models, with small limits."""
    with ServerProcess(
        *(part for name in MODELS for part in ("--model", bundles / name)),
        *("--metrics", "127.0.0.1:0", "--max-documents", "2000", "--max-query-tokens", "40"),
        *("--max-document-bytes", "20000", "--max-message-bytes", "2000000"),
    ) as server:
        yield server


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.address, max_attempts=1) as client:
        yield client


@pytest.fixture
def channel(server: ServerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel):
    return rerank_pb2_grpc.RerankerStub(channel)


def failure(call, *arguments, **options) -> grpc.RpcError:
    """The error of a call that must fail."""
    with pytest.raises(grpc.RpcError) as raised:
        call(*arguments, timeout=30, **options)
    return raised.value


def detail(error: grpc.RpcError, kind: type):
    """The google.rpc detail of a kind that an error carries, None if it carries none."""
    metadata = dict(error.trailing_metadata() or ())
    for packed in status_pb2.Status.FromString(
        metadata.get("grpc-status-details-bin", b"")
    ).details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def pushback(error: grpc.RpcError) -> int:
    """The milliseconds that a retry policy waits."""
    return int(dict(error.trailing_metadata())["grpc-retry-pushback-ms"])


def field_of(error: grpc.RpcError) -> str:
    """The field that an INVALID_ARGUMENT names."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    (violation,) = detail(error, error_details_pb2.BadRequest).field_violations
    assert violation.description
    return violation.field


# the answers


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("long_documents", ["truncate", "split"])
@pytest.mark.parametrize("normalize", [False, True])
def test_scores_are_those_of_the_embedded_reranker(
    client, bundles, name, long_documents, normalize
):
    reranker = edgerank.Reranker(bundles / name)
    options = {"long_documents": long_documents, "normalize": normalize}
    expected = reranker.score(QUERY, DOCUMENTS, **options)
    pairs = [(QUERY, DOCUMENTS[0]), ("capital of France", DOCUMENTS[1]), (QUERY, DOCUMENTS[3])]
    np.testing.assert_allclose(
        client.score(QUERY, DOCUMENTS, model=name, **options), expected, atol=1e-3
    )
    np.testing.assert_allclose(
        client.score_pairs(pairs, model=name, **options),
        reranker.score_pairs(pairs, **options),
        atol=1e-3,
    )
    streamed = dict(client.score_stream(QUERY, DOCUMENTS, model=name, **options))
    np.testing.assert_allclose([streamed[n] for n in range(5)], expected, atol=1e-3)
    hits = client.rank(QUERY, DOCUMENTS, top_k=3, model=name, **options)
    ranked = reranker.rank(QUERY, DOCUMENTS, top_k=3, **options)
    assert [(hit.index, hit.document) for hit in hits] == [
        (hit.index, hit.document) for hit in ranked
    ]


def test_an_instruction_changes_scores_as_in_the_embedded_reranker(client, bundles):
    reranker = edgerank.Reranker(bundles / "qwen2.int8")
    options = {"instruction": "instruction: relevance is length"}
    expected = reranker.score(QUERY, DOCUMENTS, **options)
    np.testing.assert_allclose(client.score(QUERY, DOCUMENTS, **options), expected, atol=1e-3)
    assert not np.allclose(expected, reranker.score(QUERY, DOCUMENTS), atol=1e-3)


def test_documents_come_back_only_where_asked_for(stub):
    options = pb.Options(normalize=True)
    request = pb.RerankRequest(query=QUERY, documents=DOCUMENTS, top_k=2, options=options)
    results = stub.Rerank(request).results
    assert [result.HasField("document") for result in results] == [False, False]
    request.return_documents = True
    response = stub.Rerank(request)
    assert [DOCUMENTS[r.index] for r in response.results] == [
        result.document for result in response.results
    ]
    assert len(response.results) == 2
    assert response.model == "qwen2.int8"
    assert response.usage.tokens > 0
    timings = response.timings
    assert timings.inference_ns > 0
    assert timings.total_ns >= timings.inference_ns + timings.queue_ns + timings.tokenize_ns


def test_no_documents_have_no_scores(client):
    assert client.rank(QUERY, []) == []
    assert client.score_pairs([]).shape == (0,)


def test_a_mapping_has_one_score_wherever_it_is_passed_in(server, client, bundles, tmp_path):
    document = {"title": "Dune", "text": "a book by Frank Herbert", "year": "1965"}
    text = "Dune\na book by Frank Herbert\nyear: 1965"
    bundle = bundles / "qwen2.int8"
    [expected] = edgerank.Reranker(bundle).score(QUERY, [text])
    file = tmp_path / "documents.jsonl"
    file.write_text(json.dumps({"id": "one", **document}))

    async def ask() -> float:
        async with AsyncClient(server.address) as asynchronous:
            return (await asynchronous.score(QUERY, [document]))[0]

    scores = {
        "embedded": edgerank.Reranker(bundle).score(QUERY, [document])[0],
        "client": client.score(QUERY, [document])[0],
        "pairs": client.score_pairs([(QUERY, document)])[0],
        "stream": dict(client.score_stream(QUERY, [document]))[0],
        "asyncio": asyncio.run(ask()),
        "rerank": json.loads(succeed("rerank", QUERY, file, "--json", "-m", bundle))[0]["score"],
        "command": json.loads(succeed("client", QUERY, file, "--json", "--server", server.address))[
            0
        ]["score"],
    }
    assert scores == pytest.approx(dict.fromkeys(scores, expected), abs=1e-3)


def test_a_stream_answers_while_it_is_still_being_sent(stub):
    chunks: Queue[list[str] | None] = Queue()

    def requests():
        yield pb.RerankStreamRequest(start=pb.RerankStreamStart(query=QUERY))
        while (chunk := chunks.get()) is not None:
            yield pb.RerankStreamRequest(documents=pb.DocumentChunk(documents=chunk))

    responses = stub.RerankStream(requests(), timeout=60)
    chunks.put(LONG[:10])
    assert sorted(result.index for result in next(responses).results) == list(range(10))
    chunks.put(LONG[10:15])
    assert sorted(result.index for result in next(responses).results) == list(range(10, 15))
    chunks.put(None)
    assert list(responses) == []


def test_a_long_stream_is_scored_whole(client):
    documents = (f"document {n}" for n in range(3000))
    scored = dict(client.score_stream(QUERY, documents, model="cross-encoder.int8"))
    assert sorted(scored) == list(range(3000))
    some = [5, 700, 2999]
    expected = client.score(QUERY, [f"document {n}" for n in some], model="cross-encoder.int8")
    np.testing.assert_allclose([scored[n] for n in some], expected, atol=1e-3)


def test_models_are_listed_and_described(client, stub, bundles):
    models = client.models()
    assert [model.name for model in models] == MODELS
    assert [model.takes_instruction for model in models] == [True, False, False]
    described = stub.GetModel(pb.GetModelRequest(name=MODELS[1])).model
    assert (described.family, described.precision) == (models[1].family, "int8")
    reranker = edgerank.Reranker(bundles / MODELS[1])
    variant, kernels = reranker.variant, reranker.kernels
    assert (described.variant, described.variant_reason) == (variant.name, variant.reason)
    assert (described.kernels, described.kernels_reason) == (kernels.name, kernels.reason)
    assert described.max_length == read_bundle(bundles / MODELS[1]).manifest.max_length
    assert len(described.digest) == 64
    assert described.fidelity.pairs > 0
    assert failure(stub.GetModel, pb.GetModelRequest(name="other")).code() is (
        grpc.StatusCode.NOT_FOUND
    )


def test_the_log_and_the_metrics_say_what_computes_each_model(server, bundles):
    loaded = server.records("loaded")
    assert [record["model"] for record in loaded] == MODELS
    series = server.series("edgerank_model_info")
    assert len(series) == len(MODELS)
    for name, record in zip(MODELS, loaded, strict=True):
        reranker = edgerank.Reranker(bundles / name)
        assert record["digest"] == reranker.bundle.digest
        assert record["variant"] == str(reranker.variant)
        assert record["kernels"] == str(reranker.kernels)
        [line] = [line for line in series if f'model="{name}"' in line]
        assert f'digest="{reranker.bundle.digest}"' in line
        assert f'variant="{reranker.variant.name}"' in line
        assert f'kernels="{reranker.kernels.name}"' in line
        assert line.endswith(" 1.0")


# the statuses

REFUSE = pb.Options(long_documents=pb.LONG_DOCUMENTS_REFUSE, model="cross-encoder.int8")


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("query", pb.RerankRequest(query="", documents=["a"])),
        ("query", pb.RerankRequest(query=" \n", documents=[])),
        ("query", pb.RerankRequest(query="dune " * 41, documents=["a"])),
        ("query", pb.RerankRequest(query="x" * 20_001, documents=["a"])),
        ("documents", pb.RerankRequest(query=QUERY, documents=["a"] * 2001)),
        ("documents[1]", pb.RerankRequest(query=QUERY, documents=["a", "x" * 20_001])),
        (
            "documents[1]",
            pb.RerankRequest(query=QUERY, documents=["a", "to read " * 150], options=REFUSE),
        ),
        (
            "options.instruction",
            pb.RerankRequest(
                query=QUERY,
                documents=["a"],
                options=pb.Options(instruction="be kind", model="cross-encoder.int8"),
            ),
        ),
        (
            "options.instruction",
            pb.RerankRequest(
                query=QUERY, documents=["a"], options=pb.Options(instruction="x" * 20_001)
            ),
        ),
        (
            "query",
            pb.RerankRequest(
                query=QUERY, documents=["a"], options=pb.Options(instruction="dune " * 41)
            ),
        ),
        (
            "options.long_documents",
            pb.RerankRequest(query=QUERY, options=pb.Options(long_documents=9)),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unusable_request_is_refused_by_the_name_of_its_field(stub, field, request_):
    assert field_of(failure(stub.Rerank, request_)) == field


def test_unusable_pairs_are_refused_by_the_name_of_their_field(stub):
    pairs = [pb.Pair(query=QUERY, document="a"), pb.Pair(document="b")]
    assert field_of(failure(stub.ScorePairs, pb.ScorePairsRequest(pairs=pairs))) == (
        "pairs[1].query"
    )
    for blank in (" ", "\n", "dune " * 41, "x" * 20_001):
        pairs[1].query = blank
        assert field_of(failure(stub.ScorePairs, pb.ScorePairsRequest(pairs=pairs))) == (
            "pairs[1].query"
        )
    pairs[1] = pb.Pair(query=QUERY, document="x" * 20_001)
    assert field_of(failure(stub.ScorePairs, pb.ScorePairsRequest(pairs=pairs))) == (
        "pairs[1].document"
    )


def stream(query: str, documents: list[str], **options: str) -> list[pb.RerankStreamRequest]:
    """The requests of a stream."""
    start = pb.RerankStreamStart(query=query, options=pb.Options(**options))
    chunk = pb.DocumentChunk(documents=documents)
    return [pb.RerankStreamRequest(start=start), pb.RerankStreamRequest(documents=chunk)]


@pytest.mark.parametrize(
    ("field", "requests"),
    [
        ("start", [pb.RerankStreamRequest(documents=pb.DocumentChunk(documents=["a"]))]),
        ("start.query", [pb.RerankStreamRequest(start=pb.RerankStreamStart(query=" "))]),
        ("start.query", [pb.RerankStreamRequest(start=pb.RerankStreamStart())]),
        ("documents", [pb.RerankStreamRequest(start=pb.RerankStreamStart(query=QUERY))] * 2),
        ("start.query", stream("dune " * 41, ["a"])),
        ("options.instruction", stream(QUERY, ["a"], instruction="x" * 20_001)),
        ("documents[1]", stream(QUERY, ["a", "x" * 20_001])),
    ],
)
def test_an_unusable_stream_is_refused_by_the_name_of_its_field(stub, field, requests):
    with pytest.raises(grpc.RpcError) as raised:
        list(stub.RerankStream(iter(requests), timeout=30))
    assert field_of(raised.value) == field


def test_what_is_too_long_is_told_in_the_terms_of_the_request(stub, channel):
    documents = ["a", "to read " * 150]
    error = failure(stub.Rerank, pb.RerankRequest(query=QUERY, documents=documents, options=REFUSE))
    values = "LONG_DOCUMENTS_TRUNCATE or LONG_DOCUMENTS_SPLIT"
    assert error.details().endswith(f"shorten it, or set options.long_documents to {values}")
    info = detail(error, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("OPTION_HELPS", "edgerank")
    assert (info.metadata["option"], info.metadata["values"]) == (
        "long_documents",
        "truncate,split",
    )
    request = tei_pb2.RerankRequest(query=QUERY, texts=["a", "to read " * 2000])
    error = failure(tei_pb2_grpc.RerankStub(channel).Rerank, request)
    assert field_of(error) == "texts[1]"
    assert error.details().endswith("shorten it, or set truncate")
    assert detail(error, error_details_pb2.ErrorInfo) is None  # it has no such option


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("query", tei_pb2.RerankRequest(query=" ", texts=["a"])),
        ("texts", tei_pb2.RerankRequest(query=QUERY)),
        ("texts", tei_pb2.RerankRequest(query=QUERY, texts=["a"] * 2001)),
        ("texts[1]", tei_pb2.RerankRequest(query=QUERY, texts=["a", "x" * 20_001])),
        (
            "truncation_direction",
            tei_pb2.RerankRequest(query=QUERY, texts=["a"], truncation_direction=1),
        ),
    ],
)
def test_an_unusable_request_of_tei_is_refused_by_the_name_of_its_field(channel, field, request_):
    assert field_of(failure(tei_pb2_grpc.RerankStub(channel).Rerank, request_)) == field


@pytest.mark.parametrize("query", ["", " \n\t"])
def test_a_blank_query_is_refused_as_by_the_embedded_reranker(stub, bundles, query):
    reranker = edgerank.Reranker(bundles / "qwen2.int8")
    with pytest.raises(InputError) as raised:
        reranker.score(query, ["a"])
    error = failure(stub.Rerank, pb.RerankRequest(query=query, documents=["a"]))
    assert field_of(error) == raised.value.path == "query"
    assert error.details() == str(raised.value)


@pytest.mark.parametrize("data", [b"\x0a\x02\xff\xfe", b"\xff\xff\xff", b"\x0a\x7f"])
def test_text_that_is_not_utf8_and_bytes_that_are_no_message_are_refused(channel, data):
    call = channel.unary_unary("/edgerank.v1.Reranker/Rerank")
    assert field_of(failure(call, data)) == "request"
    stream = channel.stream_stream("/edgerank.v1.Reranker/RerankStream")
    with pytest.raises(grpc.RpcError) as raised:
        list(stream(iter([data]), timeout=30))
    assert field_of(raised.value) == "request"


def test_an_unknown_model_is_not_found(stub):
    request = pb.RerankRequest(query=QUERY, documents=["a"], options=pb.Options(model="other"))
    assert failure(stub.Rerank, request).code() is grpc.StatusCode.NOT_FOUND


def test_an_unknown_method_is_unimplemented(channel):
    call = channel.unary_unary("/edgerank.v1.Reranker/Guess")
    assert failure(call, b"").code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_over_the_limit_is_resource_exhausted(stub):
    request = pb.RerankRequest(query=QUERY, documents=["x" * 19_000] * 110)
    assert failure(stub.Rerank, request).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def micro_batches(server: ServerProcess, since: float = 0) -> float:
    """Count the micro-batches that a server has computed, once its queue is empty."""
    eventually(lambda: server.metric("edgerank_queue_tokens") == 0, "an empty queue")
    return server.metric("edgerank_batch_requests_count") - since


def test_a_deadline_that_passes_ends_the_work_too(server, client):
    before = micro_batches(server)
    client.rank(QUERY, LONG)
    whole = micro_batches(server, before)
    with pytest.raises(ServerError, match="DEADLINE_EXCEEDED"):
        client.rank(QUERY, LONG, timeout=0.1)
    assert micro_batches(server, before + whole) < whole


def test_request_ids_come_back_and_bad_ones_are_replaced(server, stub):
    request = pb.RerankRequest(query=QUERY, documents=["a"])
    for given, is_kept in (("abc-123", True), ("no spaces", False)):
        _, call = stub.Rerank.with_call(request, metadata=[("x-request-id", given)])
        found = dict(call.trailing_metadata())["x-request-id"]
        assert (found == given) == is_kept
        eventually(
            lambda found=found: any(r["request_id"] == found for r in server.records("call")),
            "the call in the log",
        )


def test_nothing_of_a_client_s_text_is_logged(server, stub):
    for request in (
        pb.RerankRequest(query="sesame", documents=["sesame"], options=pb.Options(model="sesame")),
        pb.RerankRequest(query="sesame", documents=["sesame " * 300], options=REFUSE),
    ):
        failure(stub.Rerank, request, metadata=[("x-request-id", "the sesame"), ("x", "sesame")])
    stub.Rerank(pb.RerankRequest(query="sesame", documents=["sesame"]))
    count = len(server.records("call"))
    stub.ListModels(pb.ListModelsRequest())
    server.wait_for("call", count + 1)
    assert "sesame" not in "".join(server.lines)


# many clients, bad clients


def test_200_concurrent_requests_get_their_own_answers(server, bundles):
    reranker = edgerank.Reranker(bundles / "cross-encoder.int8")
    requests = [(f"query {n}", [f"document {n} {m}" for m in range(5)]) for n in range(200)]

    async def ask() -> list:
        clients = [AsyncClient(server.address) for _ in range(8)]
        calls = [
            clients[n % 8].score(query, documents, model="cross-encoder.int8")
            for n, (query, documents) in enumerate(requests)
        ]
        answers = await asyncio.gather(*calls)
        for client in clients:
            await client.aclose()
        return answers

    for (query, documents), scores in zip(requests[::20], asyncio.run(ask())[::20], strict=True):
        np.testing.assert_allclose(scores, reranker.score(query, documents), atol=1e-3)
    steps = server.metric("edgerank_batch_requests_count")
    assert server.metric("edgerank_batch_requests_sum") > steps  # some shared a micro-batch


def test_a_client_that_vanishes_leaves_nothing_behind(server, client):
    program = (
        "import sys; from edgerank import Client\n"
        "documents = [f'{n} a list of documents ' * 40 for n in range(1990)]\n"
        "Client(sys.argv[1]).rank('who wrote dune?', documents)"
    )
    before = micro_batches(server)
    client.rank(QUERY, [f"{n} a list of documents " * 40 for n in range(199)])
    tenth = micro_batches(server, before)
    started = server.metric("edgerank_batch_requests_count")
    with subprocess.Popen([sys.executable, "-c", program, server.address], cwd=ROOT) as process:
        eventually(
            lambda: server.metric("edgerank_batch_requests_count") > started, "work on its request"
        )
        process.kill()
    assert micro_batches(server, started) < 5 * tenth
    assert len(client.rank(QUERY, DOCUMENTS)) == 5


@pytest.mark.parametrize(
    "data",
    [
        np.random.default_rng(0).bytes(4096),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(range(256)) * 20,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + b"\xff\xff\xff\x01\x05\x00\x00\x00\x01"
        + b"\x00" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" * 2000,
    ],
    ids=["random", "http1", "frames", "huge frame", "settings"],
)
def test_garbage_on_the_socket_harms_nobody(server, client, data):
    host, _, port = server.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        try:
            while connection.recv(4096):
                pass
        except (ConnectionError, TimeoutError):
            pass
    assert len(client.rank(QUERY, DOCUMENTS)) == 5


def test_a_full_queue_asks_to_come_again(bundles):
    with ServerProcess("--model", bundles / "qwen2.int8", "--max-queue-tokens", 20_000) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = rerank_pb2_grpc.RerankerStub(channel)
            request = pb.RerankRequest(query=QUERY, documents=LONG[:40])
            calls = [stub.Rerank.future(request, timeout=60) for _ in range(12)]
            errors = [call.exception() for call in calls]
            refused = [error for error in errors if error is not None]
            assert 0 < len(refused) < 12
            for error in refused:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                delay = detail(error, error_details_pb2.RetryInfo).retry_delay
                assert pushback(error) == delay.ToMilliseconds() > 0
            request.documents.extend(LONG)
            error = failure(stub.Rerank, request)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert detail(error, error_details_pb2.RetryInfo) is None
            assert pushback(error) == -1
        with Client(server.address, max_attempts=1) as client, pytest.raises(ServerError) as raised:
            client.rank(QUERY, LONG)
        assert (raised.value.code, raised.value.retry_after_s) == ("RESOURCE_EXHAUSTED", None)


def test_a_message_of_64_mb_is_read(bundles):
    request = pb.RerankRequest(query=QUERY, documents=DOCUMENTS).SerializeToString()
    size = (1 << 26) - len(request) - 6
    padding = b"\x7a" + varint(size) + bytes(size)  # a field that the server does not know
    with (
        ServerProcess("--model", bundles / "qwen2.int8") as server,
        grpc.insecure_channel(server.address, [("grpc.max_send_message_length", -1)]) as channel,
    ):
        call = channel.unary_unary("/edgerank.v1.Reranker/Rerank")
        response = pb.RerankResponse.FromString(call(request + padding, timeout=60))
        assert len(response.results) == 5
        error = failure(call, request + padding + padding[:100])
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def varint(number: int) -> bytes:
    """A number as protobuf writes lengths."""
    low = number & 0x7F
    return bytes([low]) if number < 0x80 else bytes([low | 0x80]) + varint(number >> 7)


# starting, stopping, loading anew


def test_health_of_each_service_follows_loading_and_draining(bundles, tmp_path):
    source = bundles / "cross-encoder.int8"
    bundle = tmp_path / "slow"
    bundle.mkdir()
    for path in source.iterdir():
        if path.name != MANIFEST_NAME:
            (bundle / path.name).symlink_to(path)
    os.mkfifo(bundle / MANIFEST_NAME)  # the server waits until someone writes to it
    with (
        ServerProcess("--model", bundle, wait=False) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watches = [
            health.Watch(health_pb2.HealthCheckRequest(service=name)) for name in ["", *SERVICES]
        ]
        assert [next(watch).status for watch in watches] == [2] * 4  # NOT_SERVING
        stub = rerank_pb2_grpc.RerankerStub(channel)
        request = pb.RerankRequest(query=QUERY, documents=["a"])
        assert failure(stub.Rerank, request).code() is grpc.StatusCode.UNAVAILABLE
        with (bundle / MANIFEST_NAME).open("wb") as manifest:
            whole = tmp_path / "manifest"
            whole.write_bytes((source / MANIFEST_NAME).read_bytes())
            whole.replace(bundle / MANIFEST_NAME)
            manifest.write((source / MANIFEST_NAME).read_bytes())
        assert [next(watch).status for watch in watches] == [1] * 4  # SERVING
        assert len(stub.Rerank(request).results) == 1
        server.process.send_signal(signal.SIGTERM)
        assert [next(watch).status for watch in watches] == [2] * 4
        assert [list(watch) for watch in watches] == [[]] * 4  # watching ends, draining need not
        assert server.process.wait(60) == 0


def test_a_server_that_is_told_to_stop_finishes_what_it_has_accepted(bundles):
    outcomes: list[str] = []

    async def keep_asking(client: AsyncClient) -> None:
        while True:
            try:
                assert len(await client.rank(QUERY, LONG[:20])) == 20
                outcomes.append("OK")
            except Unavailable as error:  # gRPC cancels what comes while it closes
                outcomes.append(error.code)
                return

    async def load(server: ServerProcess) -> None:
        clients = [AsyncClient(server.address, max_attempts=1) for _ in range(16)]
        tasks = [asyncio.create_task(keep_asking(client)) for client in clients]
        while outcomes.count("OK") < 20:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*tasks)
        for client in clients:
            await client.aclose()

    with ServerProcess("--model", bundles / "qwen2.int8") as server:
        asyncio.run(load(server))
        assert server.process.wait(60) == 0
        server._reader.join()
        codes = [record["code"] for record in server.records("call")]
    assert set(codes) == {"OK"}  # of all calls that reached a handler
    assert outcomes.count("OK") == len(codes)
    assert set(outcomes) <= {"OK", "UNAVAILABLE", "CANCELLED"}


def copied(bundle: Path, copy: Path) -> Path:
    copy.mkdir()
    for path in bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def test_a_bundle_is_replaced_under_load_without_a_failed_request(bundles, tmp_path):
    bundle = copied(bundles / "cross-encoder.int8", tmp_path / "model")
    with (
        ServerProcess("--model", bundle, "--metrics", "127.0.0.1:0") as server,
        Client(server.address, max_attempts=1) as client,
    ):
        stop = threading.Event()
        failures: list[Exception] = []

        def keep_asking() -> None:
            while not stop.is_set():
                try:
                    client.rank(QUERY, LONG[:40])
                except Exception as error:
                    failures.append(error)

        threads = [threading.Thread(target=keep_asking) for _ in range(6)]
        for thread in threads:
            thread.start()
        digests = [client.models()[0].digest]
        manifest = read_bundle(bundle).manifest
        for number in range(3):
            source = msgspec.structs.replace(manifest.source, model=f"version {number}")
            write_manifest(bundle, msgspec.structs.replace(manifest, source=source))
            server.process.send_signal(signal.SIGHUP)
            server.wait_for("reload done", number + 1)
            digests.append(client.models()[0].digest)
        (bundle / MANIFEST_NAME).write_text("{")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("reload failed")
        digests.append(client.models()[0].digest)
        stop.set()
        for thread in threads:
            thread.join()
        [series] = server.series("edgerank_model_info")
        reloaded = server.records("reloaded")
    assert failures == []
    assert f'digest="{digests[-1]}"' in series
    assert [record["digest"] for record in reloaded] == digests[1:4]
    assert {record["kernels"] for record in reloaded} == {str(choose_kernels())}
    assert len(set(digests)) == 4
    assert digests[-1] == digests[-2]


# who may call


@pytest.fixture
def authority() -> Authority:
    return Authority.make()


def test_tls_with_certificates_that_are_replaced(bundles, tmp_path, authority):
    cert, key = authority.issue(tmp_path, "server")
    ca = authority.write(tmp_path / "ca.crt")
    options = ("--tls-cert", cert, "--tls-key", key)
    with ServerProcess("--model", bundles / "cross-encoder.int8", *options) as server:
        with Client(server.address, tls=TlsFiles(ca)) as client:
            assert len(client.rank(QUERY, DOCUMENTS)) == 5
        with (
            Client(server.address, max_attempts=1) as client,
            pytest.raises(ServerError, match="UNAVAILABLE"),
        ):
            client.rank(QUERY, DOCUMENTS)
        other = Authority.make()
        other.issue(tmp_path, "server")
        with Client(server.address, tls=TlsFiles(other.write(tmp_path / "new.crt"))) as client:
            assert len(client.rank(QUERY, DOCUMENTS)) == 5
        with (
            Client(server.address, tls=TlsFiles(ca), max_attempts=1) as client,
            pytest.raises(ServerError, match="UNAVAILABLE"),
        ):
            client.rank(QUERY, DOCUMENTS)
        cert.write_text("not a certificate")  # what was read before stays
        with Client(server.address, tls=TlsFiles(tmp_path / "new.crt")) as client:
            assert len(client.rank(QUERY, DOCUMENTS)) == 5


def test_mutual_tls_on_a_public_address_names_the_client(bundles, tmp_path, authority):
    cert, key = authority.issue(tmp_path, "server")
    ca = authority.write(tmp_path / "ca.crt")
    mine, my_key = authority.issue(tmp_path, "indexer")
    with ServerProcess(
        *("--model", bundles / "cross-encoder.int8", "--listen", "0.0.0.0:0"),
        *("--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca),
    ) as server:
        address = "localhost:" + server.address.rpartition(":")[2]
        with Client(address, tls=TlsFiles(ca, mine, my_key)) as client:
            assert len(client.rank(QUERY, DOCUMENTS)) == 5
        assert server.wait_for("call")["client"] == "cn:indexer"
        for files in (TlsFiles(ca), TlsFiles(ca, *Authority.make().issue(tmp_path, "stranger"))):
            with (
                Client(address, tls=files, max_attempts=1) as client,
                pytest.raises(ServerError, match="UNAVAILABLE"),
            ):
                client.rank(QUERY, DOCUMENTS)


def test_tokens_are_asked_for_and_replaced_on_a_unix_socket(bundles, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("# both for now\ntoken-1\ntoken-2\n")
    address = f"unix:{tmp_path / 'socket'}"
    options = ("--listen", address, "--tokens", tokens)
    with ServerProcess("--model", bundles / "cross-encoder.int8", *options) as server:
        assert server.address == address

        def code(token: str | None) -> str:
            try:
                with Client(address, token=token, max_attempts=1) as client:
                    assert len(client.rank(QUERY, DOCUMENTS)) == 5
            except ServerError as error:
                return error.code
            return "OK"

        assert [code(token) for token in (None, "", "token-3", "token-1", "token-2")] == [
            *["UNAUTHENTICATED"] * 3,
            *["OK"] * 2,
        ]
        tokens.write_text("token-2\ntoken-3\n")
        assert [code(token) for token in ("token-1", "token-2", "token-3")] == [
            "UNAUTHENTICATED",
            "OK",
            "OK",
        ]
        tokens.write_text("")  # not taken for "no tokens": what was read before stays
        assert [code(token) for token in (None, "token-3")] == ["UNAUTHENTICATED", "OK"]
        with grpc.insecure_channel(address) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert check.status == 1
            info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
            asked = reflection_pb2.ServerReflectionRequest(list_services="")
            with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
                list(info(iter([asked]), timeout=30))
        assert not re.search(r"token-\d", "".join(server.lines))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--listen", "0.0.0.0:0"], "can be reached from other machines"),
        (["--listen", "[::]:0"], "can be reached from other machines"),
        (["--listen", "example.org:1"], "can be reached from other machines"),
        (["--listen", "nowhere"], "neither HOST:PORT nor unix:PATH"),
        (["--tls-cert", "a"], "go together"),
        (["--tokens", "absent"], "absent"),
        (["--metrics", "9090"], "not HOST:PORT"),
        (["--kernels", "avx9"], "--kernels: 'avx9' cannot be used here"),
        (["--model", "a=x", "--model", "a=y"], "given twice"),
        ([], "a bundle is a directory"),
    ],
)
def test_bad_settings_are_one_line_and_status_2(options, message):
    line = fail("serve", "--model", "absent-bundle", *options, EDGERANK_LOG_LEVEL="error")
    assert message in line


# other ways to ask


def test_reflection_lists_the_services(channel):
    info = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="edgerank.v1.Reranker"),
    ]
    services, file = list(info(iter(asked), timeout=30))
    assert {*SERVICES, "grpc.health.v1.Health"} <= {
        service.name for service in services.list_services_response.service
    }
    assert file.file_descriptor_response.file_descriptor_proto


TEI_CLIENT = """
import json, sys
import grpc, tei_pb2, tei_pb2_grpc
channel = grpc.insecure_channel(sys.argv[1])
info = tei_pb2_grpc.InfoStub(channel).Info(tei_pb2.InfoRequest())
stub = tei_pb2_grpc.RerankStub(channel)
query, texts = json.loads(sys.argv[2])
request = tei_pb2.RerankRequest(query=query, texts=texts, truncate=True, return_text=True)
normal = stub.Rerank(request)
request.raw_scores = True
raw = stub.Rerank(request)
stream = stub.RerankStream(
    tei_pb2.RerankStreamRequest(query=query, text=text, truncate=True) for text in texts
)
try:
    code = stub.Rerank(tei_pb2.RerankRequest(query=query)).code()
except grpc.RpcError as error:
    code = error.code()
print(json.dumps({
    "info": [info.model_type, info.model_dtype, info.max_client_batch_size],
    "normal": [[rank.index, rank.score, rank.text] for rank in normal.ranks],
    "raw": [[rank.index, rank.score] for rank in raw.ranks],
    "stream": [[rank.index, rank.score] for rank in stream.ranks],
    "tokens": normal.metadata.compute_tokens,
    "code": code.name,
}))
"""


def test_a_client_of_text_embeddings_inference_is_understood(server, bundles, tmp_path):
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT / 'proto/tei/v1'}"]
    outputs = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    subprocess.run([*protoc, *outputs, "tei.proto"], check=True)
    done = subprocess.run(
        [sys.executable, "-c", TEI_CLIENT, server.address, json.dumps([QUERY, DOCUMENTS])],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    answer = json.loads(done.stdout)
    reranker = edgerank.Reranker(bundles / "qwen2.int8")
    normal = reranker.rank(QUERY, DOCUMENTS, normalize=True)
    raw = reranker.rank(QUERY, DOCUMENTS)
    assert answer["info"] == [2, "int8", 2000]
    assert answer["code"] == "INVALID_ARGUMENT"
    assert answer["tokens"] > 0
    assert [(index, text) for index, _, text in answer["normal"]] == [
        (hit.index, hit.document) for hit in normal
    ]
    for found, hits in (("normal", normal), ("stream", normal), ("raw", raw)):
        np.testing.assert_allclose(
            [score for _, score, *_ in answer[found]], [hit.score for hit in hits], atol=1e-3
        )


def test_the_client_command_ranks_as_rerank_does(server, bundles, tmp_path):
    documents = tmp_path / "documents.txt"
    documents.write_text("\n".join(DOCUMENTS))
    options = [QUERY, documents, "--json", "--top-k", "3"]
    asked, embedded = (
        subprocess.run(
            [sys.executable, "-m", "edgerank", *command, *options],
            check=True,
            capture_output=True,
            cwd=ROOT,
        ).stdout
        for command in (
            ["client", "--server", server.address],
            ["rerank", "--model", bundles / "qwen2.int8"],
        )
    )
    asked_ids, embedded_ids = (
        [record["id"] for record in json.loads(output)] for output in (asked, embedded)
    )
    assert asked_ids == embedded_ids


def test_clients_refuse_what_the_embedded_reranker_refuses(client):
    for call in (
        lambda: client.rank(QUERY, "a lone string"),
        lambda: client.rank(QUERY, ["a"], top_k=0),
        lambda: client.score(QUERY, ["\ud800"]),
        lambda: client.score_pairs([("a",)]),
        lambda: client.score(QUERY, ["a"], long_documents="cut"),
        lambda: client.score("", ["a"]),
    ):
        with pytest.raises(InputError):
            call()


def test_a_server_that_is_not_there_is_an_error():
    with Client("127.0.0.1:1", max_attempts=1) as client, pytest.raises(ServerError) as raised:
        client.rank(QUERY, DOCUMENTS)
    assert raised.value.code == "UNAVAILABLE"


def test_a_server_that_is_not_there_is_one_line_for_the_client_command():
    done = subprocess.run(
        [sys.executable, "-m", "edgerank", "client", "q", "--server", "127.0.0.1:1"],
        cwd=ROOT,
        input="a document",
        capture_output=True,
        text=True,
    )
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("edgerank")]
    assert (done.returncode, done.stdout) == (2, "")
    assert line.startswith("edgerank: error: UNAVAILABLE")


@pytest.mark.soak
def test_20_000_requests_leave_memory_flat(bundles):
    async def ask(address: str, count: int) -> None:
        async with AsyncClient(address) as client:

            async def some(first: int) -> None:
                for n in range(first, count, 16):
                    await client.rank(f"query {n}", [f"document {n} {m}" for m in range(3)])

            await asyncio.gather(*map(some, range(16)))

    options = ("--metrics", "127.0.0.1:0")
    with ServerProcess("--model", bundles / "cross-encoder.int8", *options) as server:
        asyncio.run(ask(server.address, 4000))
        before = server.metric("process_resident_memory_bytes")
        asyncio.run(ask(server.address, 16_000))
        after = server.metric("process_resident_memory_bytes")
    assert after - before < 8e6
