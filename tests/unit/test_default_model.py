"""The model in the package: small, intact, the default of the command line, and able to rank."""

from __future__ import annotations

import numpy as np
import pytest

from edgerank import Reranker
from edgerank.bundle import DEFAULT_BUNDLE
from tests.support.cli import edgerank, succeed

QUERY = "how do I delete a folder?"
DOCUMENTS = [
    "Paris is the capital of France.",
    "shutil.rmtree: Recursively delete a directory tree.",
    "math.floor: Return the floor of x as an integer.",
    "",
]
SIZE_LIMIT = 24_000_000


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker()


def test_it_is_small_and_intact():
    files = list(DEFAULT_BUNDLE.iterdir())
    assert sum(file.stat().st_size for file in files) < SIZE_LIMIT
    assert succeed("verify").count("intact") == len(files) - 2  # the manifest and the card


def test_the_command_line_needs_no_model():
    lines = "\n".join(DOCUMENTS[:3]).encode()
    assert DOCUMENTS[1] in succeed("rerank", QUERY, stdin=lines).splitlines()[1]
    assert "late-interaction" in succeed("inspect")
    assert edgerank("rerank", QUERY, stdin=lines, EDGERANK_MODEL="elsewhere").returncode == 2


def test_scores_are_probabilities_whatever_the_text(reranker):
    texts = [*DOCUMENTS, "\n", "数は力", "a" * 3000, "💥 " * 50, "x = {'a': 1}\n" * 300]
    queries = [QUERY, "?", "the of and"]
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
