"""Stores against a dictionary and obvious loops: what is kept, scored, found and refused."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerank import DocumentStore, InputError, StoreError
from edgerank.documents import document_text
from edgerank.store import writing
from edgerank.store.encoding import words_of
from edgerank.store.features import Part
from edgerank.store.search import bm25
from edgerank.store.segments import quantize_part
from tests.support.stores import HashedReranker, damage

QUERY = "who wrote the book"
DOCUMENTS = {
    "dune": "frank herbert wrote the book dune",
    "paris": "paris is a city",
    "empty": "",
    "long": "a b c d e f g h i j k l m n the book that he wrote",
    "mapping": {"title": "a title", "text": "who knows"},
}
WORDS = st.sampled_from(["who", "wrote", "the", "book", "dune", "paris", "he", "knows"])
TEXTS = st.lists(WORDS, max_size=20).map(" ".join)
IDS = st.sampled_from("abcdefgh")
CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.dictionaries(IDS, TEXTS, min_size=1)),
        st.tuples(st.just("delete"), st.sets(IDS, min_size=1)),
    ),
    max_size=6,
)


@pytest.fixture(autouse=True, scope="module")
def _unsynced() -> Iterator[None]:
    """The disk need not hold what a test writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture
def model() -> HashedReranker:
    return HashedReranker()


@pytest.fixture
def store(tmp_path, model) -> DocumentStore:
    return DocumentStore.build(tmp_path / "store", DOCUMENTS, model, backend="numpy")


def expected(model: HashedReranker, documents: dict, query: str = QUERY) -> list[float]:
    return [model.expected(query, document_text(text)) for text in documents.values()]


@given(
    rows=st.integers(0, 4),
    width=st.integers(1, 40),
    factor=st.sampled_from([0.5, 0.9, 0.999, 1.001, 1.1, 2]),
    seed=st.integers(0, 1000),
)
def test_no_other_scale_makes_rounded_vectors_nearer(rows, width, factor, seed):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((rows, width)).astype(np.float32) * rng.integers(0, 2, (rows, 1))
    part = Part(vectors.astype(np.float32), np.zeros(rows, np.int64), np.ones(width, np.float32))
    found = quantize_part(part)
    kept = found.vectors.astype(np.float64)
    assert np.array_equal(np.abs(kept).max(axis=1, initial=0) == 127, vectors.any(axis=1))

    def errors(factor: float):
        return np.linalg.norm(vectors - factor * found.scales[:, None] * kept, axis=1)

    assert (errors(1) <= errors(factor)).all()
    assert (errors(1) <= np.abs(vectors).max(axis=1, initial=0) / 254 * np.sqrt(width)).all()


@pytest.mark.parametrize("rule", ["maxsim", "cosine"])
def test_scores_are_those_of_obvious_loops_over_the_best_part(rule, tmp_path):
    model = HashedReranker(rule)
    store = DocumentStore.build(tmp_path / "store", DOCUMENTS, model, backend="numpy")
    scores = store.score(QUERY, DOCUMENTS)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected(model, DOCUMENTS), atol=0.02)
    if rule == "cosine":  # its vectors have 16 bits
        np.testing.assert_allclose(scores, expected(model, DOCUMENTS), atol=1e-3)
    again = DocumentStore.open(tmp_path / "store", model, backend="numpy", verify=True)
    np.testing.assert_array_equal(again.score(QUERY, DOCUMENTS), scores)
    backwards = list(reversed(DOCUMENTS))
    np.testing.assert_allclose(store.score(QUERY, backwards), scores[::-1], atol=1e-6)


def test_normalised_scores_lie_in_the_unit_range(store, model):
    scores = store.score(QUERY, DOCUMENTS, normalize=True)
    means = np.array(expected(model, DOCUMENTS)) / len(QUERY.split())
    np.testing.assert_allclose(scores, (1 + means) / 2, atol=5e-3)


def test_a_ranking_is_sorted_and_equal_scores_keep_the_order_of_the_ids(store):
    ids = ["paris", "dune", "paris", "long"]
    hits = store.rank(QUERY, ids)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert [hit.id for hit in hits].count("paris") == 2
    assert [hit.id for hit in store.rank(QUERY, ids, top_k=1)] == [hits[0].id]
    assert store.rank(QUERY, []) == []
    assert store.score(QUERY, []).shape == (0,)


