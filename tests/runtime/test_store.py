"""Stores of real bundles: their scores, what compares them, search, and the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerank import DocumentStore, InputError, Reranker, StoreError
from edgerank.kernels import choose_kernels
from edgerank.store.comparing import Comparer, choose_backend
from edgerank.store.encoding import words_of
from edgerank.store.features import Query
from edgerank.store.search import bm25
from tests.support import ROOT
from tests.support.bundles import made_once
from tests.support.cli import edgerank, environment, fail, succeed
from tests.support.operators import needs_kernels

QUERIES = ["who wrote dune?", "what is the capital of France?", "delete a folder"]
DOCUMENTS = {
    "dune": {"title": "Dune", "text": "A novel by Frank Herbert. It appeared in 1965."},
    "herbert": "Frank Herbert wrote Dune and many other novels of science fiction.",
    "paris": "Paris is the capital of France, and has been since 987.",
    "rmtree": "shutil.rmtree: Recursively delete a directory tree.",
    "floor": "math.floor: Return the floor of x as an integer.",
    "empty": "",
    "marks": "., ,.",
}
LONG = {
    "end": "The committee met in the spring and adjourned. " * 90 + "Frank Herbert wrote Dune.",
    "filler": "The committee met in the spring and adjourned without a decision. " * 60,
}
BACKENDS = [pytest.param("kernels", marks=needs_kernels), "numba", "numpy"]
WIDTH = 12


@pytest.fixture(scope="module")
def reranker() -> Reranker:
    return Reranker(threads=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory, reranker) -> DocumentStore:
    directory = tmp_path_factory.mktemp("store") / "store"
    return DocumentStore.build(directory, {**DOCUMENTS, **LONG}, reranker)


@pytest.fixture(scope="module")
def colbert(tmp_path_factory) -> Path:
    from quantize import quantize
    from tests.support.checkpoints import save_bert_encoder, save_late_interaction

    checkpoint = tmp_path_factory.mktemp("colbert")
    save_late_interaction(checkpoint, save_bert_encoder)
    make = partial(quantize, checkpoint, precision="fp32")
    return made_once(tmp_path_factory, "bundles/store-colbert", make)


# Scores


@pytest.mark.parametrize("backend", BACKENDS)
def test_stored_scores_are_those_of_the_model_in_the_package(backend, store, reranker):
    """They differ by the rounding of stored vectors, and with stock operators also of the model's
    rows: there a document that is encoded beside its query gets other sums."""
    most, mean = (1e-3, 1e-4) if reranker.kernels.are_compiled else (3e-3, 2e-4)
    opened = DocumentStore.open(store.directory, reranker, backend=backend, verify=True)
    for normalize in (False, True):
        errors = [
            opened.score(query, DOCUMENTS, normalize=normalize)
            - reranker.score(query, DOCUMENTS.values(), normalize=normalize)
            for query in QUERIES
        ]
        assert np.abs(errors).max() < most
        assert np.abs(errors).mean() < mean


def test_the_best_part_of_a_long_document_counts(store, reranker):
    best, filler = store.score(QUERIES[0], LONG)
    beginning = reranker.score(QUERIES[0], [LONG["end"]], long_documents="truncate")[0]
    assert best > beginning + 0.01
    assert best > filler
    assert store.manifest.segments[0].parts > len(DOCUMENTS) + 2 * len(LONG)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["embedding.fp32", "embedding.int8", "colbert"])
def test_stored_scores_are_those_of_bundles_that_encode_apart(
    kind, backend, bundles, colbert, tmp_path
):
    """With MaxSim, whose sum grows with the query, 1e-3 is of a token's mean."""
    reranker = Reranker(colbert if kind == "colbert" else bundles / kind)
    documents = {**DOCUMENTS, **LONG}
    store = DocumentStore.build(tmp_path / "store", documents, reranker, backend=backend)
    for query in QUERIES:
        for normalize in (False, True):
            split = reranker.score(
                query, documents.values(), long_documents="split", normalize=normalize
            )
            scores = store.score(query, documents, normalize=normalize)
            [vectors] = reranker.encode([query], kind="query")
            tokens = len(vectors) if kind == "colbert" and not normalize else 1
            np.testing.assert_allclose(scores / tokens, split / tokens, atol=1e-3)


def test_a_bundle_that_reads_pairs_has_no_store(bundles, tmp_path):
    with pytest.raises(StoreError, match="reads a query and a document together"):
        DocumentStore.build(tmp_path / "store", DOCUMENTS, bundles / "cross-encoder.int8")
    assert not (tmp_path / "store").exists()


