"""Both clients with the server, a process of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerank
from edgerank import errors
from edgerank.client import AsyncClient, Client, TlsFiles
from edgerank.errors import EdgerankError, InputError
from tests.support.cli import fail, succeed
from tests.support.clients import KINDS, call, from_afar
from tests.support.imports import loaded_by, packages
from tests.support.serving import Authority, ServerProcess, eventually

QUERY = "who wrote dune?"
DOCUMENTS = [
    {"title": "Dune", "text": "Frank Herbert", "year": "1965"},
    "Paris, since 987",
    "",
    "a list of documents and relevance " * 12,
    {"text": "Paris, since 987"},
]
PAIRS = [(QUERY, document) for document in DOCUMENTS] + [("capital of France", DOCUMENTS[1])]
LONG = [f"{n} a reranker reads a query and a list of documents " * 4 for n in range(1000)]
MODELS = ["qwen2.int8", "cross-encoder.int8"]
MANY_BYTES = "x" * 20_001


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[ServerProcess]:
    """A server of two models, with small limits."""
    with ServerProcess(
        *(part for name in MODELS for part in ("--model", bundles / name)),
        *("--max-documents", "2000", "--max-query-tokens", "40", "--max-document-bytes", "20000"),
        *("--max-message-bytes", "2000000", "--max-queue-tokens", "20000"),
    ) as server:
        yield server


@pytest.fixture(scope="module")
def reranker(bundles: Path) -> edgerank.Reranker:
    return edgerank.Reranker(bundles / MODELS[1])


@pytest.fixture(params=KINDS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def ask(kind: Any, server: ServerProcess) -> Any:
    """Call a method of a client."""
    return lambda method, *arguments, **keywords: call(
        kind, server.address, method, *arguments, **keywords
    )


def assert_close(scores: Any, expected: Any) -> None:
    np.testing.assert_allclose(scores, expected, atol=1e-3)


# results


def test_clients_answer_as_the_embedded_reranker_does(ask, reranker):
    options = {"model": MODELS[1], "long_documents": "split", "normalize": True}
    embedded = {"long_documents": "split", "normalize": True}
    expected = reranker.score(QUERY, DOCUMENTS, **embedded)
    assert_close(ask("score", QUERY, DOCUMENTS, **options), expected)
    assert_close(ask("score_pairs", PAIRS, **options), reranker.score_pairs(PAIRS, **embedded))
    streamed = dict(ask("score_stream", QUERY, DOCUMENTS, **options))
    assert_close([streamed[index] for index in range(len(DOCUMENTS))], expected)
    hits = ask("rank", QUERY, DOCUMENTS, top_k=3, **options)
    ranked = reranker.rank(QUERY, DOCUMENTS, top_k=3, **embedded)
    assert [(hit.index, hit.document) for hit in hits] == [
        (hit.index, hit.document) for hit in ranked
    ]
    assert_close([hit.score for hit in hits], [hit.score for hit in ranked])
    without = ask("rank", QUERY, DOCUMENTS, top_k=3, return_documents=False, **options)
    assert [(hit.index, hit.document) for hit in without] == [(hit.index, None) for hit in hits]


@pytest.mark.parametrize("made", [iter, from_afar], ids=["iterator", "async iterator"])
def test_documents_and_pairs_may_come_from_an_iterator(server, made):
    def get(method: str, *arguments: Any) -> Any:
        return call(AsyncClient, server.address, method, *arguments)

    whole = call(Client, server.address, "score", QUERY, iter(DOCUMENTS))
    assert_close(get("score", QUERY, made(DOCUMENTS)), whole)
    assert get("rank", QUERY, made(DOCUMENTS)) == call(
        Client, server.address, "rank", QUERY, iter(DOCUMENTS)
    )
    pairs = call(Client, server.address, "score_pairs", iter(PAIRS))
    assert_close(get("score_pairs", made(PAIRS)), pairs)
    streamed = dict(get("score_stream", QUERY, made(DOCUMENTS)))
    assert_close([streamed[index] for index in range(len(DOCUMENTS))], whole)


def test_no_documents_have_no_scores(ask):
    assert ask("rank", QUERY, []) == ask("score_stream", QUERY, []) == []
    for scores in (ask("score", QUERY, []), ask("score_pairs", [])):
        assert (scores.shape, scores.dtype) == ((0,), np.float32)


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("rank", (QUERY, DOCUMENTS)), ("score", (QUERY, DOCUMENTS)), ("score_pairs", (PAIRS,))],
)
def test_results_say_what_the_server_has_computed(server, ask, method, arguments):
    result = ask(method, *arguments, model=MODELS[1])
    assert result.model == MODELS[1]
    logged = record_of(server, result.request_id)
    assert (logged["model"], logged["code"]) == (MODELS[1], "OK")
    assert result.usage.tokens == logged["tokens"] > 0
    timings = result.timings
    parts = (timings.tokenize_s, timings.queue_s, timings.inference_s)
    assert min(parts) >= 0
    assert timings.inference_s > 0
    assert sum(parts) <= timings.total_s <= logged["ms"] / 1e3
    assert ask(method, *arguments).model == MODELS[0]


def record_of(server: ServerProcess, request_id: str) -> dict[str, Any]:
    """The log's record of a call."""

    def found() -> list[dict[str, Any]]:
        return [r for r in server.records("call") if r["request_id"] == request_id]

    eventually(lambda: bool(found()), "the call in the log")
    [record] = found()
    return record


