"""Scores and rankings against the obvious Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgerank.manifest import Scoring
from edgerank.ranking import top
from edgerank.rules import scoring_rule
from edgerank.scoring import best_of_each, cosines, unit_rows

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
    others = len(raw) - count
    rest = st.lists(st.integers(0, count - 1), min_size=others, max_size=others)
    document_index = list(range(count)) + data.draw(rest)
    expected = [
        max(raw[i] for i in range(len(raw)) if document_index[i] == d) for d in range(count)
    ]
    assert best_of_each(raw, document_index, count).tolist() == expected


@given(raw=any_values, offset=st.sampled_from([0.0, 4.5, 6.0]))
def test_a_normalised_logit_is_a_shifted_sigmoid(raw, offset):
    scoring = Scoring("logit", activation="sigmoid", normalize_offset=offset)
    scores = scoring_rule(scoring).normalization(raw)
    expected = [1 / (1 + math.exp(min(offset - float(x), 700))) for x in raw]
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert scores.dtype == np.float32


@given(raw=any_values)
def test_without_an_activation_a_logit_stays_as_it_is(raw):
    np.testing.assert_array_equal(scoring_rule(Scoring("logit")).activation(raw), raw)


def test_a_cosine_lies_in_its_range_and_normalises_to_zero_and_one():
    query = np.array([0.6, 0.8], np.float32)
    documents = np.array([[0.6, 0.8], [-0.6, -0.8], [0.8, -0.6]], np.float32)
    found = cosines(query, documents)
    np.testing.assert_allclose(found, [1, -1, 0], atol=1e-6)
    assert np.abs(found).max() <= 1
    normalised = scoring_rule(Scoring("cosine")).normalization(found)
    np.testing.assert_allclose(normalised, [1, 0, 0.5], atol=1e-6)


def test_unit_rows_have_length_one_and_a_row_of_zeros_stays():
    rows = unit_rows(np.array([[3, 4], [0, 0], [-5, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [-1, 0]], atol=1e-7)


@pytest.mark.parametrize(
    ("scoring", "score_range"),
    [
        (Scoring("logit"), (-math.inf, math.inf)),
        (Scoring("logit", activation="tanh"), (-1, 1)),
        (Scoring("late_interaction", activation="sigmoid"), (0, 1)),
        (Scoring("cosine"), (-1, 1)),
    ],
)
@given(raw=any_values)
def test_scores_stay_within_the_range_of_the_rule(scoring, score_range, raw):
    rule = scoring_rule(scoring)
    assert rule.score_range == score_range
    scores = rule.activation(np.clip(raw, -1, 1) if scoring.rule == "cosine" else raw)
    assert score_range[0] <= scores.min()
    assert scores.max() <= score_range[1]
