"""Scores and rankings against the obvious Python."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgerank.manifest import Scoring
from edgerank.scoring import activate, best_of_each, similarities, top

few_values = arrays(np.float32, st.integers(0, 30), elements=st.sampled_from([-1.5, 0, 0.5, 2]))
any_values = arrays(
    np.float32, st.integers(1, 30), elements=st.floats(-(2.0**99), 2.0**99, width=32)
)


@given(scores=few_values, top_k=st.none() | st.integers(1, 40))
def test_equal_scores_keep_their_order(scores, top_k):
    expected = sorted(range(len(scores)), key=lambda index: -scores[index])
    assert top(scores, top_k) == expected[:top_k]


@given(raw=any_values, data=st.data())
def test_a_document_gets_the_best_of_its_sequences(raw, data):
    count = data.draw(st.integers(1, len(raw)))
    rest = st.lists(st.integers(0, count - 1), min_size=len(raw) - count, max_size=len(raw) - count)
    owners = list(range(count)) + data.draw(rest)
    expected = [max(raw[i] for i in range(len(raw)) if owners[i] == d) for d in range(count)]
    assert best_of_each(raw, owners, count).tolist() == expected


@given(raw=any_values, offset=st.sampled_from([0.0, 4.5, 6.0]))
def test_a_normalised_logit_is_a_shifted_sigmoid(raw, offset):
    scoring = Scoring("logit", activation="sigmoid", normalize_offset=offset)
    scores = activate(raw, scoring, normalize=True)
    expected = [1 / (1 + math.exp(min(offset - float(x), 700))) for x in raw]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.dtype == np.float32


@given(raw=any_values)
def test_without_an_activation_a_logit_stays_as_it_is(raw):
    np.testing.assert_array_equal(activate(raw, Scoring("logit"), normalize=False), raw)


def test_a_cosine_lies_in_its_range_and_normalises_to_zero_and_one():
    query = np.array([0.6, 0.8], np.float32)
    documents = np.array([[0.6, 0.8], [-0.6, -0.8], [0.8, -0.6]], np.float32)
    cosines = similarities(query, documents)
    np.testing.assert_allclose(cosines, [1, -1, 0], atol=1e-6)
    assert np.abs(cosines).max() <= 1
    normalised = activate(cosines, Scoring("similarity"), normalize=True)
    np.testing.assert_allclose(normalised, [1, 0, 0.5], atol=1e-6)
