"""Long documents: cut, or split into parts of which the best counts?

Every candidate of a collection becomes a long document: its own text anywhere among texts that are
no candidates of the query, so that what answers the query, if anything does, may lie beyond the
model's length. Its relevance stays that of its own text. COLLECTION is a directory in BEIR's layout
or the name of a shared one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import click

from benchmarks.common import options
from benchmarks.common.record import Figure, Row, median
from benchmarks.quality.rescoring import ndcg, part_of
from edgerank import LongDocuments, Reranker
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.evaluation import NDCG, Collection, Run, bm25, read_collection
from edgerank.tokenization import open_tokenizer

PARTS = 8  # texts of a long document
WAYS: tuple[LongDocuments, ...] = ("truncate", "split")


@click.argument("collection", type=options.CollectionPath(), default="cisi")
@click.option(
    "--bundle",
    type=options.DIRECTORY,
    default=DEFAULT_BUNDLE,
    help="A model that splits; the model in the package by default.",
)
@click.option("--queries", default=40, show_default=True, help="Queries at most.")
@options.candidates(30)
def measure(collection: Path, bundle: Path, queries: int, candidates: int) -> Iterator[Row]:
    judged = read_collection(collection)
    found = bm25(judged, candidates)
    answered = [query for query in found if any(judged.qrels[query].get(d) for d in found[query])]
    found = {query: found[query] for query in answered[:queries]}
    part = part_of(judged, found)
    reranker = Reranker(bundle)
    runs, lengths = score(reranker, part, found)
    labels = {"collection": f"{judged.name}, {len(found)} queries"}
    figures = {
        "length": median(lengths, "tokens"),
        "of which the model takes": Figure(reranker.bundle.manifest.max_length, "tokens"),
    }
    yield Row({**labels, "long documents": f"{PARTS} texts each"}, figures)
    for name, run in {"BM25 of the texts alone": found, **runs}.items():
        yield Row({**labels, "documents": name}, {NDCG: ndcg(part, run)})


def score(
    reranker: Reranker, collection: Collection, found: Run
) -> tuple[dict[str, Run], list[int]]:
    """Score the texts alone and among others: runs by name, and the long documents' tokens."""
    runs: dict[str, Run] = {name: {} for name in ("the texts alone", *WAYS)}
    lengths: list[int] = []
    tokenizer = open_tokenizer(reranker.bundle.tokenizer_path)
    for query, candidates in found.items():
        text = collection.queries[query]
        alone = [collection.documents[document] for document in candidates]
        long = [
            among_others(collection.documents, set(candidates), query, document)
            for document in candidates
        ]
        lengths += [len(encoding.ids) for encoding in tokenizer.encode_batch(long)]
        scores = {"the texts alone": reranker.score(text, alone)}
        scores |= {way: reranker.score(text, long, long_documents=way) for way in WAYS}
        for name, values in scores.items():
            runs[name][query] = dict(zip(candidates, map(float, values), strict=True))
    return runs, lengths


def among_others(texts: dict[str, str], candidates: set[str], query: str, document: str) -> str:
    """Put a document anywhere among others that are no candidates of the query."""
    random = Random(f"{query} {document}")
    others: list[str] = []
    while len(others) < PARTS - 1:
        other = random.choice(list(texts))
        if other not in candidates:
            others.append(texts[other])
    others.insert(random.randrange(PARTS), texts[document])
    return "\n".join(others)
