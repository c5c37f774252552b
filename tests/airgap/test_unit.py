"""The unit of systemd is one that systemd accepts, and lets the service do little."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from edgerank.cli import NO_TELEMETRY
from edgerank.serving.notify import tell_systemd
from tests.airgap.path import SWITCHES
from tests.support import ROOT
from tests.support.serving import ServerProcess

UNIT, CLOSED = ROOT / "docs/edgerank.service", ROOT / "docs/air-gapped.conf"


@pytest.fixture(params=["networked", "closed"])
def units(request, tmp_path) -> tuple[str, Path]:
    """The tool and the unit, alone or as a template with what closes it."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / ("edgerank.service" if request.param == "networked" else "edgerank@.service")
    texts = {unit: UNIT.read_text()}
    if request.param == "closed":
        texts[Path(f"{unit}.d/air-gapped.conf")] = CLOSED.read_text()
    for path, text in texts.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(re.sub(r"/opt/edgerank/\S*bin/edgerank", "/bin/true", text))
    return tool, unit


def analyze(units: tuple[str, Path], *arguments: str) -> subprocess.CompletedProcess[str]:
    tool, unit = units
    return subprocess.run(
        [tool, *arguments, str(unit)],
        env={"SYSTEMD_UNIT_PATH": f"{unit.parent}:", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )


def test_systemd_accepts_it(units):
    done = analyze(units, "verify", "--man=no")
    assert (done.returncode, done.stdout) == (0, "")
    assert [line for line in done.stderr.splitlines() if "edgerank" in line] == []


def test_a_mistake_would_be_noticed(units):
    unit = units[1]
    unit.write_text(unit.read_text().replace("PrivateTmp=yes", "PrivateTemp=yes"))
    assert "PrivateTemp" in analyze(units, "verify", "--man=no").stderr


def test_systemd_is_told_when_the_server_serves_and_when_it_stops(tmp_path, monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with ServerProcess() as server:
            assert systemd.recv(100) == b"READY=1"
            server.wait_for("serving")
            assert server.terminate() == 0
        assert systemd.recv(100) == b"STOPPING=1"


def test_a_socket_of_systemd_may_have_no_path(monkeypatch):
    name = f"edgerank-{os.urandom(8).hex()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        tell_systemd("READY=1")
        assert systemd.recv(100) == b"READY=1"


def test_it_lets_the_service_do_little(units):
    done = analyze(units, "security", "--offline=true", "--json=short")
    open_doors = {each["name"] for each in json.loads(done.stdout) if each["set"] is False}
    closed = "@" in units[1].name
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
