"""A document's int8 score does not depend on its company."""

from __future__ import annotations

import numpy as np
import pytest

from edgerank import Reranker

TOLERANCE = 1e-3


@pytest.mark.parametrize("name", ["qwen2", "cross-encoder", "embedding"])
@pytest.mark.parametrize("max_batch_tokens", [64, 512])
def test_a_documents_int8_score_alone_is_its_score_among_fifty_others(
    bundles, name, max_batch_tokens
):
    rng = np.random.default_rng(0)
    words = ["a", "query", "and", "documents", "relevance", "Paris", "Dune", "written", "1965"]
    documents = [" ".join(rng.choice(words, rng.integers(1, 60))) for _ in range(51)]
    reranker = Reranker(bundles / f"{name}.int8", max_batch_tokens=max_batch_tokens)
    alone = np.array([reranker.score("who wrote dune?", [text])[0] for text in documents])
    order = rng.permutation(len(documents))
    among = reranker.score("who wrote dune?", [documents[index] for index in order])
    assert np.ptp(alone) > 20 * TOLERANCE  # the documents do differ
    np.testing.assert_allclose(among, alone[order], atol=TOLERANCE)