@given(changes=CHANGES)
@settings(deadline=None, max_examples=20)
def test_a_store_is_a_dictionary_after_any_changes(changes):
    model = HashedReranker()
    with tempfile.TemporaryDirectory() as directory:
        store = DocumentStore.build(Path(directory) / "store", {}, model, backend="numpy")
        documents: dict[str, str] = {}
        for kind, what in changes:
            if kind == "add" and what.keys() & documents.keys():
                with pytest.raises(InputError, match="is there already"):
                    store.add(what)
            if kind == "add":
                assert store.add(what, replace=True) == len(what)
                documents.update(what)
            elif what <= documents.keys():
                assert store.delete(what) == len(what)
                documents = {name: documents[name] for name in documents if name not in what}
            else:
                with pytest.raises(InputError, match="is not in the store"):
                    store.delete(what)
            opened = DocumentStore.open(store.directory, model, backend="numpy", verify=True)
            for each in (store, opened):
                assert set(each.ids) == documents.keys()
                assert len(each) == len(documents)
                scores = each.score(QUERY, documents)
                np.testing.assert_allclose(scores, expected(model, documents), atol=0.03)
            named = {path.name for path in store.directory.iterdir()}
            assert named == {"store.json", "lock", *store.manifest.files}


def test_documents_come_in_segments_and_each_is_found_in_its_own(tmp_path, model, monkeypatch):
    monkeypatch.setattr(writing, "SEGMENT_DOCUMENTS", 3)
    monkeypatch.setattr(writing, "BATCH_DOCUMENTS", 2)
    documents = {f"n{number}": f"the book number{number}" for number in range(20)}
    store = DocumentStore.build(tmp_path / "store", documents, model, backend="numpy")
    assert len(store.manifest.segments) == 5
    np.testing.assert_allclose(store.score(QUERY, documents), expected(model, documents), atol=0.02)
    assert store.ids == list(documents)
    store.delete([f"n{number}" for number in range(4)])  # the first segment, all of it
    assert len(store.manifest.segments) == 4
    assert [hit.id for hit in store.rank("number7", top_k=1)] == ["n7"]


# Search


def test_a_search_finds_what_ranking_everything_finds(tmp_path, model):
    rng = np.random.default_rng(1)
    documents = {
        f"d{number}": " ".join(rng.choice(list("abcdefghijklmnopq"), rng.integers(1, 12)))
        for number in range(300)
    }
    store = DocumentStore.build(tmp_path / "store", documents, model, backend="numpy")
    for query in ("a b", "q", "c d e"):
        whole = store.rank(query, documents, top_k=10)
        found = store.rank(query, candidates=300)
        assert [hit.score for hit in found] == pytest.approx([hit.score for hit in whole], abs=1e-5)
    store.delete([whole[0].id])
    assert whole[0].id not in {hit.id for hit in store.rank("c d e", candidates=300)}
    assert len(store.rank("c d e", top_k=3, candidates=1)) == 3


def test_an_empty_store_finds_nothing(tmp_path, model):
    store = DocumentStore.build(tmp_path / "store", {}, model, backend="numpy")
    assert store.rank(QUERY) == []
    assert len(store) == 0


def by_hand(documents: dict[str, str], query: str) -> list[float]:
    """BM25 as its authors wrote it down, with Lucene's rarity."""
    texts = [words_of(text) for text in documents.values()]
    average = sum(map(len, texts)) / len(texts)
    scores = []
    for words in texts:
        score = 0.0
        for word in words_of(query):
            having = sum(word in other for other in texts)
            rarity = np.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
            count = words.count(word)
            score += rarity * count / (count + 1.5 * (0.25 + 0.75 * len(words) / average))
        scores.append(score)
    return scores


def test_bm25_does_not_depend_on_when_a_document_came(store, model):
    documents = {name: document_text(text) for name, text in DOCUMENTS.items()}
    more = {"other": "The BOOK, the book!", "été": "l'été à Paris"}
    store.add(more)
    query = "the book of paris, the été"
    scores = np.concatenate(bm25(store._snapshot.segments, words_of(query)))
    np.testing.assert_allclose(scores, by_hand({**documents, **more}, query), rtol=1e-5)


# What is refused


def test_unusable_documents_change_nothing(store):
    before = (store.directory / "store.json").read_bytes()
    for documents, message in (
        ([("new", "fine"), ("dune", "again")], r"documents\[1\]: the id 'dune' is there already"),
        ([("new", "fine"), ("new", "twice")], r"documents\[1\]: the id 'new' is there already"),
        ([("new", "fine"), ("other", 7)], r"documents\[1\]: expected a string, got int"),
        ([("new", "fine"), (7, "fine")], r"documents\[1\]: the id must be a string"),
        (["new"], r"documents\[0\]: expected a pair"),
        ("new", "expected pairs"),
    ):
        with pytest.raises(InputError, match=message):
            store.add(documents)
        assert (store.directory / "store.json").read_bytes() == before
    names = {path.name for path in store.directory.iterdir()}
    assert names == {"store.json", "lock", *store.manifest.files}


