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
    memory_bytes: int  # held at its end
    private_bytes: int  # of those, what is not mapped from files


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
    sizes = [status_bytes(done.stderr, name) for name in ("VmHWM", "VmRSS", "RssAnon")]
    return Finished(done.stdout, seconds, *sizes)


def peak_bytes(status: str) -> int:
    """Read the most memory that a process has held from its /proc/<pid>/status."""
    return status_bytes(status, "VmHWM")


def status_bytes(status: str, name: str) -> int:
    """Read a size from a process's /proc/<pid>/status."""
    (line,) = (line for line in status.splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
