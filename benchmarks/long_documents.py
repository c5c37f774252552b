"""Long documents: cut, or split into parts of which the best counts?

Every candidate of a collection becomes a long document: its own text anywhere among texts that are
no candidates of the query, so that what answers the query, if anything does, may lie beyond the
model's length. Its relevance stays that of its own text.

    python -m benchmarks.long_documents ../shared/collections/cisi [--bundle BUNDLE]
"""

from __future__ import annotations

from pathlib import Path
from random import Random

import click
from rich.console import Console
from rich.table import Table

from edgerank import Reranker, evaluation
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.prompt import LongDocuments

PARTS = 8  # texts of a long document
CANDIDATES = 30


@click.command()
@click.argument("collection", type=click.Path(path_type=Path))
@click.option("--bundle", type=click.Path(path_type=Path), default=DEFAULT_BUNDLE)
@click.option("--queries", default=40, show_default=True)
def main(collection: Path, bundle: Path, queries: int) -> None:
    judged = evaluation.read_collection(collection)
    run = evaluation.bm25(judged, CANDIDATES)
    chosen = [query for query in run if any(judged.qrels[query].get(d) for d in run[query])]
    chosen = chosen[:queries]
    reranker = Reranker(bundle)
    ways: tuple[LongDocuments, ...] = ("truncate", "split")
    runs: dict[str, evaluation.Run] = {name: {} for name in ("alone", *ways)}
    lengths: list[int] = []
    for query in chosen:
        text, found = judged.queries[query], list(run[query])
        alone = [judged.documents[document] for document in found]
        long = [_among_others(judged.documents, set(found), query, place) for place in found]
        lengths += [reranker.num_tokens(document) for document in long]
        scores = {"alone": reranker.score(text, alone)}
        scores |= {way: reranker.score(text, long, long_documents=way) for way in ways}
        for name, values in scores.items():
            runs[name][query] = dict(zip(found, map(float, values), strict=True))
    qrels = {query: judged.qrels[query] for query in chosen}
    table = Table("documents", "nDCG@10", box=None)
    table.add_row("bm25 of the texts alone", _ndcg(qrels, {q: run[q] for q in chosen}))
    table.add_row("the texts alone", _ndcg(qrels, runs["alone"]))
    for way in ways:
        table.add_row(f"long, {way}", _ndcg(qrels, runs[way]))
    console = Console(highlight=False)
    console.print(
        f"{judged.name}: {len(chosen)} queries, up to {CANDIDATES} documents each, of"
        f" {sorted(lengths)[len(lengths) // 2]} tokens (median); at most"
        f" {reranker.bundle.manifest.max_length} at once"
    )
    console.print(table)


def _among_others(texts: dict[str, str], candidates: set[str], query: str, document: str) -> str:
    """Put a document anywhere among others that are no candidates of the query."""
    random = Random(f"{query} {document}")
    others: list[str] = []
    while len(others) < PARTS - 1:
        other = random.choice(list(texts))
        if other not in candidates:
            others.append(texts[other])
    others.insert(random.randrange(PARTS), texts[document])
    return "\n".join(others)


def _ndcg(qrels: evaluation.Qrels, run: evaluation.Run) -> str:
    return f"{evaluation.evaluate(qrels, run).means[evaluation.NDCG]:.4f}"


if __name__ == "__main__":
    main()
