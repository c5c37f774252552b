"""Bundles' size against what they are worth: a table, and a plot.

python -m benchmarks.size_curve ../shared/collections/npl BUNDLE... [--plot docs/size.svg]
"""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from edgerank import Reranker, evaluation

QUERIES_AT_ONCE = 128  # texts of a call that occur twice are encoded once


@click.command()
@click.argument("collection", type=click.Path(path_type=Path))
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--candidates", default=100, show_default=True, help="Of BM25, a query.")
@click.option("--plot", type=click.Path(path_type=Path), help="An SVG to write.")
def main(collection: Path, bundles: tuple[Path, ...], candidates: int, plot: Path | None) -> None:
    judged = evaluation.read_collection(collection)
    run = evaluation.bm25(judged, candidates)
    table = Table("bundle", "MB", "nDCG@10", box=None)
    table.add_row("BM25", "", f"{_ndcg(judged, run):.4f}")
    points = []
    for bundle in bundles:
        reranker = Reranker(bundle)
        rescored = evaluation.rescore(
            judged, run, reranker.score_pairs, queries_at_once=QUERIES_AT_ONCE
        )
        points.append((reranker.bundle.size / 1e6, _ndcg(judged, rescored.run), bundle.name))
        table.add_row(bundle.name, f"{points[-1][0]:.1f}", f"{points[-1][1]:.4f}")
    Console(highlight=False).print(table)
    if plot is not None:
        _plot(plot, points, judged.name)


def _ndcg(judged: evaluation.Collection, run: evaluation.Run) -> float:
    return evaluation.evaluate(judged.qrels, run).means[evaluation.NDCG]


def _plot(path: Path, points: list[tuple[float, float, str]], name: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.5), layout="constrained")
    axes = figure.subplots()
    for megabytes, ndcg, label in points:
        axes.plot(megabytes, ndcg, "o", color="C0")
        axes.annotate(label, (megabytes, ndcg), textcoords="offset points", xytext=(5, -9))
    axes.set(xlabel="MB", ylabel="nDCG@10", title=name)
    axes.margins(0.2)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
