"""Render the README's table and its chart from the records: a part of ``make figures``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import charts
from benchmarks.common.paths import RECORDS, ROOT
from benchmarks.common.record import Row, read_record, show
from benchmarks.common.tables import Table, markdown

PAGE = ROOT / "README.md"
CHART = ROOT / "docs/speed.svg"
BENCHMARK = "peers"  # whose records there are for several workloads
BEGIN = "<!-- Rendered from the records of the benchmark peers by `make figures`. -->"
END = "<!-- Rendered until here. -->"
OURS = "edgerank int8"


@dataclass(frozen=True)
class Comparison:
    """One model in the records: the calls that are shown, and the reference beside edgerank."""

    workload: str  # as the records begin it
    call: str
    reference: str
    title: str


COMPARISONS = (
    Comparison("C:", "1 x 100", "sentence-transformers torch", "MiniLM-L6"),
    Comparison(
        "A: mxbai-rerank-large-v2, 4 of",
        "1 x 32",
        "mxbai-rerank fp32",
        "mxbai-rerank-large-v2, 4 of 28 layers",
    ),
)
QUANTITIES = (  # name in the table, figure in the records
    ("speed, documents/s", charts.SPEED),
    ("fidelity, Kendall tau against float32", "Kendall tau"),
    ("memory at its peak, GB", "peak memory"),
    ("size of the model, GB", "model"),
    ("start to first score, s", "process start to first score"),
)


def main() -> None:
    """Write both."""
    rows = measured()
    PAGE.write_text(fill(PAGE.read_text(), table(rows)))
    draw(rows, CHART)


def measured() -> list[Row]:
    """Return the rows of one machine's committed records of the comparison with other engines."""
    records = [read_record(path) for path in sorted(RECORDS.glob("*.json"))]
    compared = [record for record in records if record.benchmark == BENCHMARK]
    return [row for one in compared if one.machine == compared[0].machine for row in one.rows]


def fill(page: str, rendered: str, begin: str = BEGIN) -> str:
    """Return a page with the text between the markers replaced.

    :param begin: the marker above the table
    :raises ValueError: the page lacks a marker
    """
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no lines {begin!r} and {END!r} around its table")
    return f"{before}{begin}\n\n{rendered}\n\n{END}{after}"


def table(measured_rows: Sequence[Row]) -> str:
    """Lay out five rows, with edgerank and the reference of each comparison as columns."""
    columns = [
        (comparison, system)
        for comparison in COMPARISONS
        for system in (OURS, comparison.reference)
    ]
    heads = [f"{one.title}: {system}" for one, system in columns]
    rows = [
        (name, *(show(_figure(measured_rows, one, system, figure)) for one, system in columns))
        for name, figure in QUANTITIES
    ]
    return markdown(Table(("", *heads), 1, tuple(rows)))


def speeds(rows: Sequence[Row], comparison: Comparison) -> dict[str, float]:
    """Return the documents/s of every system in a comparison, the fastest first."""
    return charts.fastest_first(
        {
            row.labels["system"]: row.figures[charts.SPEED].value
            for row in rows
            if charts.SPEED in row.figures and _is_of(row, comparison)
        }
    )


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the documents/s of all systems as bars, a panel for each comparison."""
    charts.draw(
        [charts.Bars(f"{one.title}: {charts.SPEED}", speeds(rows, one)) for one in COMPARISONS],
        path,
    )


def _figure(rows: Sequence[Row], comparison: Comparison, system: str, name: str) -> float:
    """Look a figure up: some are of a call, the others of the model as a whole.

    :raises LookupError: no row has it, or several have
    """
    found = [
        row
        for row in rows
        if name in row.figures and row.labels.get("system") == system and _is_of(row, comparison)
    ]
    if len(found) != 1:
        raise LookupError(f"{len(found)} rows of {BENCHMARK} have {name!r} of {system}")
    return found[0].figures[name].value


def _is_of(row: Row, comparison: Comparison) -> bool:
    is_workload = row.labels.get("workload", "").startswith(comparison.workload)
    return is_workload and row.labels.get("call", comparison.call) == comparison.call


if __name__ == "__main__":
    main()
