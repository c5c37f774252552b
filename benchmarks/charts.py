"""Bar charts of documents/s, from rows of the comparison with other engines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from benchmarks.common.record import Row, show

matplotlib.use("Agg")

SPEED = "documents/s"
COLOURS = {True: "#0f766e", False: "#9ca3af"}  # edgerank's bars, and the others'
WIDTH, BAR_HEIGHT, TITLE_HEIGHT = 8, 0.22, 0.45  # inches


@dataclass(frozen=True)
class Bars:
    """One panel of a chart: documents/s by system, the fastest first."""

    title: str
    speeds: Mapping[str, float]


def workloads(rows: Sequence[Row]) -> dict[str, list[Bars]]:
    """Return a panel for each call of each workload."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        if SPEED in row.figures:
            calls = found.setdefault(row.labels["workload"], {})
            speeds = calls.setdefault(row.labels["call"], {})
            speeds[row.labels["system"]] = row.figures[SPEED].value
    return {
        workload: [
            Bars(f"{call}: {SPEED}", fastest_first(speeds)) for call, speeds in calls.items()
        ]
        for workload, calls in found.items()
    }


def fastest_first(speeds: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(speeds.items(), key=lambda item: -item[1]))


def file_name(workload: str) -> str:
    """Name the chart of a workload."""
    return "-".join(re.findall(r"[a-z0-9.]+", workload.lower())) + ".svg"


def draw(panels: Sequence[Bars], path: Path) -> None:
    """Draw panels one below the other, as SVG that is the same for the same figures."""
    heights = [TITLE_HEIGHT + BAR_HEIGHT * len(bars.speeds) for bars in panels]
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "edgerank"}):
        drawing = Drawing(figsize=(WIDTH, sum(heights)), layout="constrained")
        columns = drawing.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
        for axes, bars in zip(columns[:, 0], panels, strict=True):
            _draw_bars(axes, bars)
        path.parent.mkdir(parents=True, exist_ok=True)
        drawing.savefig(path, metadata={"Date": None}, facecolor="white")


def _draw_bars(axes: Axes, bars: Bars) -> None:
    colours = [COLOURS[name.startswith("edgerank")] for name in bars.speeds]
    drawn = axes.barh(list(bars.speeds), list(bars.speeds.values()), color=colours)
    axes.bar_label(drawn, [show(value) for value in bars.speeds.values()], padding=3)
    axes.set_title(bars.title, loc="left", fontsize=11)
    axes.set_xlim(0, 1.1 * max(bars.speeds.values()))
    axes.invert_yaxis()
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.tick_params(bottom=False, labelbottom=False, left=False)
