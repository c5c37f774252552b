"""How fast are stored documents ranked and searched, and are their scores the same?

Passages are cut from a collection's text. One query at a time, with all that a call does: the query
is encoded, the passages are compared, the best are sorted. What compares takes turns: NumPy, numba,
and ONNX Runtime's MatMulInteger with the query in int8 too. The large store repeats the passages
under other ids, so its search finds as many candidates as any; its vectors are read from the disk's
cache. nDCG@10 is over BM25's candidates of the collection's own documents.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import msgspec
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

from benchmarks.common import options
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import alternate, median_seconds
from edgerank import DocumentStore, Reranker
from edgerank.evaluation import NDCG, Collection, bm25, evaluate, read_collection
from edgerank.store.comparing import Comparer, _rows
from edgerank.store.encoding import encode_documents, words_of
from edgerank.store.features import store_rule
from edgerank.store.format import commit
from edgerank.store.segments import SegmentWriter

PASSAGE_TOKENS = 150
SEGMENT = 1 << 14
ENCODED_AT_ONCE = 256


class MatMulIntegerComparer(Comparer):
    """int8 vectors times an int8 query, by ONNX Runtime."""

    def __init__(self, store: DocumentStore) -> None:
        super().__init__(store._rule, store.reranker.threads, "numba")
        graph = helper.make_graph(
            [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
            "compare",
            [
                helper.make_tensor_value_info("a", TensorProto.INT8, ["t", "d"]),
                helper.make_tensor_value_info("b", TensorProto.INT8, ["d", "n"]),
            ],
            [helper.make_tensor_value_info("y", TensorProto.INT32, ["t", "n"])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = store.reranker.threads
        self._session = ort.InferenceSession(model.SerializeToString(), settings)

    def _numba_nearest(self, rule, segment, starts, ends, query):
        lengths = ends - starts
        rows = _rows(starts, ends)
        scale = np.abs(query.vectors).max(axis=1) / np.float32(127)
        rounded = np.rint(query.vectors / scale[:, None]).astype(np.int8)
        vectors, token_ids = segment.vectors[rows], segment.token_ids[rows]
        feed = {"a": vectors, "b": np.ascontiguousarray(rounded.T)}
        cosines = self._session.run(None, feed)[0].astype(np.float32)
        cosines *= segment.scales[rows][:, None]
        bounds = np.cumsum(lengths) - lengths
        nearest = (np.maximum.reduceat(cosines, bounds) * scale) @ query.shares
        if not rule.has_token_ids:
            return nearest, np.zeros_like(nearest)
        counts = np.add.reduceat(token_ids[:, None] == query.token_ids, bounds, dtype=np.float32)
        base, slope = rule.saturation
        saturation = (base + slope * lengths).astype(np.float32)
        return nearest, (counts / (counts + saturation[:, None])) @ query.shares


@click.option("--collection", type=options.CollectionPath(), default="cisi", show_default=True)
@click.option("--ranked", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--searched", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--calls", type=click.IntRange(1), default=20, show_default=True)
@click.option("--judged/--no-judged", default=True, show_default=True, help="Measure nDCG@10 too.")
@options.rounds(5)
@options.threads
def measure(
    collection: Path,
    ranked: int,
    searched: int,
    calls: int,
    judged: bool,
    rounds: int,
    threads: int,
) -> Iterator[Row]:
    reranker = Reranker(threads=threads)
    documents = read_collection(collection)
    queries = list(documents.queries.values())
    passages = {f"p{i}": text for i, text in enumerate(_passages(reranker, documents, ranked))}
    with TemporaryDirectory(prefix="store-") as work:
        yield from _built(reranker, passages, Path(work) / "ranked")
        yield from _ranked(reranker, passages, queries, Path(work) / "ranked", rounds, calls)
        made = _repeated(reranker, passages, searched, Path(work) / "searched")
        yield from _searched(reranker, made, queries, searched, rounds, calls)
        if judged:
            yield from _judged(reranker, documents, Path(work) / "judged")


def _passages(reranker: Reranker, collection: Collection, count: int) -> Iterator[str]:
    """Cut the collection's text, over and over, into passages of so many tokens."""
    words = [word for text in collection.documents.values() for word in text.split()]
    [[tokens], _] = reranker.tokenize_documents([" ".join(words[:100])])
    size = round(100 * PASSAGE_TOKENS / len(tokens))
    for number in range(count):
        start = number * size % (len(words) - size)
        yield " ".join(words[start : start + size])


def _built(reranker: Reranker, passages: dict[str, str], directory: Path) -> Iterator[Row]:
    texts = list(passages.values())
    start = time.perf_counter()
    for first in range(0, len(texts), ENCODED_AT_ONCE):
        reranker.encode(texts[first : first + ENCODED_AT_ONCE])
    encode_s = time.perf_counter() - start
    start = time.perf_counter()
    with DocumentStore.build(directory, passages, reranker) as store:
        build_s = time.perf_counter() - start
        segments = store.manifest.segments
        figures = {
            "built": Figure(len(texts) / build_s, "passages/s"),
            "encoded alone": Figure(len(texts) / encode_s, "passages/s"),
            "tokens": Figure(sum(segment.tokens for segment in segments) / len(texts)),
            "size": Figure(store.manifest.size / len(texts), "bytes/passage"),
        }
    yield Row({"built": f"{len(texts):,} passages"}, figures)


