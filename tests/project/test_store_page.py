"""The table of docs/store.md against its record."""

from __future__ import annotations

from benchmarks import store_page
from benchmarks.common.record import read_record
from benchmarks.front import fill


def test_the_table_of_the_page_is_that_of_the_record():
    rows = read_record(store_page.RECORD).rows
    page = store_page.PAGE.read_text()
    rendered = store_page.table(rows)
    assert fill(page, rendered, store_page.BEGIN) == page, "run `make figures`"
    assert len(rendered.splitlines()) - 2 == len(
        {(row.labels["bits"], row.labels["tokens"]) for row in rows}
    )
