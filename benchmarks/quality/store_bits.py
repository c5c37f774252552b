"""What would fewer bits or pooled tokens cost in ranking quality, and save in a store?

The model in the package re-ranks the candidates of BM25 by stored vectors. The nearest token of a
document is looked for among vectors that were rounded or pooled; the pooled vector of the document
and its words in common with the query stay what they are. Rounding: so many levels, evenly spaced
around zero, with the spacing of each vector that leaves it nearest to what it was. Pooling: the
mean of vectors of a document, of neighbours or of clusters by Ward's method, as ColBERT's token
pooling has it (Clavié and others, 2024). p is of a paired randomisation test over queries against
8 bits and all tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage

from benchmarks.common import options
from benchmarks.common.record import Figure, Row
from benchmarks.quality.rescoring import draw, part_of
from edgerank import DocumentStore, Reranker
from edgerank.evaluation import (
    NDCG,
    Collection,
    Run,
    bm25,
    evaluate,
    randomisation_test,
    read_collection,
)
from edgerank.scoring import unit_rows
from edgerank.store.arrays import ranges
from edgerank.store.comparing import Comparer, choose_backend
from edgerank.store.features import Features, Query, StoreRule, store_rule
from edgerank.store.segments import Segment
from edgerank.store.writing import open_segments

COLLECTIONS = "cisi", "npl", "xquad-en"  # shared
SPACINGS = np.linspace(0.1, 2.0, 20)  # of levels, times a vector's root mean square
ROWS_AT_ONCE = 1 << 12
NEIGHBOURS, CLUSTERS = "neighbours", "clusters"

Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Variant:
    """A way to keep the vectors of a document's tokens."""

    bits: int
    pooling: str = ""
    factor: int = 1  # tokens for a vector

    @property
    def tokens(self) -> str:
        return f"{self.factor} {self.pooling} in one" if self.pooling else "all"


PLAIN = Variant(8)
VARIANTS = (
    PLAIN,
    *(Variant(bits) for bits in (4, 2, 1)),
    *(Variant(8, pooling, factor) for pooling in (NEIGHBOURS, CLUSTERS) for factor in (2, 3)),
    *(Variant(bits, CLUSTERS, 2) for bits in (4, 2)),
)


@dataclass(frozen=True)
class Stored:
    """The candidates of a collection, encoded, and the queries that they are of."""

    rule: StoreRule
    segment: Segment
    queries: dict[str, Query]
    candidates: Run

    def rows(self, variant: Variant) -> tuple[Vectors, NDArray[np.int64]]:
        """Return the vectors that a variant keeps, and those of each part: int64 [P + 1]."""
        segment = self.segment
        vectors = unit_rows(segment.vectors.astype(np.float32))
        ends = segment.part_tokens
        if variant.pooling:
            parts = [pooled(vectors[slice(*bounds)], variant) for bounds in pairwise(ends.tolist())]
            vectors = np.concatenate(parts)
            ends = np.cumsum([0, *map(len, parts)])
        if variant.bits < PLAIN.bits:
            blocks = range(0, len(vectors), ROWS_AT_ONCE)
            kept = [
                rounded(vectors[start : start + ROWS_AT_ONCE], variant.bits) for start in blocks
            ]
            vectors = np.concatenate(kept)
        return vectors, ends

    def ranked(self, vectors: Vectors, ends: NDArray[np.int64]) -> Run:
        """Score all candidates by such vectors."""
        scales = np.ones(len(vectors), np.float32)
        others = replace(self.segment, vectors=vectors, scales=scales, part_tokens=ends)
        backend = choose_backend("numpy")
        compare = Comparer(self.rule, 1, backend).features
        nearest = Comparer(replace(self.rule, has_token_ids=False), 1, backend).features
        places = {name: place for place, name in enumerate(self.segment.names)}
        run = {}
        for name, found in self.candidates.items():
            query, documents = self.queries[name], np.array([places[each] for each in found])
            starts, stops = (self.segment.document_parts[documents + more] for more in (0, 1))
            parts = ranges(starts, stops)
            features = compare(self.segment, parts, query)
            features = Features(
                features.cosine, nearest(others, parts, query).nearest, features.exact
            )
            raw = self.rule.combine(query, features, False)
            best = np.maximum.reduceat(raw, np.cumsum(stops - starts) - (stops - starts))
            run[name] = dict(zip(found, best.tolist(), strict=True))
        return run

    def num_bytes(self, variant: Variant, num_vectors: int) -> float:
        """Count the bytes of a document, without its words for BM25 and its id."""
        segment = self.segment
        width = segment.vectors.shape[1]
        tokens = num_vectors * (width * variant.bits / 8 + 4) + 4 * len(segment.token_ids)
        parts = len(segment.pooled) * (2 * width + 4)
        return (tokens + parts) / segment.info.documents


