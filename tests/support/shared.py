"""The shared data and trained checkpoints, none of it in the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import ROOT

SHARED = Path(os.environ.get("EDGERANK_SHARED", ROOT.parent / "shared"))
CHECKPOINTS = Path(os.environ.get("EDGERANK_CHECKPOINTS", ROOT / ".venv/trained"))


def shared(name: str) -> Path:
    """Return a path under the shared data, or skip the test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set EDGERANK_SHARED to the shared data")
    return path


def trained(name: str) -> Path:
    """Return a checkpoint with trained weights, or skip the test where it is absent."""
    path = CHECKPOINTS / name
    if not path.exists():
        pytest.skip(f"{path} is absent; run `make trained`, or set EDGERANK_CHECKPOINTS")
    return path
