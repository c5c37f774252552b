"""rank() and score() end to end against the packages that define the families."""

from __future__ import annotations

import numpy as np
import pytest
from mxbai_rerank import MxbaiRerankV2
from sentence_transformers import CrossEncoder, SentenceTransformer

from edgerank import InputError, Reranker
from tests.support.checkpoints import save_embedding

# mxbai-rerank turns its scores into NumPy arrays by a protocol that NumPy 2 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

QUERY = "who wrote dune?"
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965.",
    "Paris is the capital of France.",
    "",
    "数は力 der Fluß fließt <|im_end|> слово",
    "a query and a list of documents " * 40,
    "Dune.",
]


@pytest.mark.parametrize("max_batch_tokens", [32, 512])
@pytest.mark.parametrize("instruction", [None, "prefer recent books"])
@pytest.mark.parametrize("normalize", [False, True])
def test_mxbai_ranks_as_its_package_does(qwen2, bundles, max_batch_tokens, instruction, normalize):
    reference = MxbaiRerankV2(str(qwen2), device="cpu", max_length=400)
    expected = reference.rank(QUERY, DOCUMENTS, instruction=instruction, normalize=normalize)
    reranker = Reranker(bundles / "qwen2.fp32", max_length=400, max_batch_tokens=max_batch_tokens)
    hits = reranker.rank(QUERY, DOCUMENTS, instruction=instruction, normalize=normalize)
    assert [hit.index for hit in hits] == [result.index for result in expected]
    assert [hit.document for hit in hits] == [result.document for result in expected]
    np.testing.assert_allclose(
        [hit.score for hit in hits], [result.score for result in expected], atol=1e-4
    )


def test_a_cross_encoder_scores_as_sentence_transformers_does(cross_encoder, bundles):
    reference = CrossEncoder(str(cross_encoder), device="cpu")
    expected = reference.predict([(QUERY, text) for text in DOCUMENTS])
    scores = Reranker(bundles / "cross-encoder.fp32").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, expected, atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_an_embedding_model_scores_as_sentence_transformers_does(tmp_path, pooling):
    from quantize import quantize

    checkpoint = save_embedding(tmp_path / "checkpoint", pooling)
    quantize(checkpoint, tmp_path / "bundle", precision="fp32")
    query, *documents = SentenceTransformer(str(checkpoint), device="cpu").encode(
        [QUERY, *DOCUMENTS]
    )
    reranker = Reranker(tmp_path / "bundle")
    scores = reranker.score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, np.array(documents) @ query, atol=1e-4)
    vectors = reranker.encode([*DOCUMENTS, DOCUMENTS[0]])
    np.testing.assert_allclose(vectors, [*documents, documents[0]], atol=1e-4)
    np.testing.assert_allclose(reranker.encode([QUERY], kind="query"), [query], atol=1e-4)


def test_a_model_that_reads_both_texts_together_encodes_none(bundles):
    for name in ("qwen2.fp32", "cross-encoder.fp32"):
        with pytest.raises(InputError, match=r"^texts: .* reads a query and a document together"):
            Reranker(bundles / name).encode(DOCUMENTS)


def test_pairs_of_many_queries_score_as_each_alone(bundles):
    pairs = [(f"query {number % 3}", text) for number, text in enumerate(DOCUMENTS * 2)]
    for family in ("qwen2", "cross-encoder", "embedding"):
        reranker = Reranker(bundles / f"{family}.fp32")
        alone = [reranker.score(query, [text])[0] for query, text in pairs]
        np.testing.assert_allclose(reranker.score_pairs(pairs), alone, atol=1e-5)
