"""``edgerank eval``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.cli.options import kernels_option, max_length_option, threads_option
from edgerank.cli.wording import counted
from edgerank.extras import needs_extra

if TYPE_CHECKING:
    from edgerank.evaluation import Evaluation


@click.command("eval")
@click.argument("bundles", metavar="[BUNDLE...]", nargs=-1, type=click.Path(path_type=Path))
@click.argument("collection", type=click.Path(path_type=Path))
@click.option(
    "--candidates",
    "num_candidates",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Rank this many documents for each query.",
)
@click.option(
    "--first-stage",
    metavar="RUN",
    type=click.Path(path_type=Path),
    help="Take the candidates from this TREC run file. By default, BM25 finds them.",
)
@click.option(
    "--runs",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write the rankings to this directory as TREC run files. If the command is interrupted,"
    " run it again to continue.",
)
@click.option(
    "--split", default="test", show_default=True, help="Read the judgements in qrels/SPLIT.tsv."
)
@max_length_option
@threads_option
@kernels_option
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
    kernels: str | None,
    as_json: bool,
) -> None:
    """Measure how well bundles rank.

    COLLECTION is a directory with documents, queries and relevance judgements in BEIR's layout:
    corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv. All bundles rank the same candidates. Each is
    compared with the first stage and with the first bundle. Without BUNDLE, the model in the
    package is measured. To compute BM25 only once, give the bm25.trec in the --runs of an earlier
    evaluation as --first-stage.
    """
    with needs_extra("evaluating", "eval"):
        from edgerank.evaluation import evaluate_bundles
    found = evaluate_bundles(
        collection,
        bundles or (DEFAULT_BUNDLE,),
        num_candidates=num_candidates,
        first_stage=first_stage,
        runs=runs,
        split=split,
        max_length=max_length,
        threads=threads,
        kernels=kernels,
        show_progress=sys.stderr.isatty(),
    )
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        _print_table(found)


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
            f"{found.collection}, {found.split}: {counted(found.queries, 'query')}, up to"
            f" {counted(found.candidates, 'candidate')} each,"
            f" Recall@{found.candidates} {found.candidate_recall:.4f}"
        )
    )
    console.print(table)
    console.print("p: two-sided paired randomisation test over queries, of nDCG@10")
