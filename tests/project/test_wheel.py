"""The wheel has all that a ranking takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

QUERY = "how do I delete a folder?"
DOCUMENTS = [
    "Paris is the capital of France.",
    "shutil.rmtree: Recursively delete a directory tree.",
    "math.floor: Return the floor of x as an integer.",
]
# fails whatever asks for a connection or a name
OFFLINE = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.getaddrinfo = refuse
from edgerank.cli import main
main()
"""


def test_the_wheel_has_all_that_a_ranking_takes(tmp_path):
    hatchling = pytest.importorskip("hatchling.build")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        wheel = tmp_path / hatchling.build_wheel(str(tmp_path))
    finally:
        os.chdir(before)
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as file:
        file.extractall(site)
        names = file.namelist()
    assert "edgerank/models/default/MODEL_CARD.md" in names
    assert any(name.endswith("licenses/NOTICE") for name in names)
    done = subprocess.run(
        [sys.executable, "-c", OFFLINE, "rerank", QUERY, "--json"],
        input="\n".join(DOCUMENTS).encode(),
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(site)},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["text"] == DOCUMENTS[1]