def test_unusable_questions_are_refused(store):
    for ids, message in ((["dune", "x"], r"ids\[1\]: 'x' is not"), ("dune", "expected a list")):
        with pytest.raises(InputError, match=message):
            store.score(QUERY, ids)
    with pytest.raises(InputError, match="top_k"):
        store.rank(QUERY, top_k=0)
    with pytest.raises(InputError, match="backend: 'cuda' is unknown"):
        DocumentStore.open(store.directory, store.reranker, backend="cuda")


def test_a_store_belongs_to_its_model(store):
    with pytest.raises(StoreError, match="open it with that bundle, or build it again"):
        DocumentStore.open(store.directory, HashedReranker(digest="b" * 64))
    other = HashedReranker()
    other.max_length = 9
    with pytest.raises(StoreError, match="parts of 8 tokens"):
        DocumentStore.open(store.directory, other)


def test_nothing_is_built_over_what_is_there(store, tmp_path, model):
    with pytest.raises(StoreError, match="there is a store"):
        DocumentStore.build(store.directory, DOCUMENTS, model)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match=r"holds letter\.txt and is no store"):
        DocumentStore.build(tmp_path / "home", DOCUMENTS, model)
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    with pytest.raises(StoreError, match="a store is a directory that"):
        DocumentStore.open(tmp_path / "home", model)


def damaged(store: DocumentStore, target: Path) -> Path:
    shutil.copytree(store.directory, target)
    return target


ARRAYS = [
    *("names", "name_ends", "document_parts", "part_tokens", "pooled", "pooled_scales"),
    *("vectors", "scales", "words", "word_ends", "word_starts", "word_documents"),
    *("word_counts", "document_words"),
]


@pytest.mark.parametrize("array", ARRAYS)
def test_truncated_and_missing_files_are_refused_on_opening(array, store, tmp_path, model):
    [name] = [name for name in store.manifest.files if name.endswith(f".{array}")]
    copy = damaged(store, tmp_path / "copy")
    damage(copy / name, lambda content: content[:-1])
    with pytest.raises(StoreError, match=f"{array}: .* bytes instead of"):
        DocumentStore.open(copy, model)
    (copy / name).unlink()
    with pytest.raises(StoreError, match=array):
        DocumentStore.open(copy, model)


@pytest.mark.parametrize("array", ARRAYS)
def test_flipped_bits_are_found_by_verification(array, store, tmp_path, model):
    [name] = [name for name in store.manifest.files if name.endswith(f".{array}")]
    copy = damaged(store, tmp_path / "copy")
    damage(copy / name, lambda content: bytes([content[0] ^ 0x40]) + content[1:])
    with pytest.raises(StoreError, match=f"{array}: altered"):
        DocumentStore.open(copy, model, verify=True)


@pytest.mark.parametrize(
    "array",
    ["name_ends", "document_parts", "part_tokens", "word_ends", "word_starts", "word_documents"],
)
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_bounds_that_lead_outside_are_refused_on_opening(array, place, store, tmp_path, model):
    """Whatever is indexed by them would be read beyond its end."""
    [name] = [name for name in store.manifest.files if name.endswith(f".{array}")]
    copy = damaged(store, tmp_path / "copy")
    dtype = np.int32 if array == "word_documents" else np.int64

    def spoil(content: bytes) -> bytes:
        values = np.frombuffer(content, dtype).copy()
        values[{"first": 0, "middle": len(values) // 2, "last": -1}[place]] = 1 << 30
        return values.tobytes()

    damage(copy / name, spoil)
    with pytest.raises(StoreError, match="altered"):
        DocumentStore.open(copy, model)


def test_mixed_up_files_are_found(store, tmp_path, model):
    other = DocumentStore.build(
        tmp_path / "other", {**DOCUMENTS, "dune": "frank herbert wrote the book dunes"}, model
    )
    for array in ("vectors", "words", "names"):
        copy = damaged(store, tmp_path / array)
        [ours], [theirs] = (
            [name for name in each.manifest.files if name.endswith(f".{array}")]
            for each in (store, other)
        )
        shutil.copyfile(other.directory / theirs, copy / ours)
        is_same = (copy / ours).read_bytes() == (store.directory / ours).read_bytes()
        if is_same:  # the ids are
            continue
        with pytest.raises(StoreError):
            DocumentStore.open(copy, model, verify=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "format 2, this edgerank reads format 1"),
        ({"format_version": "1"}, "not a valid manifest"),
        ({"surprise": 1}, "not a valid manifest"),
        ({"files": {"../escape": {"size": 1, "sha256": "0"}}}, "points outside"),
    ],
)
def test_manifests_that_are_none_are_refused(change, message, store, tmp_path, model):
    copy = damaged(store, tmp_path / "copy")
    manifest = json.loads((copy / "store.json").read_bytes())
    (copy / "store.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(StoreError, match=message):
        DocumentStore.open(copy, model)