def test_models_are_described_with_the_variant_and_the_kernels_that_run(ask, reranker):
    models = ask("models")
    assert [model.name for model in models] == MODELS
    assert [model.takes_instruction for model in models] == [True, False]
    described = models[1]
    assert (described.max_length, described.digest) == (
        reranker.max_length,
        reranker.bundle.digest,
    )
    assert (described.variant, described.variant_reason) == (
        reranker.variant.name,
        reranker.variant.reason,
    )
    assert (described.kernels, described.kernels_reason) == (
        reranker.kernels.name,
        reranker.kernels.reason,
    )


# what is refused before it is sent


@pytest.mark.parametrize("documents", ["a lone string", {"text": "a lone mapping"}, 5, None])
@pytest.mark.parametrize("method", ["rank", "score", "score_stream"])
def test_documents_that_are_no_list_are_refused(ask, method, documents):
    with pytest.raises(InputError, match=r"^documents: expected a list of documents"):
        ask(method, QUERY, documents)


@pytest.mark.parametrize("query", ["", " \n", None, 5, "\ud800"], ids=ascii)
def test_a_stream_checks_its_query_and_its_documents_when_it_is_asked_for(server, query):
    with Client(server.address) as client:
        with pytest.raises(InputError, match=r"^query: "):
            client.score_stream(query, DOCUMENTS)
        with pytest.raises(InputError, match=r"^documents: "):
            client.score_stream(QUERY, "a lone string")

    async def ask() -> None:
        async with AsyncClient(server.address) as client:
            with pytest.raises(InputError, match=r"^query: "):
                client.score_stream(query, from_afar(DOCUMENTS))
            with pytest.raises(InputError, match=r"^documents: "):
                client.score_stream(QUERY, "a lone string")

    asyncio.run(ask())


@pytest.mark.parametrize("document", [5, None, "\udfff", {"year": 1965}], ids=ascii)
def test_an_unusable_document_within_a_stream_is_named_after_what_was_sent(server, document):
    documents = [*LONG[:130], document, "fine"]
    found = []
    with Client(server.address) as client, pytest.raises(InputError) as raised:
        for index, _ in client.score_stream(QUERY, documents):
            found.append(index)
    assert (raised.value.index, sorted(found)) == (130, [*range(128)])  # whole chunks

    async def ask(made: Callable[[Any], Any]) -> None:
        found = []
        async with AsyncClient(server.address) as client:
            with pytest.raises(InputError) as raised:
                async for index, _ in client.score_stream(QUERY, made(documents)):
                    found.append(index)
        assert (raised.value.index, sorted(found)) == (130, [*range(128)])

    asyncio.run(ask(list))
    asyncio.run(ask(from_afar))


