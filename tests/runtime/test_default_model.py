"""The model in the package: it is in the wheel, it is the default everywhere, and it ranks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgerank import Reranker, evaluation
from edgerank.bundle import DEFAULT_BUNDLE
from tests.support import ROOT
from tests.support.cli import edgerank, succeed
from tests.support.shared import shared

QUERY = "how do I delete a folder?"
DOCUMENTS = [
    "Paris is the capital of France.",
    "shutil.rmtree: Recursively delete a directory tree.",
    "math.floor: Return the floor of x as an integer.",
    "",
]
SIZE_LIMIT = 24_000_000
# fails whatever asks for a connection or a name
OFFLINE = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
from edgerank.cli import main
main()
"""


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker()


def test_the_wheel_has_all_that_a_ranking_takes(tmp_path):
    hatchling = pytest.importorskip("hatchling.build")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        wheel = tmp_path / hatchling.build_wheel(str(tmp_path))
    finally:
        os.chdir(before)
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
        names = file.namelist()
    assert "edgerank/models/default/MODEL_CARD.md" in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "rerank", QUERY, "--json"],
        input="\n".join(DOCUMENTS[:3]).encode(),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(site)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["text"] == DOCUMENTS[1]


def test_it_is_small_and_intact():
    files = list(DEFAULT_BUNDLE.iterdir())
    assert sum(file.stat().st_size for file in files) < SIZE_LIMIT
    assert succeed("verify").count("intact") == len(files) - 2  # the manifest and the card


def test_the_command_line_needs_no_model(tmp_path):
    lines = "\n".join(DOCUMENTS[:3]).encode()
    assert DOCUMENTS[1] in succeed("rerank", QUERY, stdin=lines).splitlines()[1]
    assert "late-interaction" in succeed("inspect")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUERY}) + "\n")
    (tmp_path / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"d{number}", "text": f"{text} A folder."}) + "\n"
            for number, text in enumerate(DOCUMENTS)
        )
    )
    [_, ours] = json.loads(succeed("eval", tmp_path, "--json"))["runs"]
    assert (ours["name"], ours["means"]["nDCG@10"]) == ("default", 1.0)
    assert edgerank("rerank", QUERY, stdin=lines, EDGERANK_MODEL="elsewhere").returncode == 2


def test_scores_are_probabilities_whatever_the_text(reranker):
    texts = [*DOCUMENTS, "\n", "数は力", "a" * 3000, "💥 " * 50, "x = {'a': 1}\n" * 300]
    queries = [QUERY, "", "?", "the of and"]
    scores = reranker.score_pairs([(query, text) for query in queries for text in texts])
    assert np.isfinite(scores).all()
    assert (scores >= 0).all() and (scores <= 1).all()
    normalized = reranker.score_pairs(
        [(query, text) for query in queries for text in texts], normalize=True
    )
    np.testing.assert_allclose(normalized, scores, atol=1e-6)


def test_a_long_document_scores_no_less_than_its_beginning(reranker):
    filler = "The committee met in the spring and adjourned without a decision. " * 60
    texts = [filler + DOCUMENTS[1], DOCUMENTS[1] + filler, filler]
    best = reranker.score(QUERY, texts)
    beginnings = reranker.score(QUERY, texts, long_documents="truncate")
    assert (best >= beginnings - 1e-6).all()
    assert best[0] > beginnings[0] + 0.01  # the answer is at its end
    assert best[0] > best[2]


def test_it_ranks_better_than_bm25():
    judged = evaluation.read_collection(shared("collections/xquad-en"))
    run = evaluation.bm25(judged, 6)
    chosen = list(run)[::20]
    candidates = {query: run[query] for query in chosen}
    qrels = {query: judged.qrels[query] for query in chosen}
    rescored = evaluation.rescore_with_bundle(judged, candidates, DEFAULT_BUNDLE)
    before, after = (
        evaluation.evaluate(qrels, found).means[evaluation.NDCG]
        for found in (candidates, rescored.run)
    )
    assert after > before
