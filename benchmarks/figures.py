"""Render docs/benchmarks.md from the committed records: ``make figures``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from benchmarks import catalogue, charts
from benchmarks.common.machine import Machine
from benchmarks.common.paths import RECORDS, ROOT
from benchmarks.common.record import Record, read_record
from benchmarks.common.tables import Table, markdown, tables

PAGE = ROOT / "docs/benchmarks.md"
CHARTS = ROOT / "docs/charts"
COMPARISON = "peers"  # the benchmark whose figures are drawn, too
INTRODUCTION = """\
# Benchmarks

<!-- Rendered from benchmarks/records by `make figures`: change the records, not this page. -->

`python -m benchmarks` lists the benchmarks, `python -m benchmarks NAME --help` says how one
measures; both run in the environment of `make test` (`.venv/dev/bin/python`). `--json FILE` writes
a record, and this page shows those in `benchmarks/records/`. Candidates alternate, round by round;
figures of several rounds are medians, with quartiles in brackets. A machine's rates change from
hour to hour: compare figures of one command.

A *geometry* is the exact shape of a model with random weights: it says how fast the model is and
how much memory it takes, and nothing about quality. all-MiniLM-L6-v2, all-mpnet-base-v2 and
gemma3-270m have trained weights. The *bare int8 rate* is the rate of plain int8 matrix products on
the same machine in the same run.
"""


@click.command()
@click.argument("records", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=PAGE,
    help="The page to write.  [default: docs/benchmarks.md]",
)
def main(records: tuple[Path, ...], output: Path) -> None:
    """Render RECORDS, by default the committed ones, as a page of Markdown."""
    paths = records or sorted(RECORDS.glob("*.json"))
    output.parent.mkdir(parents=True, exist_ok=True)
    read = [read_record(path) for path in paths]
    output.write_text(render(read))
    draw(read, output.parent / CHARTS.name)


def draw(records: Sequence[Record], directory: Path) -> None:
    """Draw a chart for each workload of the comparison with other engines."""
    machines = _machines(records)
    for record in records:
        if record.benchmark == COMPARISON:
            for workload, panels in charts.workloads(record.rows).items():
                name = _chart_name(workload, machines.index(record.machine))
                charts.draw(panels, directory / name)


def render(records: Sequence[Record]) -> str:
    """Write the page: all benchmarks by group, with the figures of their records."""
    machines = _machines(records)
    parts = [INTRODUCTION.rstrip(), *_machine_table(machines)]
    for group, members in catalogue.GROUPS.items():
        title = catalogue.TITLES[group]
        parts.append(f"## {title[0].upper()}{title[1:]}")
        for name in members:
            parts.append(f"### {name}\n\n{catalogue.question(group, name)}")
            found = [record for record in records if record.benchmark == name]
            for record in found:
                parts += _figures(record, machines.index(record.machine))
            if not found:
                parts.append("Not recorded yet.")
    return "\n\n".join(parts) + "\n"


def _machines(records: Sequence[Record]) -> list[Machine]:
    machines: list[Machine] = []
    for record in records:
        if record.machine not in machines:
            machines.append(record.machine)
    return machines


def _machine_table(machines: Sequence[Machine]) -> list[str]:
    """Return a section with a column for each machine, nothing where there is none."""
    if not machines:
        return []
    columns = [machine.described() for machine in machines]
    rows = [(name, *(column[name] for column in columns)) for name in columns[0]]
    heads = ("", *(_machine_name(place) for place in range(len(machines))))
    return ["## Machines", markdown(Table(heads, len(heads), tuple(rows)))]


def _machine_name(place: int) -> str:
    return f"machine {place + 1}"


def _figures(record: Record, machine: int) -> list[str]:
    commit = f", commit {record.commit}" if record.commit else ""
    source = f"`{record.command}`\n\n{_machine_name(machine)}, {record.date}{commit}"
    workloads = charts.workloads(record.rows) if record.benchmark == COMPARISON else ()
    drawn = (
        f"![{workload}: documents/s]({CHARTS.name}/{_chart_name(workload, machine)})"
        for workload in workloads
    )
    return [source, *drawn, *(markdown(table) for table in tables(record.rows))]


def _chart_name(workload: str, machine: int) -> str:
    name = charts.file_name(workload)
    return f"machine-{machine + 1}-{name}" if machine else name


if __name__ == "__main__":
    main()
