"""``edgerank rerank``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import BinaryIO

import click

from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.cli.ranking import ranking_options, read_lines, show
from edgerank.prompt import LongDocuments
from edgerank.reranker import Reranker


@click.command()
@click.argument("query")
@click.argument("documents", type=click.File("rb"), default="-")
@click.option(
    "-m",
    "--model",
    default=DEFAULT_BUNDLE,
    envvar="EDGERANK_MODEL",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="The bundle; the one in the package by default.",
)
@ranking_options
@click.option("--max-length", type=int, help="Tokens of query and document together.")
@click.option("--threads", type=int, help="Physical cores of this process by default.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def rerank(
    query: str,
    documents: BinaryIO,
    model: Path,
    top_k: int | None,
    instruction: str | None,
    normalize: bool,
    long_documents: LongDocuments | None,
    max_length: int | None,
    threads: int | None,
    as_json: bool,
) -> None:
    """Rank DOCUMENTS for QUERY.

    DOCUMENTS is a file, or stdin: one document a line, or JSONL with "id" and "text".
    """
    lines = list(read_lines(documents))
    reranker = Reranker.open(model, max_length=max_length, threads=threads)
    hits = reranker.rank(
        query,
        [line.text for line in lines],
        top_k=top_k,
        instruction=instruction,
        normalize=normalize,
        long_documents=long_documents,
        show_progress=sys.stderr.isatty(),
    )
    show([(hit.score, lines[hit.index]) for hit in hits], as_json)
