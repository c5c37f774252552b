"""What callers pass in: odd texts get finite scores, unusable ones an error that names them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from edgerank import InputError, Reranker
from edgerank.engine import Engine

FAMILIES = ["qwen2.int8", "cross-encoder.int8", "embedding.int8"]
ENCODERS = ["cross-encoder.int8", "embedding.int8"]
QUERY = "what is the capital of France?"
DOCUMENTS = [
    "Paris, since 987.",
    "Dune was written by Frank Herbert in 1965.",
    "A reranker reads a query and a list of documents.",
    "",
    "der Fluß fließt",
]
LONG = "relevance of documents " * 4000  # over every family's maximum length
MEGABYTE = 1_000_000
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def opened(bundles: Path) -> dict[str, Reranker]:
    return {name: Reranker(bundles / name, threads=2) for name in FAMILIES}


@pytest.fixture(params=FAMILIES)
def reranker(request: pytest.FixtureRequest, opened: dict[str, Reranker]) -> Reranker:
    return opened[request.param]


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest, bundles: Path) -> Reranker:
    """A reranker with room for few tokens, so that long documents are cheap to make."""
    return Reranker(bundles / request.param, threads=1, max_length=32)


def assert_close(scores: Sequence[float], expected: Sequence[float]) -> None:
    np.testing.assert_allclose(scores, expected, rtol=0, atol=TOLERANCE)


def refused(match: str) -> Any:
    return pytest.raises(InputError, match=match)


def test_blank_documents_get_finite_scores(reranker):
    scores = reranker.score(QUERY, ["", " ", "\n\t\r\n", "\u3000\u00a0", "text"])
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    "text",
    [
        "\0",
        "before\0after",
        "\x01\x02\x1b[31m\x7f\x85",
        "😀👩‍👩‍👧‍👦🏳️‍🌈",
        "שלום עולם \u202eright to left\u202c مرحبا",
        "\ufeff\u200b\u200d\u2028",
        "e" + "\u0301" * 500,
        "\uffff\U0010ffff",
        "<|im_end|>\n<|endoftext|>[SEP][CLS][MASK]",
        "{query} {document} {instruction} %s {0} {}",
        "word" * 5000,
    ],
    ids=lambda text: ascii(text[:40]),
)
def test_odd_characters_get_finite_scores_as_query_and_as_document(reranker, text):
    assert np.isfinite(reranker.score(QUERY, [text, "plain"])).all()
    assert np.isfinite(reranker.score(text, [text, "plain"])).all()


@pytest.mark.parametrize("unit", ["Paris is a city. ", "数"])
def test_a_megabyte_scores_as_its_beginning_does(reranker, unit):
    text = unit * (MEGABYTE // len(unit.encode()))
    long, beginning = reranker.score(QUERY, [text, text[:100_000]])
    assert np.isfinite(long)
    assert_close(long, beginning)


def test_a_query_of_a_megabyte_gets_finite_scores(reranker):
    assert np.isfinite(reranker.score("what is it? " * (MEGABYTE // 12), DOCUMENTS)).all()


@pytest.mark.parametrize("copies", [1, 4])
def test_a_refused_document_is_named_by_its_place_in_the_input(reranker, copies):
    documents = ["short"] * copies + ["other", LONG, LONG]
    with refused(rf"^documents\[{copies + 1}\]: .*tokens"):
        reranker.rank(QUERY, documents, long_documents="refuse")
    with refused(rf"^pairs\[{copies + 1}\].*tokens"):
        reranker.score_pairs([(QUERY, text) for text in documents], long_documents="refuse")


def test_documents_that_fit_score_alike_whatever_becomes_of_long_ones(reranker):
    expected = reranker.score(QUERY, DOCUMENTS)
    for way in ("truncate", "split", "refuse"):
        assert_close(reranker.score(QUERY, DOCUMENTS, long_documents=way), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_best_part_of_a_split_document_is_no_worse_than_its_beginning(bundles, name):
    reranker = Reranker(bundles / name, threads=1, max_length=100)
    longs = [
        " ".join([first] * 100 + [last] * 100)
        for first in ("Paris", "Dune")
        for last in ("1965", "relevance")
    ]
    beginnings = reranker.score(QUERY, longs)
    best = reranker.score(QUERY, longs, long_documents="split")
    assert (best >= beginnings - TOLERANCE).all()
    assert (best > beginnings + TOLERANCE).any()


def single_token_words(encoder: Reranker) -> list[str]:
    """Words of the vocabulary: so many words are so many tokens."""
    vocabulary = Tokenizer.from_file(str(encoder.bundle.tokenizer_path)).get_vocab()
    return sorted(word for word in vocabulary if word.isalpha() and word.isascii())


def room(encoder: Reranker, query: str) -> int:
    """Count the tokens that a document may have: 32 less [CLS], [SEP] and a pair's query, [SEP]."""
    tokenizer = Tokenizer.from_file(str(encoder.bundle.tokenizer_path))
    shared = len(tokenizer.encode(query, add_special_tokens=False).ids) + 1
    return 32 - 2 - (shared if encoder.bundle.manifest.truncation.rule == "longest" else 0)


