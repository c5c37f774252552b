"""How fast are stored documents ranked and searched, and are their scores the same?

Passages are cut from a collection's text. One query at a time, with all that a call does: the query
is encoded, the passages are compared, the best are sorted. The compiled kernels, numba and NumPy
take turns. The large store repeats the passages under other ids, so its search finds as many
candidates as any; its vectors are read from the disk's cache.
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

from benchmarks.common import options
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import alternate, median_seconds
from edgerank import DocumentStore, Reranker
from edgerank.evaluation import Collection, read_collection
from edgerank.store.encoding import encode_documents, words_of
from edgerank.store.features import store_rule
from edgerank.store.format import commit
from edgerank.store.segments import SegmentWriter

PASSAGE_TOKENS = 150
SEGMENT = 1 << 14
ENCODED_AT_ONCE = 256


@click.option("--collection", type=options.CollectionPath(), default="cisi", show_default=True)
@click.option("--ranked", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--searched", type=click.IntRange(1), default=100_000, show_default=True)
@click.option("--calls", type=click.IntRange(1), default=20, show_default=True)
@options.rounds(5)
@options.threads
def measure(
    collection: Path,
    ranked: int,
    searched: int,
    calls: int,
    rounds: int,
    threads: int,
) -> Iterator[Row]:
    reranker = Reranker(threads=threads)
    documents = read_collection(collection)
    queries = list(documents.queries.values())
    passages = {f"p{i}": text for i, text in enumerate(passages_of(reranker, documents, ranked))}
    with TemporaryDirectory(prefix="store-") as work:
        yield from _built(reranker, passages, Path(work) / "ranked")
        yield from _ranked(reranker, passages, queries, Path(work) / "ranked", rounds, calls)
        made = _repeated(reranker, passages, searched, Path(work) / "searched")
        yield from _searched(reranker, made, queries, searched, rounds, calls)


def passages_of(reranker: Reranker, collection: Collection, count: int) -> Iterator[str]:
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
        prepare = stores["numpy"].prepare_query
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
    return {
        name: DocumentStore.open(directory, reranker, backend=name)
        for name in ("kernels", "numba", "numpy")
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
    stores = _stores(made.directory, reranker)

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
