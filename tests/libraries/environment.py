"""The environments of families' own libraries, and how a program runs in one.

They have newer releases than the development environment, whose transformers optimum bounds.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT

TIMEOUT_S = 300


def python_of(name: str) -> Path:
    """Return the interpreter of an environment: "libraries" or "pylate".

    EDGERANK_LIBRARIES and EDGERANK_PYLATE name another directory than that under .venv/.
    """
    directory = os.environ.get(f"EDGERANK_{name.upper()}", ROOT / ".venv" / name)
    return Path(directory) / "bin/python"


def needs(name: str) -> pytest.MarkDecorator:
    """Skip tests where an environment is not built."""
    reason = f"needs the environment .venv/{name}: make test-libraries"
    return pytest.mark.skipif(not python_of(name).exists(), reason=reason)


def run_program(module: str, *arguments: str | Path, environment: str = "libraries") -> Any:
    """Run a module of this package in an environment.

    :param module: such as "cross_encoders"
    :return: what the last line of its output holds as JSON
    """
    done = subprocess.run(
        [python_of(environment), "-m", f"tests.libraries.{module}", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},  # nothing is fetched
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
