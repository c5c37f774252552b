"""The README's table and chart are those of the committed records."""

from __future__ import annotations

import re

import msgspec
import pytest

from benchmarks import front
from benchmarks.common.record import Figure, show


def texts_of(chart):
    return re.findall(r"<text [^>]*>([^<]*)</text>", chart.read_text())


def test_the_readme_has_the_table_of_the_records():
    page = front.PAGE.read_text()
    rendered = front.table(front.measured())
    assert front.fill(page, rendered) == page, "run `make figures`"
    assert len(rendered.splitlines()) == 2 + 5  # head and rule, and five rows


def test_the_chart_shows_the_speeds_of_the_records(tmp_path):
    rows = front.measured()
    shown = texts_of(front.CHART)
    front.draw(rows, tmp_path / "speed.svg")
    assert shown == texts_of(tmp_path / "speed.svg"), "run `make figures`"
    for comparison in front.COMPARISONS:
        speeds = front.speeds(rows, comparison)
        assert len(speeds) > 5
        for system, speed in speeds.items():
            assert system in shown
            assert show(speed) in shown


def test_other_figures_are_another_table_and_another_chart(tmp_path):
    rows = front.measured()
    changed = [
        msgspec.structs.replace(row, figures={**row.figures, "documents/s": Figure(12_300)})
        if "documents/s" in row.figures
        else row
        for row in rows
    ]
    assert "12,300" in front.table(changed)
    front.draw(changed, tmp_path / "speed.svg")
    assert texts_of(front.CHART) != texts_of(tmp_path / "speed.svg")


def test_a_page_without_markers_and_records_without_figures_are_errors():
    with pytest.raises(ValueError, match="no lines"):
        front.fill("# edgerank", "| |")
    with pytest.raises(LookupError, match="documents/s"):
        front.table([])
