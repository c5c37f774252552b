"""What ranking quality do bundles of several sizes buy?

nDCG@10 of BUNDLES on the candidates that BM25 finds in COLLECTION, a directory in BEIR's layout or
the name of a shared one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.record import Figure, Row
from benchmarks.quality.rescoring import ndcg, rescored
from edgerank import Reranker
from edgerank.evaluation import NDCG, bm25, read_collection


@click.argument("collection", type=options.CollectionPath())
@click.argument("bundles", type=options.DIRECTORY, nargs=-1, required=True)
@options.candidates(100)
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="An SVG to write.")
def measure(
    collection: Path, bundles: tuple[Path, ...], candidates: int, plot: Path | None
) -> Iterator[Row]:
    judged = read_collection(collection)
    run = bm25(judged, candidates)
    labels = {"collection": judged.name}
    yield Row({**labels, "bundle": "BM25"}, {NDCG: ndcg(judged, run)})
    points = []
    for bundle in bundles:
        reranker = Reranker(bundle)
        size = Figure(reranker.bundle.size / 1e6, "MB")
        quality = ndcg(judged, rescored(judged, run, reranker.score_pairs).run)
        points.append((bundle.name, size.value, quality.value))
        yield Row({**labels, "bundle": bundle.name}, {"size": size, NDCG: quality})
    if plot is not None:
        draw(plot, points, judged.name)


def draw(path: Path, points: list[tuple[str, float, float]], title: str) -> None:
    """Plot nDCG@10 against megabytes; points are of name, megabytes and nDCG@10."""
    from matplotlib.figure import Figure as Drawing

    drawing = Drawing(figsize=(5, 3.5), layout="constrained")
    axes = drawing.subplots()
    for name, megabytes, quality in points:
        axes.plot(megabytes, quality, "o", color="C0")
        axes.annotate(name, (megabytes, quality), textcoords="offset points", xytext=(5, -9))
    axes.set(xlabel="MB", ylabel=NDCG, title=title)
    axes.margins(0.2)
    drawing.savefig(path, metadata={"Date": None})
