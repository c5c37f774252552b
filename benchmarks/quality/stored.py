"""Do stored documents rank as they do without a store, and does a search find the best?

The candidates of BM25 are ranked by the model in the package. Documents are whole, or cut to so
many words that they have one part, beside a query of some words too: then scores differ by rounding
alone. A long document is in other parts when no query has to fit beside them, and so is one that
was cut, beside a long query, as cisi has them. What the search of the whole store finds is compared
with the ten best of all that it holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np

from benchmarks.common import options
from benchmarks.common.record import Figure, Row
from benchmarks.quality.rescoring import draw, ndcg, part_of
from edgerank import DocumentStore, Reranker
from edgerank.evaluation import Collection, Run, bm25, read_collection

COLLECTIONS = "cisi", "npl", "xquad-en"  # shared
WORDS = 130  # of a document that is cut


@click.argument("collections", nargs=-1, type=options.CollectionPath(), default=COLLECTIONS)
@click.option("--queries", type=click.IntRange(1), default=100, show_default=True)
@options.candidates(100)
@options.threads
def measure(
    collections: tuple[Path, ...], queries: int, candidates: int, threads: int
) -> Iterator[Row]:
    with Reranker(threads=threads) as reranker:
        for path in collections:
            collection = read_collection(path)
            found = draw(bm25(collection, candidates), queries)
            yield from judged(reranker, part_of(collection, found), found)


def judged(reranker: Reranker, collection: Collection, candidates: Run) -> Iterator[Row]:
    whole = collection.documents
    cut = {name: " ".join(text.split()[:WORDS]) for name, text in whole.items()}
    unstored: Run = {query: {} for query in candidates}
    for name, documents in (("whole", whole), (f"cut to {WORDS} words", cut)):
        for query, found in candidates.items():
            ids = [
                key for key in found if key not in unstored[query] or documents[key] != whole[key]
            ]
            unstored[query].update(scored(reranker, collection, query, documents, ids))
        with TemporaryDirectory(prefix="stored-") as work:
            store = DocumentStore.build(Path(work) / "store", documents, reranker)
            stored = {
                query: dict(
                    zip(found, store.score(collection.queries[query], found).tolist(), strict=True)
                )
                for query, found in candidates.items()
            }
            differences = [
                abs(stored[query][key] - unstored[query][key])
                for query, found in candidates.items()
                for key in found
            ]
            yield Row(
                {"collection": collection.name, "documents": name},
                {
                    "nDCG@10, stored": ndcg(collection, stored),
                    "not stored": ndcg(collection, unstored),
                    "difference of scores, mean": Figure(float(np.mean(differences))),
                    "largest": Figure(max(differences)),
                    "parts": Figure(sum(s.parts for s in store.manifest.segments) / len(store)),
                    "of the best ten, found": Figure(found_of_best(store, collection)),
                },
            )


def scored(
    reranker: Reranker,
    collection: Collection,
    query: str,
    documents: Mapping[str, str],
    ids: list[str],
) -> dict[str, float]:
    """Score documents without a store."""
    if not ids:
        return {}
    scores = reranker.score(collection.queries[query], [documents[name] for name in ids])
    return dict(zip(ids, scores.tolist(), strict=True))


def found_of_best(store: DocumentStore, collection: Collection) -> float:
    """Return the share of the best ten of all documents that a search finds."""
    shares = []
    for text in collection.queries.values():
        best = {hit.id for hit in store.rank(text, store.ids, top_k=10)}
        shares.append(len(best & {hit.id for hit in store.rank(text, top_k=10)}) / len(best))
    return float(np.mean(shares))