def test_instructions_are_for_models_that_take_them(store):
    with pytest.raises(InputError, match="instruction: this model's family takes none"):
        store.rank(QUERIES[0], instruction="novels")


# What compares


def segment_of(rng: np.random.Generator, lengths: list[int], has_ids: bool) -> SimpleNamespace:
    total = sum(lengths)
    return SimpleNamespace(
        part_tokens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        vectors=rng.integers(-127, 128, (total, WIDTH)).astype(np.int8),
        scales=rng.uniform(0.001, 0.01, total).astype(np.float32),
        token_ids=rng.integers(0, 5, total if has_ids else 0).astype(np.int32),
        pooled=rng.integers(-32767, 32768, (len(lengths), WIDTH)).astype(np.int16),
        pooled_scales=rng.uniform(1e-5, 1e-4, len(lengths)).astype(np.float32),
    )


def by_loops(segment, part: int, query: Query, rule) -> tuple[float, float, float]:
    """The features of a part, one number at a time."""
    rows = range(segment.part_tokens[part], segment.part_tokens[part + 1])
    cosine = float(segment.pooled[part].astype(float) @ query.pooled) * segment.pooled_scales[part]
    nearest = exact = 0.0
    base, slope = rule.saturation
    for vector, share, token in zip(query.vectors, query.shares, query.token_ids, strict=True):
        found = [float(segment.vectors[r].astype(float) @ vector) * segment.scales[r] for r in rows]
        nearest += share * max(found, default=rule.nearest_of_none)
        if rule.has_token_ids:
            count = sum(int(segment.token_ids[row] == token) for row in rows)
            exact += share * count / (count + base + slope * len(rows))
    return cosine, nearest, exact


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    num_query=st.integers(0, 9),
    has_ids=st.booleans(),
    threads=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=40)
