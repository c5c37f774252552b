"""From one file to answers where there is no network, and nothing even tries to reach one."""

from __future__ import annotations

import ipaddress
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from edgerank.airgap.pack import pack
from edgerank.airgap.wheelhouse import Sources
from edgerank.airgap.wheels import parse_platforms
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.signing import open_key
from tests.airgap.bill import fault_of
from tests.airgap.wheels import build_own_wheel, closure, rebuild
from tests.support import ROOT
from tests.support.cli import environment

EXTRAS = ("server", "http", "sign")
STEPS = ["unpack", "install", "verify", "rank", "serve", "quantize", "eval", "upgrade", "stay"]
TRACED = "trace=connect,sendto,sendmsg,sendmmsg"


def without_a_network(*command: str | Path, trace: Path | None = None) -> list[str]:
    """Return a command that runs another in a network namespace of its own; skip where none may."""
    unshare, strace = shutil.which("unshare"), shutil.which("strace")
    if unshare is None:
        pytest.skip("there is no unshare")
    isolated = [unshare, "--map-root-user", "--net"]
    done = subprocess.run([*isolated, "true"], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this machine allows no network namespace: {done.stderr.strip()}")
    if trace is not None:
        if strace is None:
            pytest.skip("there is no strace")
        tracer = [strace, "-f", "--seccomp-bpf", "-qq", "-e", TRACED, "-e", "signal=none"]
        isolated += [*tracer, "-o", str(trace)]
        done = subprocess.run([*isolated, "true"], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine allows no tracing: {done.stderr.strip()}")
    return [*isolated, *map(str, command)]


def addresses_beyond(trace: Path) -> list[str]:
    """Return the lines of a trace that name an address of another machine."""
    return [line for line in trace.read_text(errors="replace").splitlines() if is_beyond(line)]


def is_beyond(line: str) -> bool:
    found = re.search(r'inet_addr\("([^"]+)"\)|AF_INET6, "([^"]+)"', line)
    if found is None:
        return "sa_family=AF_INET" in line  # an address that is not written out is none of ours
    address = ipaddress.ip_address(found[1] or found[2])
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_loopback


@pytest.fixture(scope="module")
def site_pack(keys, tmp_path_factory) -> Path:
    """A pack of what is installed here: nothing is fetched."""
    pytest.importorskip("hatchling.build")
    work = tmp_path_factory.mktemp("site")
    wheels = work / "wheels"
    wheels.mkdir()
    own = build_own_wheel(work)
    for distribution in closure(own_requirements(own)).values():
        rebuild(distribution, wheels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(wheels))
        sources = Sources(EXTRAS, (own,))
        secret = open_key(keys[0], lambda: "")
        bundles = {"default": DEFAULT_BUNDLE}
        pack(work / "site.pack", bundles, parse_platforms((), ()), sources, secret)
    shutil.rmtree(wheels)
    return work / "site.pack"


def own_requirements(own: Path) -> list[str]:
    """Return what edgerank's wheel needs with these extras, and what those need in turn."""
    from edgerank.airgap.wheels import Wheel, requirements_of

    [target] = parse_platforms((), ())
    waiting, lines, seen = list(EXTRAS), [], set()
    while waiting:
        extra = waiting.pop()
        seen.add(extra)
        for each in requirements_of(Wheel(own), [extra], target):
            if each.name == "edgerank":
                waiting += each.extras - seen
            else:
                lines.append(str(each).partition(";")[0])
    return lines


def test_the_whole_path_runs_without_a_network_and_asks_for_none(
    site_pack, keys, cross_encoder, tmp_path
):
    trace = tmp_path / "trace"
    path = ["-m", "tests.airgap.path", site_pack, keys[1], cross_encoder, tmp_path]
    command = without_a_network(sys.executable, *path, trace=trace)
    done = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    print(done.stdout)  # noqa: T201 - how long each step took
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0].split()[0] for line in done.stdout.splitlines()] == STEPS
    assert 'sin_addr=inet_addr("127.0.0.1")' in trace.read_text(errors="replace")
    assert addresses_beyond(trace) == []


def test_the_bill_of_materials_of_real_packages_is_valid(site_pack):
    with tarfile.open(site_pack) as tar:
        file = tar.extractfile("sbom.cdx.json")
        assert file is not None
        assert fault_of(file.read().decode()) is None


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.socket().connect(('192.0.2.1', 443))",
        "import socket; socket.socket(socket.AF_INET6).connect(('2001:db8::1', 443))",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    ],
)
def test_an_attempt_to_reach_another_machine_would_be_noticed(attempt, tmp_path):
    trace = tmp_path / "trace"
    command = without_a_network(sys.executable, "-c", attempt, trace=trace)
    done = subprocess.run(command, capture_output=True, text=True)
    assert "OSError" in done.stderr
    assert addresses_beyond(trace)


def test_talking_to_oneself_is_no_attempt():
    for line in (
        '7 connect(3, {sa_family=AF_INET, sin_port=htons(1), sin_addr=inet_addr("127.0.0.1")}, 16)',
        "7 connect(3, {sa_family=AF_INET6, sin6_port=htons(1), sin6_flowinfo=htonl(0),"
        ' inet_pton(AF_INET6, "::ffff:127.0.0.1", &sin6_addr), sin6_scope_id=0}, 28) = 0',
        '7 connect(4, {sa_family=AF_UNIX, sun_path="/run/edgerank/socket"}, 110) = 0',
        "7 sendto(4, [{nlmsg_len=20}], 20, 0, {sa_family=AF_NETLINK, nl_pid=0}, 12) = 20",
    ):
        assert not is_beyond(line)
