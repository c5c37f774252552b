"""edgerank beside its peers: the same work, in turns, each in its own environment.

Environments, checkpoints and converted models are made on demand and kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from benchmarks.peers.catalogue import BASELINE, PEERS, REFERENCES
from benchmarks.peers.machine import describe_machine
from benchmarks.peers.measure import Options, System, build, measure
from benchmarks.peers.processes import ROOT
from benchmarks.peers.report import markdown, plot, save
from benchmarks.peers.results import Results
from benchmarks.peers.workloads import workloads
from edgerank.cpu import physical_cores
from edgerank.errors import InputError

RESULTS = "results.json"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--workloads", nargs="+", choices="ABCD", help="A and C by default, all with --full"
    )
    parser.add_argument(
        "--peers",
        nargs="+",
        metavar="PEER[/SETTING]",
        help="beside edgerank and the reference; all of the quick set by default",
    )
    parser.add_argument("--full", action="store_true", help="every setting of every peer")
    parser.add_argument("--layers", type=int, default=4, help="decoders' layers at most")
    parser.add_argument("--threads", type=int, default=physical_cores())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--seconds", type=float, default=12, help="after which a system sits out a job's rounds"
    )
    parser.add_argument(
        "--minutes", type=float, default=6, help="after which no other round of a workload begins"
    )
    parser.add_argument(
        "--restart", action="store_true", help="one process at a time, anew each round"
    )
    parser.add_argument("--collection", type=Path, help="texts in BEIR's layout; else generated")
    parser.add_argument("--machine-price", type=float, default=0.1, help="USD an hour")
    peers = ROOT / ".venv" / "peers"
    parser.add_argument("--environments", type=Path, default=peers)
    parser.add_argument("--work", type=Path, default=peers / "models", help="converted models")
    parser.add_argument("--output", type=Path, default=Path("benchmark-results"))
    parser.add_argument(
        "--prepare", action="store_true", help="make environments and converted models, no more"
    )
    parser.add_argument("--report", action="store_true", help=f"of --output's {RESULTS} alone")
    arguments = parser.parse_args()
    known = {f"{peer.name}/{one.name}" for peer in PEERS for one in peer.settings}
    unknown = set(arguments.peers or ()) - known - {peer.name for peer in PEERS}
    if unknown:
        parser.error(f"--peers: no {min(unknown)}; there are {', '.join(sorted(known))}")
    path = arguments.output / RESULTS
    if arguments.report:
        if not path.exists():
            parser.error(f"--report: {path} is not there; a run without --report writes it")
        results = msgspec.json.decode(path.read_bytes(), type=Results)
        write(results, arguments.output, arguments.machine_price)
        return
    options = Options(
        arguments.threads,
        arguments.rounds,
        arguments.seconds,
        arguments.minutes,
        arguments.restart,
        arguments.environments.absolute(),
        arguments.work.absolute(),
        arguments.collection,
    )
    wanted = arguments.workloads or ("ABCD" if arguments.full else "AC")
    results = Results(describe_machine(), arguments.threads, [])
    for workload in workloads(arguments.layers):
        if workload.name in wanted:
            needed = {BASELINE, REFERENCES[workload.family]}
            systems = select(arguments.peers, needed, arguments.full)
            if arguments.prepare:
                build(workload, systems, options)
                continue
            try:
                results.workloads.append(measure(workload, systems, options))
            except InputError as error:
                parser.error(f"--collection: {error}")
            write(results, arguments.output, arguments.machine_price)  # what there is so far


def select(wanted: list[str] | None, needed: set[tuple[str, str]], full: bool) -> list[System]:
    """Choose systems by name, in the catalogue's order."""
    chosen = []
    for peer in PEERS:
        for setting in peer.settings:
            name = f"{peer.name}/{setting.name}"
            if wanted is None:
                is_wanted = setting.is_quick or full
            else:
                is_wanted = peer.name in wanted or name in wanted
            if is_wanted or (peer.name, setting.name) in needed:
                chosen.append((peer, setting))
    return chosen


def write(results: Results, directory: Path, usd_per_hour: float) -> None:
    """Write results.json, report.md and plots."""
    save(directory / RESULTS, msgspec.json.encode(results))
    save(directory / "report.md", markdown(results, usd_per_hour).encode())
    plot(results, directory)


if __name__ == "__main__":
    main()
