"""Render the table of docs/store.md from the record of store-bits: a part of ``make figures``."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.common.paths import RECORDS, ROOT
from benchmarks.common.record import Row, read_record, show
from benchmarks.common.tables import Table, markdown
from benchmarks.front import fill
from edgerank.evaluation import NDCG

PAGE = ROOT / "docs/store.md"
RECORD = RECORDS / "store-bits.json"
BEGIN = "<!-- Rendered from the record of the benchmark store-bits by `make figures`. -->"


def main() -> None:
    """Write it."""
    PAGE.write_text(fill(PAGE.read_text(), table(read_record(RECORD).rows), BEGIN))


def table(rows: Sequence[Row]) -> str:
    """Lay out the ways to keep vectors, with nDCG@10 and bytes on each collection as columns."""
    collections = list(dict.fromkeys(row.labels["collection"] for row in rows))
    lines: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        cells = lines.setdefault((row.labels["bits"], row.labels["tokens"]), [])
        cells += [f"{row.figures[NDCG].value:.3f}", f"{show(row.figures['size'].value)} %"]
    heads = [head for name in collections for head in (name, "bytes")]
    columns = ("bits", "tokens", *heads)
    return markdown(Table(columns, 2, tuple((*key, *cells) for key, cells in lines.items())))


if __name__ == "__main__":
    main()
