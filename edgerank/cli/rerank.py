"""``edgerank rerank``"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgerank.cli.options import bundle_option, kernels_option, max_length_option, trust_option
from edgerank.cli.ranking import named_documents, ranking_options, read_documents, show
from edgerank.documents import LongDocuments


@click.command()
@click.argument("query")
@click.argument("documents", default="-")
@bundle_option
@trust_option
@ranking_options
@max_length_option
@click.option(
    "--threads",
    type=int,
    help="Compute with this many threads. The default is the number of physical cores that this"
    " process may use, or OMP_NUM_THREADS if that is fewer.",
)
@kernels_option
@click.option("--json", "as_json", is_flag=True, help="Print the ranking as a JSON array.")
def rerank(
    query: str,
    documents: str,
    model: Path,
    trust: Path | None,
    top_k: int | None,
    instruction: str | None,
    normalize: bool,
    long_documents: LongDocuments | None,
    max_length: int | None,
    threads: int | None,
    kernels: str | None,
    as_json: bool,
) -> None:
    """Rank documents by relevance to a query.

    DOCUMENTS is a file, by default stdin, with one document a line: plain text, or a JSON object
    with "text" and, optionally, "title", "id" and other fields.
    """
    from edgerank.reranker import Reranker  # onnxruntime takes a while to load

    lines = list(read_documents(documents))
    reranker = Reranker(model, max_length=max_length, threads=threads, kernels=kernels, trust=trust)
    with named_documents(lines):
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
