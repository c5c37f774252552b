"""``edgerank eval``"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import msgspec

from edgerank.bundle import DEFAULT_BUNDLE, MIN_LENGTH, read_bundle
from edgerank.cli.extras import needs_extra
from edgerank.errors import InputError


@dataclass(frozen=True)
class Row:
    """A run and its measures."""

    name: str
    bundle: str | None  # None for the first stage
    means: dict[str, float]  # by measure
    p: dict[str, float]  # of the difference in nDCG@10, by the run that this one is compared with
    documents_per_second: float | None  # None where nothing was scored
    per_query: dict[str, dict[str, float]]  # by measure, then query id


@dataclass(frozen=True)
class Evaluation:
    """What --json prints."""

    collection: str
    split: str
    queries: int
    candidates: int  # at most, for each query
    candidate_recall: float  # share of the relevant documents among the candidates, mean
    runs: list[Row]  # the first stage's, then the bundles'


@click.command("eval")
@click.argument("bundles", metavar="[BUNDLE...]", nargs=-1, type=click.Path(path_type=Path))
@click.argument("collection", type=click.Path(path_type=Path))
@click.option(
    "--candidates",
    "num_candidates",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Rank so many documents of each query.",
)
@click.option(
    "--first-stage",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Take the candidates from this TREC run file. The default is BM25's.",
)
@click.option(
    "--runs",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write the rankings to this directory as TREC run files. The same command goes on where an"
    " interrupted one stopped.",
)
@click.option(
    "--split", default="test", show_default=True, help="Read the judgements of qrels/SPLIT.tsv."
)
@click.option(
    "--max-length",
    type=int,
    help="Most tokens of query and document together. The default is the bundle's.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Threads to compute with. The default is the physical cores given to this process.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with the values of every query.")
def eval_command(
    bundles: tuple[Path, ...],
    collection: Path,
    num_candidates: int,
    first_stage: Path | None,
    runs: Path | None,
    split: str,
    max_length: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Measure how well bundles rank, on a collection with relevance judgements.

    COLLECTION is a directory in BEIR's layout: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. All
    bundles rank the same candidates, and are compared with the first stage and the first bundle.
    The default is the bundle in the package. Where BM25 takes long, give the bm25.trec of an
    earlier --runs as --first-stage.
    """
    with needs_extra("evaluating", "eval"):
        from edgerank import evaluation
    bundles = bundles or (DEFAULT_BUNDLE,)
    for bundle in bundles:
        _check_bundle(bundle, max_length)
    show_progress = sys.stderr.isatty()
    judged = evaluation.read_collection(collection, split)
    if runs is not None:
        runs.mkdir(parents=True, exist_ok=True)
    if first_stage is not None:
        candidates = evaluation.read_candidates(first_stage, judged, num_candidates)
    else:
        candidates = evaluation.bm25(judged, num_candidates, show_progress=show_progress)
        if runs is not None:
            evaluation.write_run(runs / "bm25.trec", candidates, "bm25")
    first_name = "bm25" if first_stage is None else first_stage.stem
    names = _unique([first_name, *(bundle.resolve().name for bundle in bundles)])
    measured = evaluation.evaluate(judged.qrels, candidates)
    rows = [Row(first_name, None, measured.means, {}, None, measured.per_query)]
    for name, bundle in zip(names[1:], bundles, strict=True):
        rescored = evaluation.rescore_with_bundle(
            judged,
            candidates,
            bundle,
            threads=threads,
            max_length=max_length,
            path=None if runs is None else runs / f"{name}.trec",
            name=name,
            show_progress=show_progress,
        )
        measured = evaluation.evaluate(judged.qrels, rescored.run)
        values = measured.per_query[evaluation.NDCG]
        p = {
            row.name: evaluation.randomisation_test(values, row.per_query[evaluation.NDCG])
            for row in rows[:2]  # the first stage and, from the second bundle on, the first one
        }
        speed = rescored.documents_per_second
        rows.append(Row(name, str(bundle), measured.means, p, speed, measured.per_query))
    recall = evaluation.recall_at(num_candidates, judged.qrels, candidates)
    found = Evaluation(judged.name, split, len(judged.queries), num_candidates, recall, rows)
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _print_table(found)


def _check_bundle(directory: Path, max_length: int | None) -> None:
    """Find what would fail before hours have gone into the bundles ahead of it."""
    limit = read_bundle(directory).manifest.max_length_limit
    if max_length is not None and not MIN_LENGTH <= max_length <= limit:
        raise InputError(
            "max_length",
            f"{max_length} is out of range; for {directory} it must be from"
            f" {MIN_LENGTH} to {limit}",
        )


def _unique(names: Sequence[str]) -> list[str]:
    """Number names that were there before."""
    unique: list[str] = []
    for name in names:
        number, free = 2, name
        while free in unique:
            number, free = number + 1, f"{name}-{number}"
        unique.append(free)
    return unique


def _print_table(found: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    compared = list(found.runs[-1].p)  # with one bundle the first stage, else the first bundle too
    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for name in (*found.runs[0].means, *(f"p vs {other}" for other in compared), "docs/s"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for row in found.runs:
        p = [f"{row.p[other]:.4f}" if other in row.p else "" for other in compared]
        speed = "" if row.documents_per_second is None else f"{row.documents_per_second:,.1f}"
        means = [f"{mean:.4f}" for mean in row.means.values()]
        table.add_row(Text(row.name), *means, *p, speed)
    console = Console(highlight=False)
    console.print(
        Text(
            f"{found.collection}, {found.split}: {found.queries} queries, up to {found.candidates}"
            f" candidates each, Recall@{found.candidates} {found.candidate_recall:.4f}"
        )
    )
    console.print(table)
    console.print("p: two-sided paired randomisation test over queries, of nDCG@10")