@click.argument("collections", nargs=-1, type=options.CollectionPath(), default=COLLECTIONS)
@click.option("--queries", type=click.IntRange(1), default=100, show_default=True)
@options.candidates(100)
@options.threads
@options.work
def measure(
    collections: tuple[Path, ...], queries: int, candidates: int, threads: int, work: Path | None
) -> Iterator[Row]:
    with options.directory(work) as kept, Reranker(threads=threads) as reranker:
        for path in collections:
            collection = read_collection(path)
            run = draw(bm25(collection, candidates), queries)
            stored = encoded(reranker, collection, run, Path(kept) / collection.name)
            yield from rows(part_of(collection, run), stored)


def encoded(reranker: Reranker, collection: Collection, run: Run, directory: Path) -> Stored:
    """Encode the candidates, unless they are there."""
    found = dict.fromkeys(name for names in run.values() for name in names)
    documents = {name: collection.documents[name] for name in found}
    rule = store_rule(reranker.bundle)
    if not (directory / "store.json").exists():
        DocumentStore.build(directory, documents, reranker, show_progress=True)
    with DocumentStore.open(directory, reranker, backend="numpy") as store:
        [segment] = open_segments(directory, store.manifest, rule)
        queries = {
            name: reranker.compute(store.prepare_query(collection.queries[name])) for name in run
        }
    return Stored(rule, segment, queries, run)


def rows(collection: Collection, stored: Stored) -> Iterator[Row]:
    """Rank by each variant, and compare it with the first."""
    plain, plain_bytes = None, 0.0
    for variant in VARIANTS:
        vectors, ends = stored.rows(variant)
        found = evaluate(collection.qrels, stored.ranked(vectors, ends))
        size = stored.num_bytes(variant, len(vectors))
        if plain is None:  # the first
            plain, plain_bytes = found, size
        yield Row(
            {"collection": collection.name, "bits": str(variant.bits), "tokens": variant.tokens},
            {
                NDCG: Figure(found.means[NDCG]),
                "less 8 bits'": Figure(found.means[NDCG] - plain.means[NDCG]),
                "p": Figure(randomisation_test(found.per_query[NDCG], plain.per_query[NDCG])),
                "a document": Figure(size, "bytes"),
                "size": Figure(100 * size / plain_bytes, "%"),
            },
        )


def rounded(vectors: Vectors, bits: int) -> Vectors:
    """Round unit rows to 2 ** bits levels, whose spacing keeps each row's direction best."""
    most = 2 ** (bits - 1)
    root_mean_square = 1 / np.sqrt(np.float32(vectors.shape[1]))
    best = np.full(len(vectors), -1, np.float32)
    kept = np.empty_like(vectors)
    for spacing in SPACINGS * root_mean_square:
        levels = np.clip(np.floor(vectors / np.float32(spacing)), -most, most - 1) + np.float32(0.5)
        units = unit_rows(levels)
        cosines = np.einsum("td,td->t", units, vectors)
        is_better = cosines > best
        kept[is_better], best[is_better] = units[is_better], cosines[is_better]
        if bits == 1:  # signs alone
            break
    return kept


def pooled(vectors: Vectors, variant: Variant) -> Vectors:
    """Take the means of a part's vectors, at length 1."""
    count = -(-len(vectors) // variant.factor)
    if len(vectors) < 2:
        return vectors
    if variant.pooling == NEIGHBOURS:
        groups = np.arange(len(vectors)) // variant.factor
    else:
        tree = linkage(vectors, "ward")
        groups = fcluster(tree, count, "maxclust") - 1
    sums = np.zeros((groups.max() + 1, vectors.shape[1]), np.float32)
    np.add.at(sums, groups, vectors)
    return unit_rows(sums)
