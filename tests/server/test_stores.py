"""Documents given by their ids, over both transports, with the scores of the store itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator

import httpx
import numpy as np
import pytest

from edgerank import DocumentStore, InputError
from edgerank.client import AsyncClient, Client
from tests.support.serving import ServerProcess, eventually

QUERY = "who wrote dune?"
DOCUMENTS = {
    "dune": "Dune was written by Frank Herbert in 1965.",
    "paris": "Paris has been the capital of France since 987.",
    "empty": "",
    "long": "a list of documents and relevance " * 120,
}
IDS = ["paris", "long", "dune", "paris"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Iterator[DocumentStore]:
    directory = tmp_path_factory.mktemp("stores") / "books"
    with DocumentStore.build(directory, DOCUMENTS) as store:
        yield store


@pytest.fixture(scope="module")
def server(store) -> Iterator[ServerProcess]:
    with ServerProcess(
        *("--store", store.directory, "--store", f"again={store.directory}"),
        *("--http", "127.0.0.1:0", "--max-documents", "50", "--max-query-tokens", "40"),
    ) as server:
        yield server


@pytest.fixture
def client(server) -> Iterator[Client]:
    with Client(server.address, max_attempts=1) as client:
        yield client


def post(server: ServerProcess, **body: object) -> httpx.Response:
    return httpx.post(f"http://{server.http}/v1/rerank", json=body, timeout=60)


@pytest.mark.parametrize("normalize", [False, True])
def test_grpc_ranks_by_ids_as_the_store_does(normalize, client, store):
    expected = store.rank(QUERY, IDS, normalize=normalize)
    for name in (None, "books", "again"):
        found = client.rank_stored(QUERY, IDS, store=name, normalize=normalize)
        assert [hit.document for hit in found] == [hit.id for hit in expected]
        assert [IDS[hit.index] for hit in found] == [hit.id for hit in expected]
        np.testing.assert_allclose(
            [hit.score for hit in found], [hit.score for hit in expected], atol=1e-5
        )
    assert found.model == "default"
    assert 0 < found.usage.tokens < 20  # of the query alone
    assert len(client.rank_stored(QUERY, IDS, top_k=2)) == 2
    assert client.rank_stored(QUERY, []) == []


def test_the_client_for_asyncio_does_the_same(server, client):
    async def ask() -> list:
        async with AsyncClient(server.address) as other:
            return await other.rank_stored(QUERY, IDS)

    assert asyncio.run(ask()) == client.rank_stored(QUERY, IDS)


def test_http_ranks_by_ids_as_the_store_does(server, store):
    expected = store.rank(QUERY, IDS, top_k=3, normalize=True)
    response = post(server, query=QUERY, document_ids=IDS, top_n=3, return_documents=True)
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [IDS[result["index"]] for result in results] == [hit.id for hit in expected]
    np.testing.assert_allclose(
        [result["relevance_score"] for result in results],
        [hit.score for hit in expected],
        atol=1e-5,
    )
    assert all("document" not in result for result in results)  # their texts are not kept


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"document_ids": ["dune", "nobody"]}, "document_ids[1]"),
        ({"document_ids": ["dune"], "documents": ["too"]}, "document_ids"),
        ({"document_ids": ["dune"], "store": "other"}, "there are: books, again"),
        ({"document_ids": ["dune"], "model": "other"}, "of the model default"),
        ({"document_ids": ["dune"], "long_documents": "split"}, "long_documents"),
        ({"document_ids": ["dune"] * 51}, "the limit is 50"),
        ({"document_ids": ["dune"], "query": " "}, "query"),
        ({"document_ids": ["dune"], "query": "why " * 50}, "query"),
        ({}, "documents"),
    ],
)
def test_what_cannot_be_is_refused_over_http(body, words, server):
    response = post(server, **{"query": QUERY, **body})
    assert response.status_code == 400
    assert words in response.text


def test_what_cannot_be_is_refused_over_grpc(client):
    with pytest.raises(InputError, match=r"document_ids\[1\]: 'nobody' is not in the store"):
        client.rank_stored(QUERY, ["dune", "nobody"])
    with pytest.raises(InputError, match="there are: books, again"):
        client.rank_stored(QUERY, ["dune"], store="other")


def test_a_server_without_stores_says_so():
    with (
        ServerProcess() as server,
        Client(server.address, max_attempts=1) as client,
        pytest.raises(InputError, match="this server has no store"),
    ):
        client.rank_stored(QUERY, ["dune"])


def test_a_store_needs_its_model(tmp_path, store):
    other = tmp_path / "other"
    shutil.copytree(store.directory, other)
    manifest = (other / "store.json").read_text()
    (other / "store.json").write_text(manifest.replace(store.manifest.binding.bundle, "0" * 64))
    with ServerProcess("--store", other, wait=False) as server:
        assert server.process.wait(60) == 2
        eventually(lambda: "edgerank: error" in server.lines[-1], "the error")
        assert "is not served; give its bundle with --model" in server.lines[-1]


def test_sighup_shows_what_was_added(server, client, store):
    more = {"leto": "Leto is a character of Dune."}
    with pytest.raises(InputError):
        client.rank_stored(QUERY, ["leto"])
    store.add(more)
    os.kill(server.process.pid, signal.SIGHUP)
    server.wait_for("reload done")
    eventually(lambda: client.rank_stored(QUERY, ["leto"]) != [], "the new document")
    assert client.rank_stored(QUERY, ["leto"])[0].score == pytest.approx(
        store.score(QUERY, ["leto"])[0], abs=1e-5
    )
