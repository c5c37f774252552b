"""What an installation has: all that a ranking takes, and quantize without its training."""

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
IMPORT_ALL = """
import importlib, pathlib, sys
root = pathlib.Path(sys.argv[1])
for path in sorted(root.joinpath("quantize").rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    importlib.import_module(".".join(parts).removesuffix(".__init__"))
assert pathlib.Path(sys.modules["quantize"].__file__).is_relative_to(root)
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with what a wheel installs."""
    hatchling = pytest.importorskip("hatchling.build")
    work = tmp_path_factory.mktemp("wheel")
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        wheel = work / hatchling.build_wheel(str(work))
    finally:
        os.chdir(before)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(work / "site")
    return work / "site"


def run(site: Path, *command: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run Python on what is installed, and not on the sources."""
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *command],
        input=stdin,
        cwd=site,
        env=environment,
        capture_output=True,
        timeout=60,
    )


def test_it_has_all_that_a_ranking_takes(site):
    assert (site / "edgerank/models/default/MODEL_CARD.md").exists()
    assert list(site.glob("*.dist-info/licenses/NOTICE"))
    stdin = "\n".join(DOCUMENTS).encode()
    done = run(site, "-c", OFFLINE, "rerank", QUERY, "--json", stdin=stdin)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["text"] == DOCUMENTS[1]


def test_it_has_the_pipeline_whole_without_the_making_of_the_default_model(site):
    installed, here = (
        {path.relative_to(root).as_posix() for path in (root / "quantize").rglob("*.*")}
        for root in (site, ROOT)
    )
    training = {name for name in here if name.startswith("quantize/training/")}
    assert "quantize/training/__main__.py" in training
    assert installed == {name for name in here - training if "__pycache__" not in name}


def test_every_module_of_the_pipeline_can_be_imported(site):
    done = run(site, "-c", IMPORT_ALL, str(site))
    assert done.returncode == 0, done.stderr
