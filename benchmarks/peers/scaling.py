"""How time grows: with threads, documents, their length, the query's length and callers.

Two geometries, MiniLM-L6 and mxbai-rerank-large-v2 with few layers; edgerank beside other systems
of ``benchmarks.peers``, in turns. Writes scaling.json, scaling.md and a plot for each axis.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from benchmarks.peers.__main__ import select
from benchmarks.peers.catalogue import BASELINE
from benchmarks.peers.machine import describe_machine
from benchmarks.peers.measure import Options, enter, start, write_checkpoint
from benchmarks.peers.processes import ROOT, PeerError
from benchmarks.peers.report import save, table
from benchmarks.peers.results import EVERYTHING, spread_of
from benchmarks.peers.workloads import Job, Request, Texts, draw_texts, workloads
from edgerank.cpu import physical_cores

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


class Curve(msgspec.Struct, frozen=True):
    """A system along an axis."""

    axis: str
    unit: str
    workload: str
    layers: int
    system: str
    threads: int
    x: list[int]
    rates: list[list[float]]  # amounts/s at each x, a round each


class Scaling(msgspec.Struct, frozen=True):
    machine: dict[str, str]
    curves: list[Curve]
    missing: dict[str, str]  # reasons by system


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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers.scaling", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--peers", nargs="+", default=["sentence-transformers/onnx-int8", "mxbai-rerank/fp32"]
    )
    parser.add_argument("--workloads", nargs="+", default=["C", "A"], metavar="NAME")
    parser.add_argument("--layers", type=int, default=4, help="of the decoder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--collection", type=Path, help="texts in BEIR's layout; else generated")
    peers = ROOT / ".venv" / "peers"
    parser.add_argument("--environments", type=Path, default=peers)
    parser.add_argument("--work", type=Path, default=peers / "models")
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"))
    arguments = parser.parse_args()
    options = Options(
        threads=physical_cores(),
        rounds=arguments.rounds,
        seconds=0,
        minutes=0,
        restart=False,
        environments=arguments.environments.absolute(),
        work=arguments.work.absolute(),
        collection=arguments.collection,
    )
    scaling = Scaling(describe_machine(), [], {})
    for name in arguments.workloads:
        measure(name, arguments.layers, arguments.peers, options, scaling)
        write(scaling, arguments.output)


def measure(name: str, layers: int, peers: list[str], options: Options, scaling: Scaling) -> None:
    """Add all curves of a workload, systems in turns; the number of threads is an axis too."""
    (workload,) = (one for one in workloads(layers) if one.name == name)
    checkpoint = write_checkpoint(workload, options.work)
    texts = draw_texts(options.collection, Tokenizer.from_file(str(checkpoint / "tokenizer.json")))
    axes = [(axis, axis.points(texts)) for axis in AXES if axis.workload == name]
    warm_up = [Job("warm-up", (points[0].line,)) for _, points in axes]
    with ExitStack() as stack:
        running = {}
        for threads in dict.fromkeys((1, options.threads)):
            chosen = [
                system
                for system in select(peers, {BASELINE}, full=False)
                if workload.family in system[1].families
            ]
            for system in chosen:
                entry = enter(workload, checkpoint, system, replace(options, threads=threads))
                try:
                    if EVERYTHING in entry.facts.reasons:
                        raise PeerError(entry.facts.reasons[EVERYTHING])
                    worker = start(entry, warm_up)
                except PeerError as error:
                    scaling.missing[entry.facts.name] = str(error)
                    continue
                stack.callback(worker.close)
                running[entry.facts.name, threads] = worker
        for axis, points in axes:
            rates = {key: [[] for _ in points] for key in running}
            for number in range(options.rounds):
                for place, point in enumerate(points):
                    print(f"{name}: {axis.name} {point.x}, round {number + 1}", file=sys.stderr)
                    for key, worker in running.items():
                        answer = worker.score(point.line)
                        rates[key][place].append(point.amount / answer.seconds)
            scaling.curves.extend(
                Curve(axis.name, axis.unit, name, workload.geometry.layers, *key,
                      [point.x for point in points], rates[key])
                for key in running
            )  # fmt: skip


def write(scaling: Scaling, directory: Path) -> None:
    """Write what there is so far."""
    save(directory / "scaling.json", msgspec.json.encode(scaling))
    save(directory / "scaling.md", markdown(scaling).encode())
    plot(scaling.curves, directory)


def markdown(scaling: Scaling) -> str:
    parts = ["# How time grows", table(("machine", ""), list(scaling.machine.items()))]
    for key, curves in grouped(scaling.curves).items():
        workload, axis = key
        first = curves[0]
        rows = [
            [curve.system, str(curve.threads)]
            + [f"{spread_of(rates).median:.3g}" for rates in curve.rates]
            for curve in curves
        ]
        columns = ["system", "threads", *map(str, first.x)]
        parts += [
            f"## {workload}, {first.layers} layers: {first.unit}/s by {axis}",
            table(columns, rows),
            f"![{axis}]({plot_name(key)})",
        ]
    if scaling.missing:
        parts += ["Not measured:", table(("system", "reason"), list(scaling.missing.items()))]
    return "\n\n".join(parts) + "\n"


def plot(curves: Sequence[Curve], directory: Path) -> None:
    """Draw each axis with all of its curves; bars are the quartiles of the rounds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for key, group in grouped(curves).items():
        figure, axis = pyplot.subplots(figsize=(7, 4.5))
        for curve in group:
            spreads = [spread_of(rates) for rates in curve.rates]
            medians = [spread.median for spread in spreads]
            errors = [
                [spread.median - spread.low for spread in spreads],
                [spread.high - spread.median for spread in spreads],
            ]
            style = "-" if curve.threads > 1 else "--"
            label = f"{curve.system}, {curve.threads} threads"
            axis.errorbar(curve.x, medians, errors, linestyle=style, marker=".", label=label)
        first = group[0]
        axis.set(xscale="log", xlabel=first.axis, ylabel=f"{first.unit}/s", ylim=(0, None))
        axis.set_title(f"{first.workload}, {first.layers} layers")
        axis.legend()
        figure.tight_layout()
        figure.savefig(directory / plot_name(key), dpi=120)
        pyplot.close(figure)


def grouped(curves: Sequence[Curve]) -> dict[tuple[str, str], list[Curve]]:
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in curves:
        groups.setdefault((curve.workload, curve.axis), []).append(curve)
    return groups


def plot_name(key: tuple[str, str]) -> str:
    return f"scaling-{'-'.join(key).replace(' ', '-')}.png"


if __name__ == "__main__":
    main()
