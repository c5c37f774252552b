"""The unit of systemd is one that systemd accepts, and lets the service do little."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from edgerank.cli import NO_TELEMETRY
from tests.airgap.path import SWITCHES
from tests.support import ROOT

UNIT, CLOSED = ROOT / "docs/edgerank.service", ROOT / "docs/air-gapped.conf"


@pytest.fixture(params=["networked", "closed"])
def units(request, tmp_path) -> tuple[str, Path]:
    """A directory with the unit, alone or with what closes it; its commands are there."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze")
    texts = {"edgerank.service": UNIT.read_text()}
    if request.param == "closed":
        texts["edgerank.service.d/air-gapped.conf"] = CLOSED.read_text()
    for name, text in texts.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(re.sub(r"/opt/edgerank/\S*bin/edgerank", "/bin/true", text))
    return tool, tmp_path


def analyze(units: tuple[str, Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    tool, directory = units
    return subprocess.run(
        [tool, *arguments, str(directory / "edgerank.service")],
        env={"SYSTEMD_UNIT_PATH": f"{directory}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def test_systemd_accepts_it(units):
    done = analyze(units, "verify", "--man=no")
    assert (done.returncode, done.stdout) == (0, "")
    assert [line for line in done.stderr.splitlines() if "edgerank" in line] == []


def test_a_mistake_would_be_noticed(units):
    unit = units[1] / "edgerank.service"
    unit.write_text(unit.read_text().replace("PrivateTmp=yes", "PrivateTemp=yes"))
    assert "PrivateTemp" in analyze(units, "verify", "--man=no").stderr


def test_it_lets_the_service_do_little(units):
    done = analyze(units, "security", "--offline=true", "--json=short")
    open_doors = {each["name"] for each in json.loads(done.stdout) if each["set"] is False}
    closed = (units[1] / "edgerank.service.d").exists()
    assert ("PrivateNetwork=" in open_doors) != closed
    assert open_doors - {"PrivateNetwork=", "IPAddressDeny="} <= {
        "DeviceAllow=",  # PrivateDevices says which
        "RootDirectory=/RootImage=",
        "ProcSubset=",
        "MemoryDenyWriteExecute=",  # ctypes of Python maps such memory
        "RestrictAddressFamilies=~AF_(INET|INET6)",
        "RestrictAddressFamilies=~AF_UNIX",
        "SystemCallFilter=~@resources",  # threads are bound to cores
        "UMask=",
    }


def test_the_documentation_names_every_switch_that_an_installation_sets():
    page = (ROOT / "docs/air-gapped.md").read_text()
    assert [name for name, value in SWITCHES.items() if f"`{name}={value}`" not in page] == []
    assert [name for name in NO_TELEMETRY if name not in SWITCHES] == []
