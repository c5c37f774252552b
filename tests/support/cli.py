"""The command line, run as a shell runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT


def environment(**changes: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key != "EDGERANK_MODEL"}
    return {**inherited, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **changes}


def edgerank(
    *arguments: str | Path, stdin: bytes = b"", **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "edgerank", *map(os.fspath, arguments)],
        input=stdin,
        env=environment(**env),
        capture_output=True,
        timeout=60,
    )
    assert b"Traceback" not in done.stderr
    return done


def succeed(*arguments: str | Path, stdin: bytes = b"", **env: str) -> str:
    done = edgerank(*arguments, stdin=stdin, **env)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


def fail(*arguments: str | Path, stdin: bytes = b"", **env: str) -> str:
    """Run what must fail with one line on stderr and nothing on stdout; return that line."""
    done = edgerank(*arguments, stdin=stdin, **env)
    assert (done.returncode, done.stdout) == (2, b"")
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("edgerank: error: ")
    return line.removeprefix("edgerank: error: ")
