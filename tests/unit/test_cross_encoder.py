"""``CrossEncoder`` in the forms that callers of sentence-transformers use."""

from __future__ import annotations

import numpy as np
import pytest

from edgerank import InputError, Reranker
from edgerank.integrations.sentence_transformers import CrossEncoder

QUERY = "who wrote dune?"
DOCUMENTS = ["Paris, since 987", "Dune was written by Frank Herbert", "Paris, since 987"]
PAIRS = [(QUERY, document) for document in DOCUMENTS]


@pytest.fixture(scope="module")
def encoder() -> CrossEncoder:
    return CrossEncoder()


@pytest.mark.parametrize("form", [list, tuple, np.array], ids=["list", "tuple", "array"])
def test_pairs_of_any_form_have_the_reranker_s_scores(encoder, form):
    expected = Reranker().score(QUERY, DOCUMENTS)
    scores = encoder.predict(form([form(pair) for pair in PAIRS]))
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert encoder.predict(form(PAIRS[1])) == pytest.approx(expected[1], abs=1e-6)


def test_no_pairs_have_no_scores(encoder):
    assert encoder.predict([]).shape == (0,)
    assert encoder.rank(QUERY, []) == []


def test_documents_are_ranked_best_first_and_equal_ones_in_their_order(encoder):
    ranked = encoder.rank(QUERY, DOCUMENTS, return_documents=True)
    assert [each["corpus_id"] for each in ranked] == [1, 0, 2]
    assert [each["text"] for each in ranked] == [DOCUMENTS[1], DOCUMENTS[0], DOCUMENTS[2]]
    assert all(type(each["score"]) is float for each in ranked)
    best = encoder.rank(QUERY, DOCUMENTS, top_k=1, batch_size=1, device="cpu")
    assert [each.keys() for each in best] == [{"corpus_id", "score"}]


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("activation_fn", {"activation_fn": float}),
        ("convert_to_tensor", {"convert_to_tensor": True}),
        ("convert_to_tensor", {"convert_to_numpy": False}),
        ("instruction", {"prompt": "be kind"}),
        ("prompt_name", {"prompt_name": "query"}),
    ],
)
def test_what_cannot_be_done_is_refused(encoder, field, options):
    with pytest.raises(InputError) as refused:
        encoder.predict(PAIRS, **options)
    assert refused.value.field == field


def test_progress_is_drawn_when_it_is_asked_for(encoder, capsys):
    encoder.predict(PAIRS, show_progress_bar=True)
    assert "100%" in capsys.readouterr().err
    encoder.predict(PAIRS)
    assert capsys.readouterr().err == ""
