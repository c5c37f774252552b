"""Environments of other libraries, whose versions the project's own environment cannot have."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support import ROOT

PYLATE = Path(os.environ.get("EDGERANK_PYLATE", ROOT / ".venv/pylate")) / "bin/python"
LIBRARIES = Path(os.environ.get("EDGERANK_LIBRARIES", ROOT / ".venv/libraries")) / "bin/python"
SETTINGS = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": ""}
TIMEOUT_S = 300

needs_pylate = pytest.mark.skipif(
    not PYLATE.exists(), reason="needs an environment with pylate: make test-libraries"
)
needs_sentence_transformers = pytest.mark.skipif(
    not LIBRARIES.exists(), reason="needs sentence-transformers 6.2: make test-libraries"
)


def ask(
    python: Path, program: str, directory: Path, asked: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, np.ndarray]]:
    """Have a program save checkpoints and read texts with them: what it finds, by the same names.

    :param directory: for the checkpoints, each under its name with - for spaces
    :param asked: what the program wants for each but "checkpoint" and "results", unless given
    """
    results = {name: directory / f"{place}.npz" for place, name in enumerate(asked)}
    whole = [
        {"checkpoint": str(checkpoint(directory, name)), **each, "results": str(results[name])}
        for name, each in asked.items()
    ]
    done = subprocess.run(
        [python, Path(__file__).with_name(program)],
        input=json.dumps(whole),
        capture_output=True,
        text=True,
        env={**os.environ, **SETTINGS},
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    found = {}
    for name, path in results.items():
        with np.load(path) as arrays:
            found[name] = dict(arrays)
    return found


def checkpoint(directory: Path, name: str) -> Path:
    """Return where ``ask`` has a checkpoint saved."""
    return directory / name.replace(" ", "-")
