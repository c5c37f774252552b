"""The server's pages in a real browser."""

from __future__ import annotations

import shutil

import pytest

from edgerank import Reranker
from tests.clients.ask import Ask
from tests.clients.environment import ask_all, needs_clients
from tests.support.serving import ServerProcess

pytestmark = [
    needs_clients,
    pytest.mark.skipif(
        shutil.which("chromedriver") is None or shutil.which("chromium") is None,
        reason="needs chromium and chromedriver (Debian's chromium-driver)",
    ),
]

QUERY = "who wrote dune?"
DOCUMENTS = [
    "Paris, since 987",
    "Dune was written by Frank Herbert in 1965",
    "a list of documents",
]


def test_the_page_ranks_and_tells_errors_in_a_browser(tmp_path):
    picture = tmp_path / "page.png"
    with ServerProcess("--http", "127.0.0.1:0") as server:
        ask = Ask(QUERY, DOCUMENTS, url=f"http://{server.http}", picture=str(picture))
        [told] = ask_all("page", "look", [ask])
    assert told.error is None, told
    seen = told.answer
    assert "default" in seen["models"][0]
    hits = Reranker().rank(QUERY, DOCUMENTS, normalize=True)
    for row, hit in zip(seen["results"], hits, strict=True):
        assert hit.document in row
        assert f"{hit.score:.4f}" in row
    assert "inference" in seen["timings"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "blank" in seen["error"]
    assert "POST /v1/rerank" in seen["methods"]
    assert [line for line in seen["log"] if "400 (Bad Request)" not in line] == []
