"""MaxSim against the obvious Python, and how its rule compares tokens of a graph's results."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerank import rules
from edgerank.documents import Pair, make_pairs
from edgerank.late_interaction import maxsim, token_vectors
from edgerank.manifest import Scoring
from edgerank.packing import EMPTY, Group, Tokens, pack
from edgerank.prompt import Encoded
from edgerank.rules import scoring_rule

DIMENSION = 8


def tokens(*ids: int) -> Tokens:
    return Tokens(np.array(ids, np.int64), np.zeros(len(ids), np.int64))


def random_rows(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIMENSION)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def obvious(query: np.ndarray, document: np.ndarray) -> float:
    """A loop over the tokens of both."""
    if len(document) == 0:
        return 0.0
    return sum(max(float(q @ d) for d in unit(document)) for q in unit(query))


@given(lengths=st.lists(st.integers(0, 6), max_size=8), num_query=st.integers(1, 5))
def test_each_token_of_the_query_takes_its_nearest_in_each_document(lengths, num_query):
    query = random_rows(0, num_query)
    documents = [random_rows(place + 1, length) for place, length in enumerate(lengths)]
    scores = maxsim(unit(query), [unit(document) for document in documents])
    assert scores.dtype == np.float32
    expected = [obvious(query, document) for document in documents]
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_tokens_on_the_skip_list_are_left_out_and_the_others_have_length_one():
    raw = [random_rows(1, 4), random_rows(2, 2)]
    texts, scoring = [tokens(1, 7, 2, 7), tokens(7, 7)], Scoring("maxsim", skipped_tokens=(7, 9))
    found = token_vectors(raw, texts, "document", scoring)
    np.testing.assert_allclose(found[0], unit(raw[0][[0, 2]]), atol=1e-6)
    assert found[1].shape == (0, DIMENSION)


@pytest.mark.parametrize("is_mean", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_the_rule_scores_pairs_by_the_tokens_that_the_documents_keep(is_mean, normalize):
    """Two queries, of which one is a document's text too, and a document in two parts."""
    sequences = {"short": tokens(1, 2), "long": tokens(1, 2, 3), "text": tokens(4, 7)}
    parts = [tokens(5, 7, 6), tokens(8)]
    pairs = [pair for query in ("short", "long") for pair in make_pairs(query, ["text", "parts"])]

    def encode(query, documents):
        found = [(sequences["text"], 0), *((part, 1) for part in parts)] if documents else []
        return Encoded(sequences[query], [s for s, _ in found], [i for _, i in found], 2)

    rule = scoring_rule(Scoring("maxsim", skipped_tokens=(7,), is_mean=is_mean))
    assert rule.encodes_apart
    prepared = rule.prepare(pairs, encode, normalize=normalize)
    (group,) = prepared.groups
    raw = [random_rows(place, len(sequence)) for place, sequence in enumerate(group.sequences)]
    short, long, text, *of_parts = raw
    kept = [text[[0]], of_parts[0][[0, 2]], of_parts[1]]
    expected = []
    for query in (short, long):
        first, *others = (obvious(query, rows) for rows in kept)
        each = np.array([first, max(others)])
        each = each / len(query) if is_mean or normalize else each
        expected += list((1 + each) / 2 if normalize else each)
    np.testing.assert_allclose(prepared.reduce(raw), expected, atol=1e-5)
    assert rule.score_range == ((-1, 1) if is_mean else (-np.inf, np.inf))


@given(
    asked=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), min_size=1, max_size=20),
    num_parts=st.lists(st.integers(1, 3), min_size=7, max_size=7),
    rule=st.sampled_from(["maxsim", "cosine"]),
)
def test_each_pair_is_compared_once_and_no_other_and_scores_what_it_scores_alone(
    asked, num_parts, rule
):
    compared: list[tuple[int, int]] = []  # a query and a document's part, for each comparison
    name = "maxsim" if rule == "maxsim" else "cosines"

    def counting(query, documents):
        firsts = [rows[0] for rows in documents] if rule == "maxsim" else documents
        asking = nearest(queries, query[0] if rule == "maxsim" else query)
        compared.extend((asking, nearest(parts, first)) for first in firsts)
        return original(query, documents)

    def nearest(table, vector):
        return max(table, key=lambda number: table[number] @ vector)

    original = getattr(rules, name)
    raw_of = {
        **{f"q{n}": unit(random_rows(n, 3)) for n in range(5)},
        **{f"d{n}.{m}": unit(random_rows(100 + 10 * n + m, 2)) for n in range(7) for m in range(3)},
    }
    queries = {n: raw_of[f"q{n}"][0] for n in range(5)}
    parts = {10 * n + m: raw_of[f"d{n}.{m}"][0] for n in range(7) for m in range(3)}
    names: dict[int, str] = {}  # by the first token of a sequence

    def sequence(name: str, length: int) -> Tokens:
        names[len(names)] = name
        return tokens(*[len(names) - 1] * length)

    def encode(query, documents):
        found = [
            (sequence(f"{text}.{part}", 2), index)
            for index, text in enumerate(documents)
            for part in range(num_parts[int(text[1:])])
        ]
        return Encoded(sequence(query, 3), [s for s, _ in found], [i for _, i in found], 3)

    def scored(pairs):
        prepared = scoring_rule(Scoring(rule)).prepare(pairs, encode, normalize=False)
        (group,) = prepared.groups
        raw = [raw_of[names[int(each.ids[0])]] for each in group.sequences]
        return prepared.reduce(raw if rule == "maxsim" else np.stack([rows[0] for rows in raw]))

    pairs = [Pair(f"q{query}", f"d{document}", n) for n, (query, document) in enumerate(asked)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rules, name, counting)
        together = scored(pairs)
    assert sorted(compared) == sorted(
        (query, 10 * document + part)
        for query, document in {*asked}
        for part in range(num_parts[document])
    )
    alone = np.concatenate([scored([pair]) for pair in pairs])
    np.testing.assert_allclose(together, alone, rtol=0, atol=0 if rule == "cosine" else 1e-6)


def test_a_query_keeps_all_of_its_vectors_and_a_document_those_that_are_compared():
    rule = scoring_rule(Scoring("maxsim", skipped_tokens=(7,)))
    sequences, raw = [tokens(1, 7), tokens(7, 2, 3)], [random_rows(1, 2), random_rows(2, 3)]
    query = rule.prepare_texts(sequences, "query").reduce(raw)
    document = rule.prepare_texts(sequences, "document").reduce(raw)
    assert [len(rows) for rows in query] == [2, 3]
    assert [len(rows) for rows in document] == [1, 2]
    np.testing.assert_allclose(document[1], query[1][1:])


def test_tokens_that_none_sees_see_the_others():
    filled = Tokens(np.arange(5), np.zeros(5, np.int64), num_unseen=3)
    (batch,) = pack([Group(EMPTY, [filled, tokens(8, 9)], [0, 1])], max_tokens=64, causal=False)
    assert batch.visible.tolist() == [[2] * 5, [2, 2, 1, 1, 1]]
    assert batch.lengths.tolist() == [5, 2]
    assert batch.positions.tolist() == [0, 1, 2, 3, 4, 0, 1]
