"""The committed stubs are what proto/ generates."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import pytest

from tests.support import ROOT

GENERATOR = "1.85.1"  # as in pyproject.toml


def test_the_stubs_are_those_of_the_sources(tmp_path):
    if version("grpcio-tools") != GENERATOR:
        pytest.skip(f"grpcio-tools {GENERATOR} is not installed")
    subprocess.run([sys.executable, ROOT / "proto" / "generate.py", tmp_path], check=True)
    made = {path.name: path.read_text() for path in (tmp_path / "edgerank/_proto").iterdir()}
    kept = {path.name: path.read_text() for path in (ROOT / "edgerank/_proto").glob("*_pb2*")}
    assert len(made) == 6
    assert made == kept, "run `python proto/generate.py`"
