"""Rows as tables: one for each set of labels, a column for each label and each figure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.common.record import Row


@dataclass(frozen=True)
class Table:
    """Cells as text."""

    columns: tuple[str, ...]
    num_labels: int  # of the columns, from the first on; the others are figures
    rows: tuple[tuple[str, ...], ...]


def tables(rows: Iterable[Row]) -> list[Table]:
    """Lay out rows, those with the same labels together, in the order in which they come."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.labels), []).append(row)
    return [_table(labels, group) for labels, group in groups.items()]


def _table(labels: tuple[str, ...], rows: Sequence[Row]) -> Table:
    figures = {(name, figure.unit): None for row in rows for name, figure in row.figures.items()}
    lines = []
    for row in rows:
        cells = list(row.labels.values())
        for name, unit in figures:
            figure = row.figures.get(name)
            cells.append(str(figure) if figure is not None and figure.unit == unit else "")
        lines.append(tuple(cells))
    heads = (f"{name}, {unit}" if unit not in ("", name) else name for name, unit in figures)
    return Table((*labels, *heads), len(labels), tuple(lines))


def markdown(table: Table) -> str:
    """Write a table in Markdown; columns of figures are set flush right."""
    rule = ["---" if place < table.num_labels else "--:" for place in range(len(table.columns))]
    lines = [table.columns, rule, *table.rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )
