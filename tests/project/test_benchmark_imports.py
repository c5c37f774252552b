"""The benchmarks' scripts find what they import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from tests.support import ROOT


def test_every_benchmark_finds_what_it_imports():
    files = [path for path in (ROOT / "benchmarks").rglob("[a-z]*.py") if not is_worker(path)]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in sorted(files)]
    assert len(names) > 10
    assert "benchmarks.peers.comparison" in names
    subprocess.run([sys.executable, "-c", f"import {', '.join(names)}"], check=True, cwd=ROOT)


def is_worker(path: Path) -> bool:
    """Tell a peer's script, which its own environment runs."""
    return path.parent.name == "workers"


def test_workers_import_a_peer_only_when_they_are_asked_to_run():
    """So that a worker fails, if at all, while somebody listens, and its import can be timed."""
    scripts = [path for path in (ROOT / "benchmarks/peers").rglob("*.py") if is_worker(path)]
    assert len(scripts) > 3
    for path in scripts:
        modules = {
            name.split(".")[0]
            for node in ast.parse(path.read_bytes()).body
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert modules <= {*sys.stdlib_module_names, "worker"}, path.name
