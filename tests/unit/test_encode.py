"""Token vectors of the model in the package, and the life of a ``Reranker``."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgerank import EdgerankError, InputError, Reranker

TEXTS = ["Dune was written by Frank Herbert in 1965.", "Paris", "", "Dune is a book. " * 300]
QUERY = "who wrote dune?"


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(threads=1)


def test_each_text_has_a_unit_vector_for_each_of_its_tokens(reranker):
    tokenizer = Tokenizer.from_file(str(reranker.bundle.tokenizer_path))
    for kind, texts in (("document", TEXTS), ("query", [QUERY, "Paris"])):
        vectors = reranker.encode(texts, kind=kind)
        assert [array.dtype for array in vectors] == [np.float32] * len(texts)
        counts = [len(tokenizer.encode(text, add_special_tokens=False)) + 2 for text in texts]
        assert [len(array) for array in vectors] == [min(n, reranker.max_length) for n in counts]
        for array in vectors:
            np.testing.assert_allclose(np.linalg.norm(array, axis=1), 1, atol=1e-5)


def test_a_texts_vectors_alone_are_its_vectors_among_others(reranker):
    together = reranker.encode([*TEXTS, TEXTS[0]])
    np.testing.assert_array_equal(together[0], together[4])
    for text, vectors in zip(TEXTS, together, strict=False):
        [alone] = reranker.encode([text])
        np.testing.assert_allclose(vectors, alone, atol=0.02)  # int8 rows in another micro-batch


def test_the_nearest_tokens_tell_the_right_document(reranker):
    [query] = reranker.encode([QUERY], kind="query")
    dune, paris = reranker.encode(TEXTS[:2])
    assert (query @ dune.T).max(axis=1).mean() > (query @ paris.T).max(axis=1).mean() + 0.1


def test_no_texts_have_no_vectors(reranker):
    assert reranker.encode([]) == []


def test_unusable_texts_and_kinds_are_refused(reranker):
    with pytest.raises(InputError, match=r"^texts\[1\]: expected a string, got int"):
        reranker.encode(["fine", 3])
    with pytest.raises(InputError, match=r"^texts\[0\]: it is blank"):
        reranker.encode([" "], kind="query")
    with pytest.raises(InputError, match=r"^kind: 'passage' is unknown; choose query, document"):
        reranker.encode(["fine"], kind="passage")
    with pytest.raises(InputError, match="expected a list"):
        reranker.encode("a lone string")


def test_a_closed_reranker_says_so_and_closing_twice_is_no_error():
    with Reranker(threads=1) as reranker:
        assert len(reranker.score(QUERY, TEXTS)) == len(TEXTS)
    reranker.close()
    for call in (
        lambda: reranker.rank(QUERY, TEXTS),
        lambda: reranker.score_pairs([(QUERY, TEXTS[0])]),
        lambda: reranker.encode(TEXTS),
    ):
        with pytest.raises(EdgerankError, match="closed"):
            call()


def test_a_reranker_may_be_closed_while_others_use_it():
    reranker = Reranker(threads=1)
    outcomes: list[object] = []
    begun = threading.Barrier(4)

    def use() -> None:
        begun.wait()
        try:
            while True:
                reranker.score(QUERY, TEXTS)
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.wait()
    reranker.close()
    for thread in threads:
        thread.join(60)
    assert [type(error) for error in outcomes] == [EdgerankError] * 3
