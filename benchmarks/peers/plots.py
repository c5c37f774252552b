"""Plots of what peers and scaling measured, from their rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing

from benchmarks.common.record import Figure, Row

matplotlib.use("Agg")


def draw_speeds(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Draw documents/s of a workload's systems, fastest last: a plot for each call."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "documents/s" in row.figures:
            groups.setdefault((row.labels["workload"], row.labels["call"]), []).append(row)
    paths = []
    for (workload, call), group in groups.items():
        drawing, axes = _axes(workload)
        speeds = [row.figures["documents/s"] for row in group]
        names = [row.labels["system"] for row in group]
        axes.barh(names, [speed.value for speed in speeds], xerr=_quartiles(speeds))
        axes.invert_yaxis()
        axes.set(title=f"{workload}\n{call}", xlabel="documents/s")
        paths.append(_save(drawing, directory, workload, call))
    return paths


def draw_curves(rows: Sequence[Row], directory: Path) -> list[Path]:
    """Draw scaling's rows: a plot for each workload and axis, a curve for each system."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.figures:
            workload, axis = row.labels
            groups.setdefault((row.labels[workload], axis), []).append(row)
    paths = []
    for (workload, axis), group in groups.items():
        drawing, axes = _axes(workload)
        for name in dict.fromkeys(name for row in group for name in row.figures):
            points = [row for row in group if name in row.figures]
            rates = [row.figures[name] for row in points]
            x, y = [int(row.labels[axis]) for row in points], [rate.value for rate in rates]
            axes.errorbar(x, y, _quartiles(rates), marker=".", label=name)
            axes.set(xscale="log", xlabel=axis, ylabel=rates[0].unit)
        axes.set_ylim(0)  # once all curves are there: it ends their say in the other limit
        axes.legend()
        paths.append(_save(drawing, directory, workload, axis))
    return paths


def _axes(title: str) -> tuple[Drawing, Axes]:
    drawing = Drawing(figsize=(7, 4.5), layout="constrained")
    axes = drawing.subplots()
    axes.set_title(title)
    return drawing, axes


def _quartiles(figures: Sequence[Figure]) -> list[list[float]]:
    """Return what error bars reach below and above the medians."""
    lows = [one.value - (one.value if one.low is None else one.low) for one in figures]
    highs = [(one.value if one.high is None else one.high) - one.value for one in figures]
    return [lows, highs]


def _save(drawing: Drawing, directory: Path, *parts: str) -> Path:
    words = "".join(c if c.isalnum() else " " for c in " ".join(parts)).split()
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{'-'.join(words)}.png"
    drawing.savefig(path, dpi=120)
    return path
