"""What of quantize an installation has: the pipeline, without the making of the default model."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support import ROOT

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


def test_training_is_left_out_and_the_pipeline_is_whole(site):
    installed, here = (
        {path.relative_to(root).as_posix() for path in (root / "quantize").rglob("*.*")}
        for root in (site, ROOT)
    )
    training = {name for name in here if name.startswith("quantize/training/")}
    assert "quantize/training/__main__.py" in training
    assert installed == {name for name in here - training if "__pycache__" not in name}


def test_every_module_of_it_can_be_imported(site):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, str(site)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(site)},
        cwd=site,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