def test_features_are_those_of_loops(backend, lengths, num_query, has_ids, threads, seed):
    rng = np.random.default_rng(seed)
    rule = SimpleNamespace(
        has_tokens=True, has_token_ids=has_ids, nearest_of_none=-1.0, saturation=(0.6, 0.01)
    )
    segment = segment_of(rng, lengths, has_ids)
    query = Query(
        rng.standard_normal((num_query, WIDTH)).astype(np.float32),
        rng.uniform(0, 1, num_query).astype(np.float32),
        rng.integers(0, 5, num_query),
        rng.standard_normal(WIDTH).astype(np.float32),
    )
    parts = rng.permutation(len(lengths))[: rng.integers(1, len(lengths) + 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgerank.store.by_numpy.BLOCK_ROWS", 8)
        patch.setattr("edgerank.store.comparing.MIN_TASK_ROWS", 2)
        comparer = Comparer(rule, threads, choose_backend(backend))
        found = comparer.features(segment, parts, query)
        whole = comparer.pooled(segment, query)
        comparer.close()
    expected = np.array([by_loops(segment, part, query, rule) for part in parts])
    np.testing.assert_allclose(found.cosine, expected[:, 0], rtol=1e-4, atol=1e-5)
    is_rounded = backend == "kernels" and choose_kernels().name == "amx"  # the query, to 16 bits
    atol = 2e-4 if is_rounded else 1e-5
    np.testing.assert_allclose(found.nearest, expected[:, 1], rtol=1e-4, atol=atol)
    np.testing.assert_allclose(found.exact, expected[:, 2], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole[parts], found.cosine, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_rank_a_store_alike(backend, store, reranker):
    ours = DocumentStore.open(store.directory, reranker, backend=backend)
    numpy = DocumentStore.open(store.directory, reranker, backend="numpy")
    assert ours.backend == backend
    for query in QUERIES:
        for ids in (None, [*DOCUMENTS, *LONG]):
            found, expected = ours.rank(query, ids), numpy.rank(query, ids)
            assert [hit.id for hit in found] == [hit.id for hit in expected]
            np.testing.assert_allclose(
                [hit.score for hit in found], [hit.score for hit in expected], atol=1e-5
            )


def test_a_backend_that_is_not_there_is_named_with_the_reason(store, reranker, monkeypatch):
    monkeypatch.setenv("EDGERANK_KERNELS", "stock")
    assert DocumentStore.open(store.directory, reranker).backend == "numba"
    with pytest.raises(InputError, match=r"there are no compiled kernels \(stock: asked for by"):
        DocumentStore.open(store.directory, reranker, backend="kernels")
    monkeypatch.setenv("EDGERANK_STORE", "gpu")
    with pytest.raises(InputError, match="backend: 'gpu' in EDGERANK_STORE is unknown"):
        DocumentStore.open(store.directory, reranker)


WITHOUT_NUMBA = """
import sys
from edgerank import DocumentStore
if sys.argv[3] == "hidden":
    class Hidden:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "numba":
                raise ModuleNotFoundError(name=name)
    sys.meta_path.insert(0, Hidden())
store = DocumentStore.open(sys.argv[1])
assert "numba" not in sys.modules
print(store.backend, store.rank(sys.argv[2], top_k=1)[0].id, "numba" in sys.modules)
"""


@pytest.mark.parametrize(
    ("hidden", "printed"), [("hidden", "numpy dune False"), ("there", "numba dune True")]
)
def test_numba_is_loaded_when_it_is_needed_and_may_be_absent(hidden, printed, store, monkeypatch):
    monkeypatch.setenv("EDGERANK_KERNELS", "stock")
    command = [sys.executable, "-c", WITHOUT_NUMBA, str(store.directory), "dune", hidden]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, check=True)
    backend, found, loaded = done.stdout.decode().split()
    assert f"{backend} {found.replace('herbert', 'dune')} {loaded}" == printed


# Search


def test_bm25_is_that_of_bm25s(store):
    import bm25s

    texts = {
        name: text if isinstance(text, str) else "\n".join(text.values())
        for name, text in {**DOCUMENTS, **LONG}.items()
    }
    index = bm25s.BM25()
    index.index(
        bm25s.tokenize(list(texts.values()), stopwords=None, show_progress=False),
        show_progress=False,
    )
    for query in [*QUERIES, "the the committee of France", "nothing that anyone wrote"]:
        [words] = bm25s.tokenize([query], stopwords=None, return_ids=False, show_progress=False)
        expected = index.get_scores_from_ids(index.get_tokens_ids(words))
        [scores] = bm25(store._snapshot.segments, words_of(query))
        np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_a_search_finds_the_right_documents(store):
    found = [store.rank(query, top_k=1)[0].id for query in QUERIES]
    assert found[0] in ("dune", "herbert")
    assert found[1:] == ["paris", "rmtree"]
    assert len(store.rank(QUERIES[0])) == min(10, len(store))


# The command line


def test_a_store_from_the_command_line(tmp_path):
    corpus, store, ids = tmp_path / "corpus.jsonl", tmp_path / "store", tmp_path / "ids"
    corpus.write_text(
        "".join(
            json.dumps({"_id": name, **(text if isinstance(text, dict) else {"text": text})}) + "\n"
            for name, text in DOCUMENTS.items()
        )
    )
    assert "7 documents" in succeed("store", "build", store, corpus)
    ids.write_text("paris\ndune\n")
    ranked = json.loads(succeed("store", "rank", store, QUERIES[1], "--ids", ids, "--json"))
    assert [hit["id"] for hit in ranked] == ["paris", "dune"]
    assert "dune" in succeed("store", "rank", store, QUERIES[0], "-k", "2")
    more = b'{"id": "leto", "text": "Leto is a character of Dune."}\n'
    assert "1 added, 8 documents" in succeed("store", "add", store, stdin=more)
    assert "'leto' is there already" in fail("store", "add", store, stdin=more)
    assert "1 added, 8 documents" in succeed("store", "add", store, "--replace", stdin=more)
    assert "2 deleted, 6 documents" in succeed("store", "delete", store, "leto", "floor")
    assert "'floor' is not in the store" in fail("store", "delete", store, "floor")
    assert "there are none" in fail("store", "delete", store)
    described = succeed("store", "inspect", store)
    assert "edgerank-default" in described
    assert "6, and 1 that were deleted" in described
    manifest = json.loads(succeed("store", "inspect", store, "--json"))
    assert succeed("store", "verify", store).count("intact") == len(manifest["files"])
    assert "there is a store" in fail("store", "build", store, corpus)
    [vectors] = [name for name in manifest["files"] if name.endswith(".vectors")]
    content = bytearray((store / vectors).read_bytes())
    content[0] ^= 1
    (store / vectors).write_bytes(content)
    refused = edgerank("store", "verify", store)
    assert refused.returncode == 2
    assert b"vectors: altered" in refused.stderr
    assert "a store is a directory" in fail("store", "rank", tmp_path, QUERIES[0])
