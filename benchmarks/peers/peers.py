"""How does edgerank compare with other engines: speed, agreement, memory, start-up and price?

The same work in turns, each engine in its own environment and process. Environments, checkpoints
and converted models are made on demand and kept. "of edgerank's time" is how many times as long a
system took in the same round: above 1 it is slower. "of bare int8" is the share of the machine's
bare rate of int8 products in the same round: the products that scores need at the least, over all
of a system's time. Decoders are cut to a few layers unless --layers says otherwise; what a system
spends outside of layers, such as a vocabulary head, weighs more there than in the real model. The
hosted price is that announced for a hosted mxbai-rerank-large-v2, 0.008 USD per 1,000 documents.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks.common import options
from benchmarks.common.record import Row
from benchmarks.peers import plots
from benchmarks.peers.catalogue import BASELINE, REFERENCES
from benchmarks.peers.comparison import Options, build, compare, select
from benchmarks.peers.results import rows
from benchmarks.peers.workloads import NAMES, workloads

QUICK = "AC"  # workloads


@click.option(
    "--workload",
    "wanted",
    type=click.Choice(list(NAMES)),
    multiple=True,
    help="May be given several times; A and C by default, all with --full.",
)
@click.option(
    "--peer",
    "peers",
    metavar="PEER[/SETTING]",
    multiple=True,
    help="Beside edgerank and the reference; may be given several times; a quick set by default.",
)
@click.option("--full", is_flag=True, help="Every setting of every peer.")
@options.layers(4)
@options.threads
@options.rounds(9)
@click.option(
    "--seconds",
    default=12.0,
    show_default=True,
    help="Seconds after which a system sits out the rest of a job's rounds.",
)
@click.option(
    "--minutes",
    default=6.0,
    show_default=True,
    help="Minutes after which no other round of a workload begins.",
)
@click.option("--restart", is_flag=True, help="One process at a time, anew each round.")
@click.option("--machine-price", default=0.1, show_default=True, help="USD an hour.")
@click.option("--prepare", is_flag=True, help="Make environments and converted models, no more.")
@options.peers
def measure(
    wanted: tuple[str, ...],
    peers: tuple[str, ...],
    full: bool,
    layers: int,
    threads: int,
    rounds: int,
    seconds: float,
    minutes: float,
    restart: bool,
    machine_price: float,
    prepare: bool,
    collection: Path | None,
    environments: Path,
    work: Path,
    plots_directory: Path | None,
) -> Iterator[Row]:
    chosen = Options(
        threads=threads,
        rounds=rounds,
        seconds=seconds,
        minutes=minutes,
        restart=restart,
        environments=environments.absolute(),
        work=work.absolute(),
        collection=collection,
    )
    names = wanted or (NAMES if full else QUICK)
    runs = []
    for workload in workloads(layers):
        if workload.name in names:
            needed = {BASELINE, REFERENCES[workload.family]}
            runs.append((workload, select(peers, needed, full)))
    for workload, systems in runs:
        if prepare:
            build(workload, systems, chosen)
            continue
        found = list(rows(compare(workload, systems, chosen), machine_price))
        if plots_directory is not None:
            plots.draw_speeds(found, plots_directory)
        yield from found
