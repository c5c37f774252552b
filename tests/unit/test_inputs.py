"""What callers pass in, on the model in the package: order and types of results, named errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgerank import InputError, ProviderError, Reranker
from edgerank.documents import document_text

QUERY = "what is the capital of France?"
DOCUMENTS = [
    "Paris, since 987.",
    "Dune was written by Frank Herbert in 1965.",
    "A reranker reads a query and a list of documents.",
    "",
    "der Fluß fließt",
]
LONG = "relevance of documents " * 4000  # over every family's maximum length
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(threads=2)


def assert_close(scores: Sequence[float], expected: Sequence[float]) -> None:
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


def refused(match: str) -> Any:
    return pytest.raises(InputError, match=match)


def test_no_documents_give_no_hits_and_no_scores(reranker):
    assert reranker.rank(QUERY, []) == []
    for scores in (reranker.score(QUERY, []), reranker.score_pairs([])):
        assert (scores.shape, scores.dtype) == ((0,), np.float32)


def test_scores_are_finite_float32_one_a_document(reranker):
    scores = reranker.score(QUERY, DOCUMENTS)
    assert (scores.shape, scores.dtype) == ((len(DOCUMENTS),), np.float32)
    assert np.isfinite(scores).all()
    assert len(set(scores.tolist())) == len(DOCUMENTS)


def test_hits_come_best_first_with_their_index_score_and_document(reranker):
    scores = reranker.score(QUERY, DOCUMENTS)
    hits = reranker.rank(QUERY, DOCUMENTS)
    assert [hit.index for hit in hits] == np.argsort(-scores).tolist()
    assert [hit.score for hit in hits] == sorted(scores.tolist(), reverse=True)
    assert [hit.document for hit in hits] == [DOCUMENTS[hit.index] for hit in hits]
    assert {hit.document for hit in reranker.rank(QUERY, DOCUMENTS, return_documents=False)} == {
        None
    }


@pytest.mark.parametrize("top_k", [1, 3, 5, 100])
def test_top_k_keeps_the_first_hits(reranker, top_k):
    assert reranker.rank(QUERY, DOCUMENTS, top_k=top_k) == reranker.rank(QUERY, DOCUMENTS)[:top_k]


@pytest.mark.parametrize("top_k", [0, -1, True, False, 2.5, "3"])
def test_a_top_k_that_is_no_positive_integer_is_refused(reranker, top_k):
    with refused(f"^top_k: .*{re.escape(str(top_k))}"):
        reranker.rank(QUERY, DOCUMENTS, top_k=top_k)
    with refused("^top_k: "):
        reranker.rank(QUERY, [], top_k=top_k)


@pytest.mark.parametrize("surrogate", ["\ud800", "a \udfff b", "\udcff"], ids=ascii)
def test_a_lone_surrogate_is_refused_and_the_text_named(reranker, surrogate):
    point = f"U\\+{ord(max(surrogate)):04X}"
    with refused(rf"^documents\[2\]: .*lone surrogate.*{point}"):
        reranker.rank(QUERY, ["fine", "fine", surrogate])
    with refused(rf"^documents\[1\]\.text: .*lone surrogate.*{point}"):
        reranker.rank(QUERY, ["fine", {"title": "fine", "text": surrogate}])
    with refused(rf"^documents\[0\]: .*lone surrogate.*{point}"):
        reranker.rank(QUERY, [{surrogate: "fine"}])
    with refused(f"^query: .*lone surrogate.*{point}"):
        reranker.rank(surrogate, DOCUMENTS)
    with refused(rf"^pairs\[1\].*document.*lone surrogate.*{point}"):
        reranker.score_pairs([(QUERY, "fine"), (QUERY, surrogate)])
    with refused(rf"^pairs\[0\].*query.*lone surrogate.*{point}"):
        reranker.score_pairs([(surrogate, "fine")])


def test_a_surrogate_pair_is_refused_too(reranker):
    with refused(r"^documents\[0\]: .*lone surrogate"):
        reranker.score(QUERY, ["\ud83d\ude00"])


@pytest.mark.parametrize("document", [None, 3, 2.5, True, b"bytes", ["list"], ("a", "b"), object()])
def test_a_document_that_is_no_text_is_refused_by_index_and_type(reranker, document):
    with refused(rf"^documents\[1\]: .*{type(document).__name__}"):
        reranker.rank(QUERY, ["fine", document])
    with refused(rf"^documents\[1\]: .*{type(document).__name__}"):
        reranker.score(QUERY, ["fine", document])


@pytest.mark.parametrize("value", [None, 3, b"bytes", ["list"], {"nested": "mapping"}])
def test_a_field_that_is_no_text_is_refused_by_name_and_type(reranker, value):
    with refused(rf"^documents\[1\]\.year: .*{type(value).__name__}"):
        reranker.rank(QUERY, ["fine", {"text": "fine", "year": value}])


def test_a_field_name_that_is_no_text_is_refused(reranker):
    with refused(r"^documents\[0\]: a field's name .*int"):
        reranker.rank(QUERY, [{3: "text"}])


@pytest.mark.parametrize(
    ("mapping", "text"),
    [
        ({"text": "Dune\nis a book"}, "Dune\nis a book"),
        ({"text": "a book", "title": "Dune"}, "Dune\na book"),
        ({"year": "1965", "text": "a book", "title": "Dune"}, "Dune\na book\nyear: 1965"),
        ({"title": "Dune", "by": "Herbert", "year": ""}, "Dune\nby: Herbert\nyear: "),
        ({"title": "", "text": ""}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_a_mapping_reads_as_its_title_its_text_and_its_other_fields(reranker, mapping, text):
    assert document_text(mapping) == text
    from_mapping, from_text = reranker.score(QUERY, [mapping, text])
    assert from_mapping == from_text
    [hit] = reranker.rank(QUERY, [mapping])
    assert hit.document is mapping


@pytest.mark.parametrize("query", ["", " ", "\n\t\u3000"], ids=ascii)
def test_a_blank_query_is_refused(reranker, query):
    for call in (reranker.rank, reranker.score):
        for documents in (DOCUMENTS, []):
            with refused("^query: it is blank"):
                call(query, documents)
    with refused(r"^pairs\[1\]\.query: it is blank"):
        reranker.score_pairs([(QUERY, "fine"), (query, "fine")])


@pytest.mark.parametrize("documents", ["a lone string", {"text": "a lone mapping"}, None, 5])
def test_documents_that_are_no_list_are_refused_by_type(reranker, documents):
    for call in (reranker.rank, reranker.score):
        with refused(f"^documents: .*{type(documents).__name__}"):
            call(QUERY, documents)


@pytest.mark.parametrize("query", [None, 3, b"bytes", ["list"], {"text": "mapping"}])
def test_a_query_that_is_no_text_is_refused_by_type(reranker, query):
    for call in (reranker.rank, reranker.score):
        for documents in (DOCUMENTS, []):
            with refused(f"^query: .*{type(query).__name__}"):
                call(query, documents)


@pytest.mark.parametrize(
    "pair", [(QUERY,), (QUERY, "a", "b"), (), "ab", QUERY, None, 5, {QUERY: "a", "b": "c"}], ids=str
)
def test_a_malformed_pair_is_refused_by_index(reranker, pair):
    with refused(r"^pairs\[1\]"):
        reranker.score_pairs([(QUERY, "fine"), pair])


@pytest.mark.parametrize("pairs", [None, 5])
def test_pairs_that_are_no_list_are_refused_by_type(reranker, pairs):
    with refused(f"^pairs: .*{type(pairs).__name__}"):
        reranker.score_pairs(pairs)


@pytest.mark.parametrize(
    ("pair", "named"),
    [
        ((None, "a"), "query.*NoneType"),
        ((QUERY, 3), "document.*int"),
        ((QUERY, {"a": 3}), r"document\.a: .*int"),
    ],
    ids=str,
)
def test_a_pair_with_something_that_is_no_text_is_refused_by_index(reranker, pair, named):
    with refused(rf"^pairs\[2\].*{named}"):
        reranker.score_pairs([(QUERY, "fine"), (QUERY, "fine"), pair])


@pytest.mark.parametrize("value", ["cut", "", 3, ["split"]])
def test_an_unknown_way_with_long_documents_is_refused_beside_the_known_ones(reranker, value):
    for documents in (DOCUMENTS, []):
        with refused(f"^long_documents: {re.escape(repr(value))}.*truncate.*split.*refuse"):
            reranker.rank(QUERY, documents, long_documents=value)


@pytest.mark.parametrize("instruction", [3, b"bytes", ["list"], "\ud800"], ids=ascii)
def test_an_instruction_that_is_no_text_is_refused(reranker, instruction):
    with refused("^instruction: "):
        reranker.rank(QUERY, DOCUMENTS, instruction=instruction)


@pytest.mark.parametrize("provider", ["NoSuchExecutionProvider", "gpu", ""])
def test_a_provider_that_is_not_installed_is_named_beside_the_installed_ones(provider):
    with pytest.raises(ProviderError, match=f"^{provider} .*CPUExecutionProvider"):
        Reranker(providers=["CPUExecutionProvider", provider])


def test_equal_scores_keep_their_input_order(reranker):
    documents = ["Paris", "Dune", "Paris", "Dune", "Paris", "1965", "Dune"]
    order = [hit.index for hit in reranker.rank(QUERY, documents)]
    for text in set(documents):
        places = [index for index, document in enumerate(documents) if document == text]
        assert [index for index in order if index in places] == places
    assert len({hit.score for hit in reranker.rank(QUERY, documents)}) == 3


@pytest.mark.parametrize("kind", [iter, tuple, lambda texts: (text for text in texts), np.array])
def test_documents_may_come_from_any_iterable(reranker, kind):
    expected = reranker.rank(QUERY, DOCUMENTS)
    hits = reranker.rank(QUERY, kind(DOCUMENTS))
    assert [(hit.index, hit.document) for hit in hits] == [
        (hit.index, hit.document) for hit in expected
    ]
    assert_close(reranker.score(QUERY, kind(DOCUMENTS)), reranker.score(QUERY, DOCUMENTS))


def test_an_error_leaves_the_reranker_usable(reranker):
    expected = reranker.score(QUERY, DOCUMENTS)
    with refused(r"documents\[1\]"):
        reranker.rank(QUERY, ["fine", LONG], long_documents="refuse")
    assert_close(reranker.score(QUERY, DOCUMENTS), expected)


def test_the_progress_bar_is_drawn_on_stderr_and_only_when_asked(reranker, capfd):
    reranker.rank(QUERY, DOCUMENTS)
    reranker.score(QUERY, DOCUMENTS)
    reranker.score_pairs([(QUERY, "Paris")])
    assert tuple(capfd.readouterr()) == ("", "")
    for call in (
        lambda: reranker.rank(QUERY, DOCUMENTS, show_progress=True),
        lambda: reranker.score(QUERY, DOCUMENTS, show_progress=True),
        lambda: reranker.score_pairs([(QUERY, "Paris")], show_progress=True),
    ):
        call()
        out, err = capfd.readouterr()
        assert out == ""
        assert "100%" in err


def test_a_string_for_providers_is_refused():
    with pytest.raises(InputError, match=r"providers: .*'CPUExecutionProvider'"):
        Reranker(providers="CPUExecutionProvider")
