"""How does time grow with threads, documents, their length, the query's length and callers?

Two geometries, MiniLM-L6 and mxbai-rerank-large-v2 with few layers; edgerank beside other systems
of ``peers``, in turns, with one thread and with all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import click
from tokenizers import Tokenizer

from benchmarks.common import options
from benchmarks.common.record import Row, median
from benchmarks.common.turns import Seconds, alternate
from benchmarks.peers import plots
from benchmarks.peers.catalogue import BASELINE, Peer, Setting
from benchmarks.peers.comparison import Options, enter, select, start, write_checkpoint
from benchmarks.peers.processes import PeerError, Worker
from benchmarks.peers.results import EVERYTHING
from benchmarks.peers.workloads import Job, Request, Texts, Workload, draw_texts, workloads

TOKENS_OF_A_POINT = 8192  # where the length grows, the number of documents shrinks
QUERY = 8  # tokens, where something else grows


@dataclass(frozen=True)
class Point:
    """One call, and how much it asks for."""

    x: int
    line: tuple[Request, ...]
    amount: int  # documents, or tokens of documents


@dataclass(frozen=True)
class Axis:
    """What grows, everything else being equal."""

    name: str
    workload: str
    unit: str  # of amounts
    points: Callable[[Texts], list[Point]]


def documents(texts: Texts) -> list[Point]:
    lines = [(texts.request(count),) for count in (1, 3, 10, 30, 100, 300, 1000)]
    return [Point(len(line[0]["documents"]), line, num_tokens(texts, line)) for line in lines]


def callers(texts: Texts) -> list[Point]:
    lines = [tuple(texts.request(5, n) for n in range(count)) for count in (1, 2, 4, 8, 16, 32)]
    return [Point(len(line), line, num_tokens(texts, line)) for line in lines]


def num_tokens(texts: Texts, line: tuple[Request, ...]) -> int:
    """Count the tokens of documents: of real texts some thirty may be shorter than the rest."""
    found = [document for request in line for document in request["documents"]]
    encoded = texts.tokenizer.encode_batch(found, add_special_tokens=False)
    return sum(len(encoding.ids) for encoding in encoded)


def length_up_to(longest: int) -> Callable[[Texts], list[Point]]:
    def points(texts: Texts) -> list[Point]:
        lengths = [32 << power for power in range(9) if 32 << power <= longest]
        made = []
        for tokens in lengths:
            count = TOKENS_OF_A_POINT // tokens
            documents = [texts.of_length(tokens, 7 * number) for number in range(count)]
            line = ({"query": texts.of_length(QUERY), "documents": documents},)
            made.append(Point(tokens, line, tokens * count))
        return made

    return points


def query_length(texts: Texts) -> list[Point]:
    documents = [texts.of_length(100, 3 * number) for number in range(16)]
    return [
        Point(n, ({"query": texts.of_length(n, 1), "documents": documents},), len(documents))
        for n in (8, 32, 128, 512)
    ]


AXES = (
    Axis("documents", "C", "tokens", documents),
    Axis("concurrent callers of 5 documents", "C", "tokens", callers),
    Axis("tokens of a document", "C", "tokens", length_up_to(256)),
    Axis("tokens of a document", "A", "tokens", length_up_to(8192)),
    Axis("tokens of the query", "A", "documents", query_length),
)
PEERS = "sentence-transformers/onnx-int8", "mxbai-rerank/fp32"


@click.option(
    "--workload",
    "wanted",
    type=click.Choice(["C", "A"]),
    multiple=True,
    default=("C", "A"),
    show_default=True,
    help="May be given several times.",
)
@click.option(
    "--peer",
    "peers",
    metavar="PEER[/SETTING]",
    multiple=True,
    default=PEERS,
    show_default=True,
    help="Beside edgerank; may be given several times.",
)
@options.layers(4)
@options.threads
@options.rounds(3)
@options.peers
def measure(
    wanted: tuple[str, ...],
    peers: tuple[str, ...],
    layers: int,
    threads: int,
    rounds: int,
    collection: Path | None,
    environments: Path,
    work: Path,
    plots_directory: Path | None,
) -> Iterator[Row]:
    systems = select(peers, {BASELINE})
    chosen = Options(
        threads=threads,
        rounds=rounds,
        environments=environments.absolute(),
        work=work.absolute(),
        collection=collection,
    )
    for workload in workloads(layers):
        if workload.name in wanted:
            rows = scale(workload, systems, chosen)
            if plots_directory is not None:
                plots.draw_curves(rows, plots_directory)
            yield from rows


def scale(
    workload: Workload, systems: Sequence[tuple[Peer, Setting]], options: Options
) -> list[Row]:
    """Measure a workload along all of its axes, systems in turns, with one thread and with all."""
    checkpoint = write_checkpoint(workload, options.work)
    texts = draw_texts(options.collection, Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    axes = [(axis, axis.points(texts)) for axis in AXES if axis.workload == workload.name]
    warm_up = [Job("warm-up", (points[0].line,)) for _, points in axes]
    label = f"{workload.name}: {workload.model}, {workload.layers} layers"
    missing: dict[str, str] = {}
    rows: list[Row] = []
    with ExitStack() as stack:
        running: dict[str, Worker] = {}
        for threads in dict.fromkeys((1, options.threads)):
            for peer, setting in systems:
                if workload.family not in setting.families:
                    continue
                name = f"{peer.name} {setting.name}, {threads} thread{'s' * (threads > 1)}"
                entry = enter(
                    workload, checkpoint, peer, setting, replace(options, threads=threads)
                )
                try:
                    if EVERYTHING in entry.system.reasons:
                        raise PeerError(entry.system.reasons[EVERYTHING])
                    running[name] = start(entry, warm_up)
                except PeerError as error:
                    missing[name] = str(error)
                else:
                    stack.callback(running[name].close)
        for axis, points in axes:
            click.echo(f"{label}: {axis.name}", err=True)
            for point, rates in along(points, running, options.rounds, missing):
                labels = {"workload": label, axis.name: str(point.x)}
                figures = {
                    name: median(point.amount / seconds, f"{axis.unit}/s")
                    for name, seconds in rates.items()
                }
                rows.append(Row(labels, figures))
    reasons = missing.items()
    return rows + [Row({"workload": label, "system": n, "not measured": r}) for n, r in reasons]


def along(
    points: Sequence[Point], running: Mapping[str, Worker], rounds: int, missing: dict[str, str]
) -> Iterator[tuple[Point, dict[str, Seconds]]]:
    """Measure the points of an axis: each with the seconds of the systems, [rounds] each."""

    def turn(name: str, point: Point) -> float:
        try:
            return running[name].score(point.line).seconds
        except PeerError as error:
            missing[name] = str(error)
            raise

    turns = {(p.x, name): partial(turn, name, p) for p in points for name in running}
    times = alternate(turns, rounds)
    for point in points:
        yield point, {name: times[point.x, name] for name in running if (point.x, name) in times}