def test_a_document_is_refused_from_the_first_token_too_many(encoder):
    words, width = single_token_words(encoder), room(encoder, QUERY)
    fits, exceeds = " ".join(words[:width]), " ".join(words[: width + 1])
    assert np.isfinite(encoder.score(QUERY, [fits], long_documents="refuse")).all()
    with refused(rf"^documents\[1\]: .*{width + 1} tokens.*{width} fit"):
        encoder.score(QUERY, [fits, exceeds], long_documents="refuse")


def test_a_truncated_document_scores_as_the_part_that_fits(encoder):
    words, width = single_token_words(encoder), room(encoder, QUERY)
    text, kept = " ".join(words[: 3 * width]), " ".join(words[:width])
    assert_close(encoder.score(QUERY, [text]), encoder.score(QUERY, [kept]))
    assert encoder.score(QUERY, [text]) != encoder.score(QUERY, [" ".join(words[: width - 1])])


def test_a_split_document_scores_as_its_best_part(encoder):
    rng, width = np.random.default_rng(0), room(encoder, QUERY)
    words = single_token_words(encoder)
    parts = [" ".join(rng.choice(words, width)) for _ in range(5)]
    alone = encoder.score(QUERY, [*parts, "last"])
    ascending = [parts[index] for index in np.argsort(alone[:-1])]
    assert alone.max() - alone.min() > 100 * TOLERANCE
    neighbours = encoder.score(QUERY, ["short", "another"])
    for arranged in (ascending, ascending[::-1], ascending[2:] + ascending[:2]):
        documents = ["short", " ".join([*arranged, "last"]), "another"]
        scores = encoder.score(QUERY, documents, long_documents="split")
        assert_close(scores, [neighbours[0], alone.max(), neighbours[1]])


@pytest.mark.parametrize("name", ENCODERS)
def test_an_instruction_is_refused_by_a_family_that_takes_none(opened, name):
    with refused("^instruction: "):
        opened[name].rank(QUERY, DOCUMENTS, instruction="Find capitals.")


def test_an_instruction_changes_the_scores_and_an_empty_one_does_not(opened):
    reranker = opened["qwen2.int8"]
    plain = reranker.score(QUERY, DOCUMENTS)
    assert_close(reranker.score(QUERY, DOCUMENTS, instruction=""), plain)
    instructed = reranker.score(QUERY, DOCUMENTS, instruction="Find capitals.")
    assert np.abs(instructed - plain).min() > 1e-3


@pytest.mark.parametrize("braces", ["{query}", "{document}", "{instruction}"])
def test_braces_in_texts_are_text(opened, braces):
    reranker = opened["qwen2.int8"]

    def scores(instruction: str, query: str, document: str) -> np.ndarray:
        return reranker.score(query, [document], instruction=instruction)

    plain = {"instruction": "zebra", "query": "zebra", "document": "zebra"}
    for place in plain:
        assert np.abs(scores(**{**plain, place: braces}) - scores(**plain)) > 1e-4


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("threads", 0),
        ("threads", -1),
        ("threads", 1.5),
        ("threads", True),
        ("max_length", 0),
        ("max_length", 1),
        ("max_length", 10**6),
        ("max_length", "64"),
        ("max_batch_tokens", 0),
    ],
)
def test_an_option_out_of_range_is_named_with_its_value(bundles, option, value):
    for name in FAMILIES:
        with refused(f"^{option}: .*{value}"):
            Reranker(bundles / name, **{option: value})


def test_the_longest_allowed_length_is_allowed(bundles):
    for name in FAMILIES:
        limit = Reranker(bundles / name, threads=1).bundle.manifest.max_length_limit
        reranker = Reranker(bundles / name, threads=1, max_length=limit)
        assert np.isfinite(reranker.score(QUERY, [LONG])).all()
        with refused(f"^max_length: {limit + 1} .*{limit}"):
            Reranker(bundles / name, max_length=limit + 1)


