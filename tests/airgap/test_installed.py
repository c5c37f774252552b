"""Whatever is changed in an installation after it was made is noticed, and named in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edgerank.airgap.archive import unpack
from tests.airgap.stubs import KERNELS, LIBRARY, MODULE
from tests.support.cli import fail, succeed

PACKAGES = f"venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
WEIGHTS = "models/default/model.int8.onnx.data"


@pytest.fixture(scope="module")
def sound(own_pack, keys, tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("sound")
    unpack(own_pack, keys[1], work / "unpacked")
    command = [sys.executable, "-I", work / "unpacked/install.py", work / "site"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return work / "site"


@pytest.fixture
def site(sound, tmp_path) -> Path:
    return shutil.copytree(sound, tmp_path / "site", symlinks=True)


def flip(name: str) -> Callable[[Path], None]:
    def harm(site: Path) -> None:
        content = (site / name).read_bytes()
        (site / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return harm


def write(name: str, text: str) -> Callable[[Path], None]:
    def harm(site: Path) -> None:
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)

    return harm


def replace_by_link(site: Path) -> None:
    shutil.move(site / PACKAGES / LIBRARY, site.parent / "library")
    (site / PACKAGES / LIBRARY).symlink_to(site.parent / "library")


def other_python(site: Path) -> None:
    (site / "venv/bin/python").unlink()
    (site / "venv/bin/python").symlink_to(site.parent / "elsewhere" / "python")


def python_as_a_file(site: Path) -> None:
    (site / "venv/bin/python").unlink()
    (site / "venv/bin/python").write_text("#!/bin/sh")


def swap_manifest(site: Path) -> None:
    """Let the manifest allow what was changed, as someone without the key may."""
    write(f"{PACKAGES}/evil.py", "x")(site)
    [path] = (site / "installed").iterdir()
    path.write_text(path.read_text() + f"{'0' * 64}  evil.py\n")


BYTECODE = f"{PACKAGES}/numbers_lib/__pycache__/__init__.cpython-311.pyc"
HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "changed module": (write(f"{PACKAGES}/{MODULE}", "x"), f"{PACKAGES}/{MODULE}: altered"),
    "changed library": (flip(f"{PACKAGES}/{LIBRARY}"), f"{PACKAGES}/{LIBRARY}: altered"),
    "changed kernels": (flip(f"{PACKAGES}/{KERNELS}"), f"{PACKAGES}/{KERNELS}: altered"),
    "changed weights": (flip(WEIGHTS), f"{WEIGHTS}: altered"),
    "changed command": (flip("bin/edgerank"), "bin/edgerank: altered"),
    "changed bill of materials": (flip("sbom.cdx.json"), "sbom.cdx.json: altered"),
    "changed settings": (
        write("venv/pyvenv.cfg", "include-system-site-packages = true"),
        "venv/pyvenv.cfg: altered",
    ),
    "another Python": (other_python, "venv/pyvenv.cfg: altered"),
    "a program for Python": (python_as_a_file, "venv/bin/python: altered"),
    "added module": (write(f"{PACKAGES}/evil.py", ""), f"{PACKAGES}/evil.py: added"),
    "added bytecode": (write(BYTECODE, ""), f"{BYTECODE}: added"),
    "added .pth": (write(f"{PACKAGES}/evil.pth", "import evil"), f"{PACKAGES}/evil.pth: added"),
    "added model": (write("models/x/edgerank.json", "{}"), "models/x/edgerank.json: added"),
    "removed module": (
        lambda site: (site / PACKAGES / MODULE).unlink(),
        f"{PACKAGES}/{MODULE}: missing",
    ),
    "removed weights": (lambda site: (site / WEIGHTS).unlink(), f"{WEIGHTS}: missing"),
    "removed list": (lambda site: shutil.rmtree(site / "installed"), ": missing: installed/"),
    "link to a file": (replace_by_link, f"{PACKAGES}/{LIBRARY}: a link"),
    "link to a directory": (
        lambda site: (site / "models/x").symlink_to(site / "models/default"),
        "models/x: a link",
    ),
    "pipe": (lambda site: os.mkfifo(site / "pipe"), "pipe: no plain file"),
    "changed list": (swap_manifest, ".sha256: altered"),
    "changed manifest": (flip("manifest.json"), "manifest.json: it was altered after it was"),
    "removed manifest": (lambda site: (site / "manifest.json").unlink(), "No such file"),
    "removed signature": (
        lambda site: (site / "manifest.json.minisig").unlink(),
        "manifest.json: not signed: manifest.json.minisig is missing",
    ),
}


def test_an_installation_is_intact_though_it_was_moved(site, keys):
    lines = succeed("verify", "--installed", site, "--trust", keys[1]).splitlines()
    assert [line.split()[0] for line in lines] == ["signed", "intact", "model", "python"]
    count = sum(not path.is_dir() for path in site.rglob("*"))
    assert f"{count:,} files" in lines[1]
    assert str((site / "venv/bin/python").readlink()) in lines[3]


@pytest.mark.parametrize("change", HARM)
def test_what_was_changed_is_named(change, site, keys):
    harm, reason = HARM[change]
    harm(site)
    line = fail("verify", "--installed", site, "--trust", keys[1])
    assert line.startswith(str(site))
    assert reason in line


def test_another_key_is_refused(site, other_keys):
    line = fail("verify", "--installed", site, "--trust", other_keys[1])
    assert "it is signed by another key than the trusted one" in line


def test_sha256sum_checks_the_packages_too(site):
    if shutil.which("sha256sum") is None:
        pytest.skip("there is no sha256sum")
    [path] = (site / "installed").iterdir()
    command = ["sha256sum", "--check", "--strict", "--quiet", path.absolute()]
    assert subprocess.run(command, cwd=site / PACKAGES).returncode == 0
    flip(f"{PACKAGES}/{LIBRARY}")(site)
    done = subprocess.run(command, cwd=site / PACKAGES, capture_output=True, text=True)
    assert f"{LIBRARY}: FAILED" in done.stdout
