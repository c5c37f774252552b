"""The server's HTTP methods, as a process of its own, in the forms of the APIs that they follow."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest

import edgerank
from edgerank.bundle import read_bundle
from edgerank.client import Client
from edgerank.serving.http.application import SHAPES
from tests.support.serving import ServerProcess, eventually

QUERY = "who wrote dune?"
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965",
    "Paris, since 987",
    "",
    "a list of documents and relevance " * 12,
    "Paris, since 987",
]
MODELS = ["qwen2.int8", "cross-encoder.int8", "embedding.int8"]
TOLERANCE = 1e-6
PATIENCE_S = 60
LONG = "to read " * 2000  # more tokens than any model takes


@pytest.fixture(scope="module")
def server(bundles: Path) -> Iterator[ServerProcess]:
    """A server of all models, with small limits."""
    with ServerProcess(
        *(part for name in MODELS for part in ("--model", bundles / name)),
        *("--http", "127.0.0.1:0", "--metrics", "127.0.0.1:0", "--max-documents", "2000"),
        *("--max-query-tokens", "40", "--max-document-bytes", "20000"),
        *("--max-message-bytes", "2000000"),
    ) as server:
        yield server


@pytest.fixture(scope="module")
def http(server: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.http}", timeout=PATIENCE_S) as client:
        yield client


def post(http: httpx.Client, path: str, **body: object) -> httpx.Response:
    return http.post(path, json=body)


def answer(http: httpx.Client, path: str, **body: object):
    response = post(http, path, **body)
    assert response.status_code == 200, response.text
    return response.json()


# the shapes


@pytest.mark.parametrize(("path", "version"), [("/v1/rerank", "1"), ("/v2/rerank", "2")])
def test_rerank_has_the_fields_of_cohere_jina_and_vllm(http, bundles, path, version):
    response = post(http, path, query=QUERY, documents=DOCUMENTS, top_n=2, return_documents=True)
    reranker = edgerank.Reranker(bundles / MODELS[0])
    hits = reranker.rank(QUERY, DOCUMENTS, top_k=2, normalize=True)
    tokens = response.json()["usage"]["total_tokens"]
    assert response.json() == {
        "id": response.headers["x-request-id"],
        "object": "list",
        "model": MODELS[0],
        "results": [
            {
                "index": hit.index,
                "relevance_score": pytest.approx(hit.score, abs=TOLERANCE),
                "document": {"text": hit.document},
            }
            for hit in hits
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": version, "is_experimental": False},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": tokens, "output_tokens": 0},
        },
    }
    assert tokens > 0
    stages = [part.split(";")[0] for part in response.headers["server-timing"].split(", ")]
    assert stages == ["tokenize", "queue", "inference", "total"]


@pytest.mark.parametrize("option", [{"top_k": 2}, {"truncation": True}])
def test_rerank_answers_a_request_of_voyage_in_its_form_too(http, option):
    plain = {"query": QUERY, "documents": DOCUMENTS}
    given = answer(http, "/v1/rerank", return_documents=True, **plain, **option)
    assert given["data"] == [
        {**result, "document": result["document"]["text"]} for result in given["results"]
    ]
    given = answer(http, "/v1/rerank", **plain, **option)
    assert given["data"] == given["results"]
    assert "data" not in answer(http, "/v1/rerank", **plain)


def test_rerank_of_tei_is_a_bare_list_with_its_headers(http, bundles):
    response = post(http, "/rerank", query=QUERY, texts=DOCUMENTS, return_text=True)
    hits = edgerank.Reranker(bundles / MODELS[0]).rank(QUERY, DOCUMENTS, normalize=True)
    assert response.json() == [
        {
            "index": hit.index,
            "score": pytest.approx(hit.score, abs=TOLERANCE),
            "text": hit.document,
        }
        for hit in hits
    ]
    headers = response.headers
    characters = len(QUERY) * len(DOCUMENTS) + sum(map(len, DOCUMENTS))
    assert int(headers["x-compute-characters"]) == characters
    assert int(headers["x-compute-tokens"]) > 0
    for name in ("total", "tokenization", "queue", "inference"):
        assert int(headers[f"x-{name}-time"]) >= 0
    plain = answer(http, "/rerank", query=QUERY, texts=DOCUMENTS, raw_scores=True)
    assert all(rank.keys() == {"index", "score"} for rank in plain)
    scores = edgerank.Reranker(bundles / MODELS[0]).score(QUERY, DOCUMENTS)
    for rank in plain:
        assert rank["score"] == pytest.approx(scores[rank["index"]], abs=TOLERANCE)


def test_rerank_without_a_version_answers_a_request_of_vllm(http):
    given = answer(http, "/rerank", query=QUERY, documents=DOCUMENTS[:2])
    assert [result["document"]["text"] for result in given["results"]] == [
        DOCUMENTS[result["index"]] for result in given["results"]
    ]
    assert answer(http, "/rerank", query=QUERY, documents=DOCUMENTS[0])["results"][0]["index"] == 0


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
@pytest.mark.parametrize("names", [("text_1", "text_2"), ("queries", "documents")])
def test_scores_of_vllm_are_in_the_order_of_the_pairs(http, bundles, path, names):
    queries = [QUERY, "capital of France", QUERY]
    documents = DOCUMENTS[:3]
    reranker = edgerank.Reranker(bundles / MODELS[0])
    for asked, expected in (
        (QUERY, reranker.score(QUERY, documents, normalize=True)),
        ([QUERY], reranker.score(QUERY, documents, normalize=True)),
        (queries, reranker.score_pairs(zip(queries, documents, strict=True), normalize=True)),
    ):
        given = answer(http, path, **dict(zip(names, (asked, documents), strict=True)))
        assert given["object"] == "list"
        assert given["model"] == MODELS[0]
        assert [(item["index"], item["object"]) for item in given["data"]] == [
            (index, "score") for index in range(3)
        ]
        scores = [item["score"] for item in given["data"]]
        np.testing.assert_allclose(scores, expected, atol=TOLERANCE)
    raw = answer(http, path, text_1=QUERY, text_2=documents, use_activation=False)["data"]
    np.testing.assert_allclose(
        [item["score"] for item in raw], reranker.score(QUERY, documents), atol=TOLERANCE
    )


@pytest.mark.parametrize("kind", ["document", "query"])
def test_embeddings_of_openai_are_the_vectors_of_the_embedded_reranker(http, bundles, kind):
    texts = ["Dune", "Paris, since 987", "Dune"]
    expected = edgerank.Reranker(bundles / "embedding.int8").encode(texts, kind=kind)
    options = {"model": "embedding.int8", "input_type": kind}
    given = answer(http, "/v1/embeddings", input=texts, **options)
    assert (given["object"], given["model"]) == ("list", "embedding.int8")
    assert given["usage"]["total_tokens"] > 0
    assert [item["index"] for item in given["data"]] == [0, 1, 2]
    vectors = [item["embedding"] for item in given["data"]]
    np.testing.assert_allclose(vectors, expected, atol=TOLERANCE)
    packed = answer(http, "/v1/embeddings", input=texts, encoding_format="base64", **options)
    for item, vector in zip(packed["data"], vectors, strict=True):
        decoded = np.frombuffer(base64.b64decode(item["embedding"]), "<f4")
        np.testing.assert_allclose(decoded, vector, atol=TOLERANCE)
    dimension = len(vectors[0])
    assert answer(http, "/v1/embeddings", input="Dune", dimensions=dimension, **options)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("raw", [False, True])
def test_scores_are_those_of_the_embedded_reranker_and_of_grpc(server, http, bundles, name, raw):
    expected = edgerank.Reranker(bundles / name).score(QUERY, DOCUMENTS, normalize=not raw)
    with Client(server.address) as client:
        over_grpc = client.score(QUERY, DOCUMENTS, model=name, normalize=not raw)
    options = {"model": name, "raw_scores": raw}
    results = answer(http, "/v1/rerank", query=QUERY, documents=DOCUMENTS, **options)["results"]
    scores = {result["index"]: result["relevance_score"] for result in results}
    np.testing.assert_allclose([scores[n] for n in range(5)], expected, atol=TOLERANCE)
    np.testing.assert_allclose(over_grpc, expected, atol=TOLERANCE)
    if not raw:
        assert all(0 <= score <= 1 for score in scores.values())


def test_an_object_reads_as_the_same_mapping_does_in_python(http, bundles):
    document = {"title": "Dune", "text": "a book by Frank Herbert", "year": "1965"}
    [expected] = edgerank.Reranker(bundles / MODELS[0]).score(QUERY, [document], normalize=True)
    [result] = answer(
        http, "/v1/rerank", query=QUERY, documents=[document], return_documents="true"
    )["results"]
    assert result["relevance_score"] == pytest.approx(expected, abs=TOLERANCE)
    assert result["document"]["text"] == "Dune\na book by Frank Herbert\nyear: 1965"


def test_documents_are_cut_to_the_tokens_asked_for(http):
    options = {"query": QUERY, "model": "cross-encoder.int8"}
    long = ["one two three four five six seven eight", "one two"]

    def scores(documents: list[str], **more: object) -> list[float]:
        results = answer(http, "/v1/rerank", documents=documents, **options, **more)["results"]
        return [x["relevance_score"] for x in sorted(results, key=lambda x: x["index"])]

    whole, cut = scores(long), scores(long, max_tokens_per_doc=1)
    assert whole[0] != cut[0]
    assert cut[0] == pytest.approx(cut[1], abs=TOLERANCE)


def test_an_instruction_changes_scores_as_in_the_embedded_reranker(http, bundles):
    instruction = "instruction: relevance is length"
    reranker = edgerank.Reranker(bundles / "qwen2.int8")
    expected = reranker.rank(QUERY, DOCUMENTS, instruction=instruction, normalize=True)
    given = answer(
        http, "/v1/rerank", query=QUERY, documents=DOCUMENTS, instruction=instruction, top_k=1
    )["results"]
    assert given == [
        {
            "index": expected[0].index,
            "relevance_score": pytest.approx(expected[0].score, abs=TOLERANCE),
        }
    ]


@pytest.mark.parametrize("body", [{"top_n": 0}, {"top_n": None}, {"stray": [1, {"x": None}]}, {}])
def test_all_documents_are_ranked_unless_fewer_are_asked_for(http, body):
    given = answer(http, "/v2/rerank", query=QUERY, documents=DOCUMENTS, **body)
    assert len(given["results"]) == len(DOCUMENTS)


def test_models_are_listed_and_the_first_described_as_tei_does(http, bundles):
    listed = http.get("/v1/models").json()
    assert (listed["object"], [model["id"] for model in listed["data"]]) == ("list", MODELS)
    assert [model["encodes_texts"] for model in listed["data"]] == [False, False, True]
    reranker = edgerank.Reranker(bundles / MODELS[1])
    described = listed["data"][1]
    assert described["digest"] == reranker.bundle.digest
    assert described["kernels"] == reranker.kernels.name
    assert described["fidelity"]["pairs"] == reranker.variant.variant.fidelity.pairs
    info = http.get("/info").json()
    manifest = read_bundle(bundles / MODELS[0]).manifest
    assert next(iter(info["model_type"])) == "reranker"
    assert info["max_input_length"] == manifest.max_length
    assert info["max_client_batch_size"] == 2000
    assert info["model_id"] == manifest.source.model


def test_every_answer_has_the_type_that_the_api_document_states(http):
    document = http.get("/openapi.json").json()
    assert set(document["paths"]) == {shape.path for shape in SHAPES}
    bodies = {
        "/v1/rerank": {"query": QUERY, "documents": ["a"], "return_documents": True},
        "/v2/rerank": {"query": QUERY, "documents": ["a"]},
        "/rerank": {"query": QUERY, "texts": ["a"]},
        "/score": {"text_1": QUERY, "text_2": "a"},
        "/v1/score": {"queries": QUERY, "items": "a"},
        "/v1/embeddings": {"input": "a", "model": "embedding.int8"},
    }
    for shape in SHAPES:
        if shape.http_method == "GET":
            response = http.get(shape.path)
        else:
            response = http.post(shape.path, json=bodies.pop(shape.path))
        assert response.status_code == 200, shape.path
        msgspec.convert(response.json(), shape.response)
    assert not bodies


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_are_whole_in_themselves(http, path):
    response = http.get(path)
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    for outside in ("http://", "https://", "//cdn", "src="):
        assert outside not in response.text


def test_metrics_count_calls_of_both_transports(server, http):
    answer(http, "/v1/rerank", query=QUERY, documents=DOCUMENTS)
    with Client(server.address) as client:
        client.score(QUERY, DOCUMENTS)
    page = http.get("/metrics").text
    assert 'edgerank_requests_total{code="OK",method="/v1/rerank"}' in page
    assert 'edgerank_requests_total{code="OK",method="/edgerank.v1.Reranker/Rerank"}' in page


# the errors


def error_of(response: httpx.Response) -> tuple[int, str | None]:
    """The status and the field of an error in the common form, which says the same three times."""
    body = response.json()
    assert body.keys() == {"message", "detail", "error"}
    assert body["message"] == body["detail"] == body["error"]["message"]
    assert body["error"]["code"] == response.status_code
    assert response.headers["x-request-id"]
    return response.status_code, body["error"]["param"]


@pytest.mark.parametrize(
    ("field", "path", "body"),
    [
        ("query", "/v1/rerank", {"documents": ["a"]}),
        ("query", "/v1/rerank", {"query": " \n", "documents": ["a"]}),
        ("query", "/v1/rerank", {"query": 3, "documents": ["a"]}),
        ("query", "/v1/rerank", {"query": "dune " * 41, "documents": ["a"]}),
        ("query", "/v1/rerank", {"query": "x" * 20_001, "documents": ["a"]}),
        ("documents", "/v1/rerank", {"query": QUERY}),
        ("documents", "/v1/rerank", {"query": QUERY, "documents": []}),
        ("documents", "/v1/rerank", {"query": QUERY, "documents": None}),
        ("documents", "/v1/rerank", {"query": QUERY, "documents": ["a"] * 2001}),
        ("documents[1]", "/v1/rerank", {"query": QUERY, "documents": ["a", 3]}),
        ("documents[1]", "/v1/rerank", {"query": QUERY, "documents": ["a", "x" * 20_001]}),
        ("documents[0].year", "/v1/rerank", {"query": QUERY, "documents": [{"year": 1965}]}),
        ("top_n", "/v1/rerank", {"query": QUERY, "documents": ["a"], "top_n": -1}),
        ("top_n", "/v1/rerank", {"query": QUERY, "documents": ["a"], "top_n": "many"}),
        (
            "max_tokens_per_doc",
            "/v1/rerank",
            {"query": QUERY, "documents": ["a"], "max_tokens_per_doc": -1},
        ),
        (
            "documents[1]",
            "/v1/rerank",
            {"query": QUERY, "documents": ["a", LONG], "truncation": False},
        ),
        (
            "instruction",
            "/v1/rerank",
            {
                "query": QUERY,
                "documents": ["a"],
                "instruction": "be kind",
                "model": "cross-encoder.int8",
            },
        ),
        ("text_1", "/v1/score", {"text_1": QUERY}),
        ("text_1", "/v1/score", {"text_1": [QUERY] * 2, "text_2": ["a"] * 3}),
        ("text_1[1]", "/v1/score", {"text_1": [QUERY, " "], "text_2": ["a", "b"]}),
        ("text_2", "/v1/score", {"text_1": QUERY, "text_2": []}),
        ("text_2[1]", "/v1/score", {"text_1": QUERY, "text_2": ["a", None]}),
        ("model", "/v1/embeddings", {"input": "a"}),
        ("input", "/v1/embeddings", {"input": [], "model": "embedding.int8"}),
        ("input[1]", "/v1/embeddings", {"input": ["a", [3]], "model": "embedding.int8"}),
        (
            "dimensions",
            "/v1/embeddings",
            {"input": "a", "model": "embedding.int8", "dimensions": 7},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_unusable_request_is_refused_by_the_name_of_its_field(http, field, path, body):
    assert error_of(http.post(path, json=body)) == (400, field)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("query", {"texts": ["a"]}),
        ("query", {"query": " ", "texts": ["a"]}),
        ("texts", {"query": QUERY}),
        ("texts", {"query": QUERY, "texts": []}),
        ("texts[1]", {"query": QUERY, "texts": ["a", {}]}),
        ("texts[1]", {"query": QUERY, "texts": ["a", LONG], "truncate": False}),
        ("truncation_direction", {"query": QUERY, "texts": ["a"], "truncation_direction": "left"}),
    ],
)
def test_an_unusable_request_of_tei_is_refused_in_its_form(http, field, body):
    response = http.post("/rerank", json=body)
    told = response.json()
    assert (response.status_code, told["error_type"]) == (422, "Validation")
    assert told["error"].startswith(f"{field}: ")


def test_what_is_too_long_says_what_can_be_done(http):
    told = http.post("/rerank", json={"query": QUERY, "texts": [LONG], "truncate": False}).json()
    assert told["error"].endswith("or set truncate")
    body = {"query": QUERY, "documents": [LONG], "long_documents": "refuse"}
    told = http.post("/v1/rerank", json=body).json()
    assert told["message"].endswith('or set long_documents to "truncate" or "split"')


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"query": "\xff", "documents": ["a"]}',
        b"[" * 100_000,
        b'{"query": "a", "documents": [' + b'{"a": ' * 100_000,
        b'{"query": "a", "documents": ["a"], "stray": ' + b"[" * 500_000,
    ],
    ids=range(9),
)
def test_a_body_that_is_no_json_object_is_a_bad_request(http, body):
    response = http.post("/v1/rerank", content=body)
    assert response.status_code == 400, response.text
    assert http.get("/health").status_code == 200


def test_a_lone_surrogate_is_refused_by_the_name_of_its_field(http):
    response = http.post("/v1/rerank", content=rb'{"query": "\ud800", "documents": ["a"]}')
    assert response.status_code == 400


def test_an_unknown_model_path_or_method_is_told(http):
    told = post(http, "/v1/rerank", query=QUERY, documents=["a"], model="other")
    assert error_of(told) == (404, None)
    assert all(name in told.json()["message"] for name in MODELS)
    assert http.get("/v9/rerank").status_code == 404
    assert http.get("/v1/rerank").status_code == 405
    assert http.get("/v9/rerank").json()["message"].endswith("see /docs")


def test_a_body_over_the_limit_is_not_read(server, http):
    assert error_of(http.post("/v1/rerank", content=b" " * 2_000_001))[0] == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(30):
            yield b" " * 100_000

    assert error_of(http.post("/v1/rerank", content=chunks()))[0] == 413
    with socket.create_connection(server.http.split(":")) as raw:
        raw.sendall(
            b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: 100000000000\r\n\r\nabc"
        )
        assert b"413" in raw.recv(1000)


def test_a_deadline_that_cannot_be_met_is_told(http):
    documents = ["a reranker reads a query and a list of documents " * 20] * 2000
    body = {"query": QUERY, "documents": [f"{n} {text}" for n, text in enumerate(documents)]}
    response = http.post("/v1/rerank", json=body, headers={"x-request-timeout": "0.01"})
    assert error_of(response)[0] == 504
    assert "deadline" in response.json()["message"]
    for bad in ("-1", "soon", "nan", "0"):
        response = http.post("/v1/rerank", json=body, headers={"x-request-timeout": bad})
        assert error_of(response) == (400, "x-request-timeout")


def test_a_client_that_goes_costs_no_more_work(server, http):
    body = {
        "query": QUERY,
        "documents": [f"{n} a reranker reads a query " * 40 for n in range(500)],
    }
    before = server.metric("edgerank_documents_total")
    headers = {"x-request-id": "goes"}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"http://{server.http}/v1/rerank", json=body, headers=headers, timeout=0.3)

    def records() -> list[dict]:
        return [record for record in server.records("call") if record["request_id"] == "goes"]

    eventually(lambda: bool(records()), "the call's end")
    assert records()[0]["code"] == "CANCELLED"
    assert server.metric("edgerank_documents_total") == before
    assert answer(http, "/v1/rerank", query=QUERY, documents=["a"])


def test_a_request_s_id_is_the_client_s_where_it_is_usable(server, http):
    body = {"query": QUERY, "documents": ["a"]}
    response = http.post("/v1/rerank", json=body, headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == response.json()["id"] == "mine-1"
    response = http.post("/v1/rerank", json=body, headers={"x-request-id": "no good"})
    assert response.headers["x-request-id"] not in ("", "no good")
    eventually(
        lambda: any(record["request_id"] == "mine-1" for record in server.records("call")),
        "the call in the log",
    )


def test_garbage_is_answered_and_closed_and_others_are_served(server, http):
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"GET / SMTP/1.1\r\n\r\n"):
        with socket.create_connection(server.http.split(":")) as raw:
            raw.sendall(garbage)
            raw.settimeout(PATIENCE_S)
            received = b""
            while part := raw.recv(1000):  # until the server closes
                received += part
            assert received.startswith(b"HTTP/1.1 4")
    with socket.create_connection(server.http.split(":")) as raw:
        raw.settimeout(PATIENCE_S)
        sender = threading.Thread(target=send_headers_without_end, args=[raw], daemon=True)
        sender.start()
        assert raw.recv(1000).startswith(b"HTTP/1.1 400")
        sender.join()
    assert answer(http, "/v1/rerank", query=QUERY, documents=["a"])


def send_headers_without_end(raw: socket.socket) -> None:
    try:
        raw.sendall(b"GET / HTTP/1.1\r\n")
        for number in range(100_000):
            raw.sendall(b"x-%d: %s\r\n" % (number, b"y" * 100))
    except OSError:
        return  # the server has closed


def test_the_log_has_no_text_of_clients(server, http):
    secret = "Xyzzy plugh"
    answer(http, "/v1/rerank", query=secret, documents=[secret])
    post(http, "/v1/rerank", query=secret, documents=[secret, 3])
    post(http, "/v1/rerank", query=secret, documents=[secret], model=secret)
    assert not any("Xyzzy" in line or "plugh" in line for line in server.lines)


def test_requests_on_one_connection_are_answered_in_turn(server):
    body = json.dumps({"query": QUERY, "documents": ["a"]}).encode()
    request = b"POST /v1/rerank HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s"
    with socket.create_connection(server.http.split(":")) as raw:
        raw.sendall((request % (len(body), body)) * 3)
        raw.settimeout(PATIENCE_S)
        received = b""
        while received.count(b'"object":"list"') < 3:
            received += raw.recv(10_000)
        assert received.count(b"HTTP/1.1 200 OK") == 3
