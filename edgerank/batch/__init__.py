"""Batch jobs: files of queries and documents into shards of scores, resumable and exact.

    from edgerank.batch import run_batch

    run_batch("candidates.jsonl", "scores")

``run_batch`` is what ``edgerank batch`` runs. A job (``job.py``) is cut into shards (``plan.py``).
A shard's rows are read (``inputs.py``) and scored (``scoring.py``), and its file is written whole
(``output.py``).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgerank.batch.run import Summary as Summary
    from edgerank.batch.run import run_batch as run_batch

__all__ = ["Summary", "run_batch"]


def __getattr__(name: str) -> Any:
    """Load the runtime when it is asked for: the command line knows the options without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("edgerank.batch.run"), name)