def _ranked(
    reranker: Reranker,
    passages: dict[str, str],
    queries: list[str],
    directory: Path,
    rounds: int,
    calls: int,
) -> Iterator[Row]:
    stores = _stores(directory, reranker)
    ids = list(passages)
    unstored = reranker.score(queries[0], passages.values())
    start = time.perf_counter()
    reranker.score(queries[0], passages.values())
    unstored_s = time.perf_counter() - start

    def turn(store: DocumentStore):
        asked = iter(queries * calls)
        return lambda: median_seconds(lambda: store.rank(next(asked), ids, top_k=10), calls)

    def encoding() -> float:
        asked = iter(queries * calls)
        prepare = stores["NumPy"].prepare_query
        return median_seconds(lambda: reranker.compute(prepare(next(asked))), calls)

    for _ in range(2):  # compiles
        for store in stores.values():
            store.rank(queries[0], ids)
    times = alternate(
        {"the query's encoding alone": encoding, **{n: turn(s) for n, s in stores.items()}}, rounds
    )
    for name, seconds in times.items():
        figures = {
            "a query": median(seconds * 1e3, "ms"),
            "against encoding": median(unstored_s / seconds, "times as fast"),
        }
        if name in stores:
            error = np.abs(stores[name].score(queries[0], ids) - unstored)
            figures["largest difference"] = Figure(float(error.max()))
        yield Row({"ranked by": name}, figures)


def _stores(directory: Path, reranker: Reranker) -> dict[str, DocumentStore]:
    integer = DocumentStore.open(directory, reranker)
    integer._comparer = MatMulIntegerComparer(integer)
    return {
        "NumPy": DocumentStore.open(directory, reranker, backend="numpy"),
        "numba": DocumentStore.open(directory, reranker, backend="numba"),
        "MatMulInteger": integer,
    }


def _repeated(
    reranker: Reranker, passages: dict[str, str], count: int, directory: Path
) -> DocumentStore:
    """Write a store of so many documents without encoding each."""
    rule = store_rule(reranker.bundle)
    manifest = DocumentStore.build(directory, {}, reranker).manifest
    texts = list(passages.values())
    encoded = [encode_documents(reranker, rule, [text])[0] for text in texts]
    words = [words_of(text) for text in texts]
    places = iter(range(count))
    while batch := list(islice(places, SEGMENT)):
        writer = SegmentWriter(directory, rule)
        for place in batch:
            source = place % len(texts)
            writer.add(f"p{place}", words[source], encoded[source])
        info, files = writer.finish()
        manifest = msgspec.structs.replace(
            manifest,
            segments=(*manifest.segments, info),
            files={**manifest.files, **files},
        )
    commit(directory, manifest)
    return DocumentStore.open(directory, reranker)


def _searched(
    reranker: Reranker,
    made: DocumentStore,
    queries: list[str],
    count: int,
    rounds: int,
    calls: int,
) -> Iterator[Row]:
    stores = {
        name: DocumentStore.open(made.directory, reranker, backend=name)
        for name in ("numpy", "numba")
    }

    def turn(store: DocumentStore):
        asked = iter(queries * calls)
        return lambda: median_seconds(lambda: store.rank(next(asked), top_k=10), calls)

    for store in stores.values():
        store.rank(queries[0])
    for name, seconds in alternate({n: turn(s) for n, s in stores.items()}, rounds).items():
        yield Row(
            {"searched by": name, "store": f"{count:,} passages"},
            {"a query": median(seconds * 1e3, "ms")},
        )


def _judged(reranker: Reranker, collection: Collection, directory: Path) -> Iterator[Row]:
    candidates = bm25(collection, 100)
    with DocumentStore.build(directory, collection.documents, reranker) as store:
        stored, unstored, recalls = {}, {}, []
        for query, found in candidates.items():
            text, ids = collection.queries[query], list(found)
            stored[query] = dict(zip(ids, store.score(text, ids).tolist(), strict=True))
            scores = reranker.score(text, [collection.documents[name] for name in ids])
            unstored[query] = dict(zip(ids, scores.tolist(), strict=True))
            best = {hit.id for hit in store.rank(text, collection.documents, top_k=10)}
            searched = {hit.id for hit in store.rank(text, top_k=10)}
            recalls.append(len(best & searched) / len(best))
    for name, run in (("stored", stored), ("not stored", unstored)):
        figures = {"nDCG@10": Figure(evaluate(collection.qrels, run).means[NDCG])}
        yield Row({"collection": collection.name, "documents": name}, figures)
    yield Row(
        {"collection": collection.name, "documents": "searched"},
        {"of the best ten of all": Figure(float(np.mean(recalls)))},
    )
