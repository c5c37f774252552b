"""Programs in processes of their own, and what they took."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# VmHWM and not ru_maxrss, which a process inherits from the one that started it
_REPORT = "\nimport sys; print(open('/proc/self/status').read(), file=sys.stderr)"


@dataclass(frozen=True)
class Finished:
    """A program that ran to its end."""

    output: str
    seconds: float
    peak_bytes: int


def run_program(program: str, *arguments: str | Path) -> Finished:
    """Run a Python program in a process of its own.

    :raises subprocess.CalledProcessError: it fails
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", program + _REPORT, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    return Finished(done.stdout, seconds, peak_bytes(done.stderr))


def peak_bytes(status: str) -> int:
    """Read the most memory that a process has held from its /proc/<pid>/status."""
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
