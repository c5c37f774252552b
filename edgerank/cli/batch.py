"""``edgerank batch``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import get_args

import click

from edgerank.batch.job import (
    MAX_BAD_ROWS,
    PROCESSES,
    SHARD_PAIRS,
    Cluster,
    InputFormat,
    OutputFormat,
)
from edgerank.cli.options import (
    bundle_option,
    instruction_option,
    kernels_option,
    max_length_option,
    normalize_option,
    trust_option,
)
from edgerank.cli.wording import counted
from edgerank.documents import LongDocuments

PATH = click.Path(path_type=Path)
ENGINES = LOCAL, RAY = "local", "ray"


@click.command()
@click.argument("input", type=PATH)
@click.option(
    "-o", "--output", required=True, type=PATH, help="Write the shards of scores to this directory."
)
@bundle_option
@trust_option
@click.option(
    "--format",
    type=click.Choice(get_args(OutputFormat)),
    help="Write scores in this format. The default is the format of the input.",
)
@click.option(
    "--input-format",
    type=click.Choice(get_args(InputFormat)),
    help="Read the input as this format. The default depends on the file names: .jsonl, .parquet,"
    " .trec and others.",
)
@click.option(
    "--collection",
    metavar="DIR",
    type=PATH,
    help="Take the texts of pairs of ids from this directory in BEIR's layout: corpus.jsonl and"
    " queries.jsonl.",
)
@click.option(
    "--corpus",
    metavar="FILE",
    type=PATH,
    help="Take the documents of pairs of ids from this file, a corpus.jsonl as in BEIR.",
)
@click.option(
    "--queries",
    metavar="FILE",
    type=PATH,
    help="Take the queries of pairs of ids from this file, a queries.jsonl as in BEIR.",
)
@instruction_option
@normalize_option
@click.option(
    "--long-documents",
    type=click.Choice(get_args(LongDocuments)),
    help="Choose what happens to a document over the maximum length: truncate cuts its end off,"
    " split scores its parts and takes the best score, refuse counts its row as a bad one. The"
    " default is the model's own.",
)
@max_length_option
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=PROCESSES,
    show_default=True,
    help="Score in this many processes, each of which opens the model.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    help="Compute with this many threads in each process. By default the processes share the"
    " physical cores.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=LOCAL,
    show_default=True,
    help="Score in processes of this machine (local), or in actors of Ray (ray), which needs"
    " edgerank[ray]. The output has the same bytes.",
)
@click.option(
    "--address",
    help="Connect to the cluster of Ray at this address, such as auto or HOST:6379. By default the"
    " job starts a cluster on this machine.",
)
@click.option(
    "--actor-cpus",
    type=click.IntRange(1),
    help="Reserve this many of Ray's CPUs for each actor. The default is 1.",
)
@click.option(
    "--actors",
    type=click.IntRange(1),
    help="Start at most this many actors of Ray. The default is as many as the CPUs allow.",
)
@kernels_option
@click.option(
    "--shard-pairs",
    type=click.IntRange(1),
    default=SHARD_PAIRS,
    show_default=True,
    help="Put at most this many pairs of a query and a document into a shard.",
)
@click.option(
    "--max-bad-rows",
    type=click.IntRange(0),
    default=MAX_BAD_ROWS,
    show_default=True,
    help="Stop with an error if more rows than this are unusable.",
)
@click.option(
    "--restart",
    is_flag=True,
    help="Remove the output of an earlier job, and start from the beginning.",
)
def batch(
    input: Path,
    output: Path,
    model: Path,
    trust: Path | None,
    format: OutputFormat | None,
    input_format: InputFormat | None,
    collection: Path | None,
    corpus: Path | None,
    queries: Path | None,
    instruction: str | None,
    normalize: bool,
    long_documents: LongDocuments | None,
    max_length: int | None,
    processes: int,
    threads: int | None,
    engine: str,
    address: str | None,
    actor_cpus: int | None,
    actors: int | None,
    kernels: str | None,
    shard_pairs: int,
    max_bad_rows: int,
    restart: bool,
) -> None:
    """Score files of queries and documents into a directory of shards.

    INPUT is a file, or a directory of files, in JSONL or Parquet: rows with "query" and "documents"
    and, optionally, "id". With --collection, or --corpus and --queries, it has rows with
    "query_id" and "document_id", or is a TREC run file.

    If the command is interrupted, give it again to continue: the output is the same as without the
    interruption. Unusable rows are listed in _bad-rows.jsonl in the output, with the reason.
    """
    cluster = None
    if engine == RAY:
        cluster = Cluster(address, actor_cpus or Cluster.actor_cpus, actors)
    elif (address, actor_cpus, actors) != (None, None, None):
        raise click.UsageError("--address, --actor-cpus and --actors need --engine ray")

    from edgerank.batch.run import run_batch  # onnxruntime takes a while to load

    done = run_batch(
        input,
        output,
        bundle=model,
        input_format=input_format,
        format=format,
        corpus=corpus,
        queries=queries,
        collection=collection,
        instruction=instruction,
        normalize=normalize,
        long_documents=long_documents,
        max_length=max_length,
        kernels=kernels,
        trust=trust,
        processes=processes,
        threads=threads,
        cluster=cluster,
        shard_pairs=shard_pairs,
        max_bad_rows=max_bad_rows,
        restart=restart,
        show_progress=sys.stderr.isatty(),
    )
    before = done.shards - done.scored_shards
    done_before = f" ({before:,} done before)" if before else ""
    click.echo(
        f"{output}: {counted(done.pairs, 'pair')} scored in {counted(done.shards, 'shard')}"
        f"{done_before}; {counted(done.bad_rows, 'bad row')}"
    )
