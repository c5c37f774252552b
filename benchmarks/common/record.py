"""What a benchmark measured: rows of named figures, and the record that they are kept in."""

from __future__ import annotations

import math
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from benchmarks.common.machine import Machine, describe_machine
from benchmarks.common.paths import ROOT
from edgerank.files import write_atomically

RESULTS = "benchmarks/records", "docs/benchmarks.md"  # what runs change


class Figure(msgspec.Struct, frozen=True, omit_defaults=True):
    """A value with its unit; of several samples, the median and the quartiles around it."""

    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    samples: int = 1

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return show(self.value)
        return f"{show(self.value)} ({show(self.low)} to {show(self.high)})"


class Row(msgspec.Struct, frozen=True):
    """What was measured, by labels, and its figures by name; the names are columns of a table."""

    labels: dict[str, str]
    figures: dict[str, Figure] = {}


class Record(msgspec.Struct, frozen=True):
    """A run of a benchmark."""

    benchmark: str
    command: str
    date: str  # UTC, ISO 8601
    commit: str
    machine: Machine
    parameters: dict[str, Any]
    rows: list[Row]


def median(samples: ArrayLike, unit: str = "") -> Figure:
    """Summarise samples by their median and quartiles."""
    low, middle, high = np.quantile(np.asarray(samples), [0.25, 0.5, 0.75])
    if np.size(samples) == 1:
        return Figure(float(middle), unit)
    return Figure(float(middle), unit, float(low), float(high), np.size(samples))


def show(value: float) -> str:
    """Write a number with three significant digits, and all of those before the point."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    magnitude = math.floor(math.log10(abs(value)))
    if magnitude < 2:
        return f"{value:.3g}"
    return f"{round(value, 2 - magnitude):,.0f}"


def new_record(benchmark: str, command: str, parameters: dict[str, Any]) -> Record:
    """Begin a record, with the machine, the commit and today's date, and no rows."""
    return Record(
        benchmark=benchmark,
        command=command,
        date=datetime.now(timezone.utc).date().isoformat(),
        commit=_commit(),
        machine=describe_machine(),
        parameters=parameters,
        rows=[],
    )


def write_record(path: Path, record: Record) -> None:
    """Write a record as JSON, as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = msgspec.json.format(msgspec.json.encode(record), indent=1)
    write_atomically(path, content + b"\n")


def read_record(path: Path) -> Record:
    """Read what ``write_record`` wrote.

    :raises msgspec.ValidationError: it is something else
    """
    return msgspec.json.decode(path.read_bytes(), type=Record)


def _commit() -> str:
    """Name the commit that is checked out, "" outside of a checkout; "-dirty" if code differs."""
    commit = _git("rev-parse", "--short=10", "HEAD")
    if commit.returncode != 0:
        return ""
    difference = _git("diff", "--quiet", "HEAD", "--", ".", *(f":!{path}" for path in RESULTS))
    return commit.stdout.strip() + ("-dirty" if difference.returncode else "")


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