# what the server refuses


@pytest.mark.parametrize("method", ["rank", "score", "score_stream"])
def test_a_document_that_the_server_refuses_is_named(ask, method):
    with pytest.raises(InputError, match="20001 bytes") as raised:
        ask(method, QUERY, ["fine", MANY_BYTES])
    assert (raised.value.field, raised.value.index) == ("documents", 1)


def test_other_arguments_that_the_server_refuses_are_named(ask):
    for query in ("dune " * 41, MANY_BYTES):
        for method in ("rank", "score_stream"):
            with pytest.raises(InputError) as raised:
                ask(method, query, ["fine"])
            assert raised.value.path == "query"
        with pytest.raises(InputError) as raised:
            ask("score_pairs", [(QUERY, "fine"), (query, "fine")])
        assert (raised.value.field, raised.value.index) == ("pairs.query", 1)
    with pytest.raises(InputError) as raised:
        ask("score_pairs", [(QUERY, "fine"), (QUERY, MANY_BYTES)])
    assert raised.value.path == "pairs[1].document"
    for instruction, model in (("be kind", MODELS[1]), (MANY_BYTES, MODELS[0])):
        with pytest.raises(InputError) as raised:
            ask("rank", QUERY, ["fine"], instruction=instruction, model=model)
        assert raised.value.path == "instruction"


def test_what_can_be_done_about_a_long_document_is_said_in_terms_of_python(ask, reranker):
    documents = ["fine", "to read " * 150]
    with pytest.raises(InputError) as raised:
        ask("score", QUERY, documents, long_documents="refuse", model=MODELS[1])
    with pytest.raises(InputError) as embedded:
        reranker.score(QUERY, documents, long_documents="refuse")
    assert raised.value.args == embedded.value.args
    assert raised.value.remedy is not None


def test_an_unknown_model_is_an_error_of_its_own(server, ask):
    for method in ("rank", "score_stream"):
        with pytest.raises(errors.UnknownModel) as raised:
            ask(method, QUERY, DOCUMENTS, model="other")
        assert MODELS[0] in str(raised.value)
        assert record_of(server, raised.value.request_id)["code"] == "NOT_FOUND"


def test_requests_that_are_too_much_have_errors_of_their_own(ask):
    with pytest.raises(errors.RequestTooLarge):
        ask("rank", QUERY, [MANY_BYTES[1:]] * 110)
    with pytest.raises(errors.Overloaded) as raised:
        ask("rank", QUERY, LONG)
    assert raised.value.retry_after_s is None  # it does not fit into an empty queue either


def test_a_time_that_cannot_be_kept_is_an_error_of_its_own(ask):
    with pytest.raises(errors.DeadlineExceeded):
        ask("rank", QUERY, LONG[:300], timeout=0.001)
    with pytest.raises(errors.DeadlineExceeded):
        ask("score_stream", QUERY, LONG, options={"timeout": 0.001})


def test_a_server_that_is_not_there_is_an_error_of_its_own(kind):
    for method in ("rank", "score_stream"):
        with pytest.raises(errors.Unavailable) as raised:
            call(kind, "127.0.0.1:1", method, QUERY, DOCUMENTS)
        assert (raised.value.code, raised.value.request_id) == ("UNAVAILABLE", "")


def test_a_client_of_several_servers_takes_turns_and_passes_over_one_that_has_gone(server, bundles):
    with (
        ServerProcess("--model", bundles / MODELS[1]) as other,
        Client(f"ipv4:{server.address},{other.address}") as client,
    ):
        eventually(lambda: {len(client.models()) for _ in range(4)} == {1, 2}, "both servers")
        other.terminate()
        assert {len(client.models()) for _ in range(4)} == {2}