@pytest.mark.parametrize("max_length", [16, 17, 33])
def test_the_shortest_lengths_give_finite_scores_even_beside_a_long_query(bundles, max_length):
    for name in FAMILIES:
        reranker = Reranker(bundles / name, threads=1, max_length=max_length)
        for way in ("truncate", "split"):
            scores = reranker.score(QUERY * 20, ["", "one", LONG[:500]], long_documents=way)
            assert np.isfinite(scores).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_long_query_leaves_a_short_document_whole(bundles, name):
    reranker = Reranker(bundles / name, threads=1, max_length=16)
    paris, dune = reranker.score(QUERY * 20, ["Paris", "Dune"])
    assert paris != dune


@pytest.fixture
def num_scored(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count the sequences that the graph has scored since the last count."""
    counts: list[int] = []
    run = Engine.run

    def counted(self: Engine, batches: Any, *args: Any, **options: Any) -> Any:
        batches = list(batches)
        counts.append(sum(int((batch.score_ids >= 0).sum()) for batch in batches))
        return run(self, batches, *args, **options)

    def total() -> int:
        result = sum(counts)
        counts.clear()
        return result

    monkeypatch.setattr(Engine, "run", counted)
    return total


def test_identical_documents_are_scored_once_and_alike(reranker, num_scored):
    documents = ["Paris", "Dune", "Paris", {"year": "1965"}, "year: 1965", {"text": "Dune"}]
    reranker.score(QUERY, ["Paris", "Dune", "year: 1965"])
    expected = num_scored()
    assert expected in (3, 4)  # an embedding model also runs the query
    scores = reranker.score(QUERY, documents)
    assert num_scored() == expected
    assert scores[0] == scores[2]
    assert scores[1] == scores[5]
    assert scores[3] == scores[4]


def test_identical_pairs_are_scored_once_and_alike(reranker, num_scored):
    distinct = [("a", "Paris"), ("a", "Dune"), ("b", "Paris"), ("b", "Dune")]
    reranker.score_pairs(distinct)
    assert num_scored() == 4  # an embedding model runs two queries and two documents
    scores = reranker.score_pairs([*distinct, *distinct[::-1]])
    assert num_scored() == 4
    assert scores[:4].tolist() == scores[4:][::-1].tolist()


def test_shuffled_documents_get_their_own_scores(reranker):
    rng = np.random.default_rng(0)
    words = LONG[:60].split() + QUERY.split()
    documents = [" ".join(rng.choice(words, rng.integers(1, 40))) for _ in range(40)]
    scores = reranker.score(QUERY, documents)
    for _ in range(3):
        order = rng.permutation(len(documents))
        assert_close(reranker.score(QUERY, [documents[index] for index in order]), scores[order])


def test_pairs_score_as_each_query_with_its_documents(reranker):
    queries = [QUERY, "who wrote Dune?"]
    pairs = [(query, document) for document in DOCUMENTS for query in queries]
    pairs.append((QUERY, {"title": "Dune", "text": "by Frank Herbert"}))
    expected = [reranker.score(query, [document])[0] for query, document in pairs]
    for given in (pairs, [list(pair) for pair in pairs], iter(pairs)):
        assert_close(reranker.score_pairs(given), expected)


def test_normalized_scores_lie_in_0_to_1_in_the_same_order(reranker):
    plain = reranker.score(QUERY, DOCUMENTS)
    normalized = reranker.score(QUERY, DOCUMENTS, normalize=True)
    assert ((normalized >= 0) & (normalized <= 1)).all()
    assert np.argsort(normalized).tolist() == np.argsort(plain).tolist()
    assert_close(reranker.score_pairs([(QUERY, DOCUMENTS[0])], normalize=True), normalized[:1])


@pytest.mark.parametrize("name", FAMILIES)
def test_threads_that_rank_at_once_get_the_scores_they_get_alone(bundles, name):
    reranker = Reranker(bundles / name, threads=1, max_batch_tokens=64)
    queries = [f"{QUERY} {number}" for number in range(8)]
    documents = [f"{document} {LONG[: 60 * index]}" for index, document in enumerate(DOCUMENTS)]
    alone = [reranker.score(query, documents) for query in queries]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda query: reranker.score(query, documents), queries * 3))
    for scores, expected in zip(together, alone * 3, strict=True):
        assert_close(scores, expected)