def test_tls_and_tokens_are_checked_for_both_clients(kind, bundles, tmp_path):
    authority = Authority.make()
    cert, key = authority.issue(tmp_path, "server")
    tls = TlsFiles(authority.write(tmp_path / "ca.crt"))
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    options = ("--tls-cert", cert, "--tls-key", key, "--tokens", tokens)
    with ServerProcess("--model", bundles / MODELS[1], *options) as server:

        def models(**options: Any) -> Any:
            return call(kind, server.address, "models", options=options)

        assert len(models(tls=tls, token="secret")) == 1
        for token in (None, "wrong"):
            with pytest.raises(errors.Unauthenticated):
                models(tls=tls, token=token)
        with pytest.raises(errors.Unavailable):
            models(token="secret")


# closing


def test_closing_a_client_ends_a_stream_with_an_error(server):
    more = threading.Event()

    def documents() -> Iterator[str]:
        yield from LONG[:64]
        more.wait()

    client = Client(server.address)
    stream = client.score_stream(QUERY, documents())
    assert 0 <= next(stream)[0] < 64
    client.close()
    with pytest.raises(EdgerankError, match="the client is closed"):
        list(stream)
    more.set()

    async def endless() -> AsyncIterator[str]:
        for text in LONG[:64]:
            yield text
        await asyncio.Event().wait()

    async def ask() -> None:
        client = AsyncClient(server.address)
        stream = client.score_stream(QUERY, endless())
        assert 0 <= (await anext(stream))[0] < 64
        await client.aclose()
        with pytest.raises(EdgerankError, match="the client is closed"):
            [_ async for _ in stream]

    asyncio.run(ask())


# processes


def test_a_process_that_uses_a_client_loads_no_engine_and_no_tokenizer(server):
    code = (
        "import asyncio; from edgerank import AsyncClient, Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    assert len(client.rank('dune', ['a', {'text': 'b'}])) == 2\n"
        "    assert len(list(client.score_stream('dune', ['a']))) == 1\n"
        "async def ask():\n"
        "    async with AsyncClient(sys.argv[1]) as client:\n"
        "        assert len(await client.score('dune', ['a'])) == 1\n"
        "asyncio.run(ask())"
    )
    loaded = packages(loaded_by(code, server.address))
    assert "grpc" in loaded
    assert loaded.isdisjoint({"onnxruntime", "tokenizers", "torch"})


def test_the_command_ranks_and_its_errors_are_one_line(server, tmp_path):
    def options(*more: str) -> list[str]:
        return ["client", QUERY, "-", "--server", server.address, "--json", *more]

    records = [{"id": n, "text": text} for n, text in enumerate(["Frank Herbert", "Paris"], 7)]
    stdin = "\n".join(map(json.dumps, records)).encode()
    ranked = json.loads(succeed(*options(), stdin=stdin))
    assert {record["id"] for record in ranked} == {"7", "8"}
    for more, expected in (
        (["--model", "other"], "NOT_FOUND: no model has that name"),
        (["--model", MODELS[1], "--instruction", "be kind"], "--instruction: "),
        (["--timeout", "inf"], "--timeout: "),
        (["--tls-cert", "cert.pem"], "tls: cert and key go together"),
    ):
        assert fail(*options(*more), stdin=stdin).startswith(expected)
    for more, text, expected in (
        ([], MANY_BYTES, ": it has 20001 bytes"),
        (
            ["--model", MODELS[1], "--long-documents", "refuse"],
            "to read " * 150,
            "; shorten it, or use --long-documents truncate or split",
        ),
    ):
        line = fail(*options(*more), stdin=json.dumps({"id": "a7", "text": text}).encode())
        assert line.startswith("document a7: ")
        assert expected in line
