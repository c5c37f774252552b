"""Packs of released wheels for other Pythons and machines, installed and run where that can be.

`make test-airgap` builds edgerank's wheels and runs these tests. They fetch from PyPI and Debian.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edgerank.client import Client
from tests.airgap.debian import make_root, python_of
from tests.airgap.path import DOCUMENTS, QUERY
from tests.airgap.test_path import without_a_network
from tests.support import ROOT
from tests.support.cli import environment, succeed

pytestmark = pytest.mark.downloads

PLATFORM = "manylinux_2_28_"
# how Linux tells a program for Arm: by the first bytes of its file, under a mask
ARM_PROGRAM = ":arm:M::{}:{}".format(
    r"\x7fELF\x02\x01\x01" + 9 * r"\x00" + r"\x02\x00\xb7\x00",
    7 * r"\xff" + r"\x00" + 8 * r"\xff" + r"\xfe\xff\xff\xff",
)
# onnxruntime reads this file, and crashes where it is another architecture's
ARM_CPU = """\
processor	: 0
Features	: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm asimddp
CPU implementer	: 0x41
CPU architecture: 8
CPU variant	: 0x3
CPU part	: 0xd0c
CPU revision	: 1
"""


OTHER_PYTHONS = "3.10", "3.12", "3.13"


@pytest.fixture(scope="module")
def released() -> list[str]:
    """Options that name edgerank's own wheels; skip where wheels cannot be fetched for the rest."""
    wheels = sorted((ROOT / "dist").glob("edgerank-*-manylinux*.whl"))
    if not wheels:
        pytest.skip("there are no wheels in dist/: make wheels")
    return [part for wheel in wheels for part in ("--wheel", str(wheel))]


@pytest.fixture(scope="module", autouse=True)
def index(tmp_path_factory) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "msgspec"]
    where = tmp_path_factory.mktemp("index")
    done = subprocess.run([*command, "--dest", where], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip reaches no index: {done.stderr.splitlines()[-1]}")


@pytest.fixture(scope="module")
def expected() -> list[float]:
    """The scores that the checkout gives to the documents here."""
    documents = "\n".join(DOCUMENTS).encode()
    return scores(succeed("rerank", QUERY, "-", "--json", stdin=documents))


def scores(output: str) -> list[float]:
    by_text = {each["text"]: each["score"] for each in json.loads(output)}
    return [by_text[text] for text in DOCUMENTS]


def make_pack(
    work: Path, keys: tuple[Path, Path], wheels: Sequence[str], pythons: Sequence[str], machine: str
) -> Path:
    """Make, check and unpack a pack."""
    versions = [part for each in pythons for part in ("--python", each)]
    options = [*versions, "--platform", PLATFORM + machine, "--extra", "server", "--extra", "http"]
    command = [sys.executable, "-m", "edgerank", "pack", work / "pack", *options, *wheels]
    done = subprocess.run(
        [*command, "--sign", keys[0]], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)  # noqa: T201 - its size
    succeed("unpack", work / "pack", "--trust", keys[1], "-o", work / "unpacked")
    return work / "unpacked"


@pytest.fixture(scope="module")
def for_other_pythons(keys, released, tmp_path_factory) -> Path:
    """A pack for the oldest and the newest Python. pip runs on one of them at most."""
    return make_pack(
        tmp_path_factory.mktemp("pythons"), keys, released, ["3.10", "3.12", "3.13"], "x86_64"
    )


@pytest.mark.parametrize("version", OTHER_PYTHONS)
def test_a_pack_for_another_python_is_complete_without_a_lock(version, for_other_pythons):
    lines = (for_other_pythons / f"requirements/{version}-{PLATFORM}x86_64.txt").read_text()
    names = re.findall(r"^([^=]+)==", lines, re.MULTILINE)
    assert {"edgerank", "numpy", "onnxruntime", "grpcio", "starlette"} <= {*names}
    assert ("tomli" in names) == (version == "3.10")
    wheels = {path.name for path in (for_other_pythons / "wheels").iterdir()}
    tag = version.replace(".", "")
    assert [each for each in wheels if each.startswith("numpy-") and f"-cp{tag}-" in each]


@pytest.mark.parametrize("version", OTHER_PYTHONS)
def test_another_python_installs_its_pack_and_ranks(
    version, for_other_pythons, keys, expected, tmp_path
):
    python = find_python(version)
    command = [python, "-I", for_other_pythons / "install.py", tmp_path / "site"]
    subprocess.run(command, check=True)
    assert ranked(tmp_path / "site", keys[1], tmp_path) == pytest.approx(expected, abs=1e-3)


def find_python(version: str) -> str:
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "--version"], capture_output=True).returncode:
        pytest.skip(f"there is no Python {version}")
    return python


def ranked(site: Path, public: Path, work: Path) -> list[float]:
    """Check an installation by itself, and return its scores."""
    edgerank = site / "bin/edgerank"
    verify = [edgerank, "verify", "--installed", site, "--trust", public]
    assert subprocess.check_output(verify, text=True).startswith("signed  manifest.json\nintact")
    (work / "documents.txt").write_text("\n".join(DOCUMENTS))
    rerank = [edgerank, "rerank", QUERY, work / "documents.txt", "--json"]
    model = ["--model", site / "models/default", "--trust", public]
    return scores(subprocess.check_output([*rerank, *model], text=True))


def test_a_pack_for_arm_is_installed_and_ranks_in_an_emulator(keys, released, expected, tmp_path):
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if emulator is None:
        pytest.skip("there is no qemu-aarch64")
    root = make_root(tmp_path, "arm64")
    unpacked = make_pack(tmp_path, keys, released, [python_of(root)], "aarch64")
    (tmp_path / "documents.txt").write_text("\n".join(DOCUMENTS))
    (tmp_path / "cpuinfo").write_text(ARM_CPU)
    site = tmp_path / "site"
    rerank = [site / "bin/edgerank", "rerank", QUERY, tmp_path / "documents.txt", "--json"]
    steps = [
        [root / "usr/bin/python3", "-I", unpacked / "install.py", site],
        [*rerank, "--model", site / "models/default", "--trust", keys[1]],
    ]
    script = " && ".join(
        [
            "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc",
            f"printf %s '{ARM_PROGRAM}:{emulator}:F' > /proc/sys/fs/binfmt_misc/register",
            shlex.join(["mount", "--bind", str(tmp_path / "cpuinfo"), "/proc/cpuinfo"]),
            shlex.join(["export", f"QEMU_LD_PREFIX={root}"]),
            *(shlex.join(map(str, step)) for step in steps),
        ]
    )
    command = without_a_network("unshare", "--mount", "sh", "-c", script)
    done = subprocess.run(command, capture_output=True, text=True)
    if "binfmt_misc" in done.stderr:
        pytest.skip(f"programs of another machine cannot be registered: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    installed, answer = done.stdout.splitlines()
    print(answer)  # noqa: T201
    assert installed == f"installed {site}"
    assert scores(answer) == pytest.approx(expected, abs=1e-3)


def test_a_container_image_is_made_as_the_documentation_says_and_serves(
    keys, released, expected, tmp_path
):
    if shutil.which("umoci") is None:
        pytest.skip("there is no umoci")
    root = make_root(tmp_path, "amd64")
    unpacked = make_pack(tmp_path, keys, released, [python_of(root)], "x86_64")
    (root / "tmp").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    make_base_image(root, tmp_path)
    unpacked.rename(tmp_path / "site")
    page = (ROOT / "docs/air-gapped.md").read_text()
    [recipe] = re.findall(r"(?:^    .*\n)+", page[page.index("### A container image") :], re.M)[:1]
    subprocess.run(["sh", "-ec", recipe], cwd=tmp_path, check=True)
    (tmp_path / "elsewhere").mkdir()
    subprocess.run(["tar", "-xf", "../edgerank-oci.tar"], cwd=tmp_path / "elsewhere", check=True)
    umoci(tmp_path, "unpack", "--rootless", "--image", "elsewhere:edgerank", "run")
    process = json.loads((tmp_path / "run/config.json").read_text())["process"]
    rootfs = tmp_path / "run/rootfs"
    user = ["--userspec={uid}:{gid}".format(**process["user"])] if os.geteuid() == 0 else []
    options = ["--model", "/opt/edgerank/current/models/default", "--listen", "unix:/tmp/socket"]
    lines = []
    for name in ("proc", "dev"):  # as whatever runs a container mounts them
        (rootfs / name).mkdir(exist_ok=True)
        lines.append(shlex.join(["mount", "--rbind", f"/{name}", f"{rootfs}/{name}"]))
    lines.append(shlex.join(["exec", "chroot", *user, str(rootfs), *process["args"], *options]))
    isolated = ["unshare", "--net"] if user else without_a_network("unshare")
    server = subprocess.Popen(
        [*isolated, "--mount", "sh", "-c", " && ".join(lines)], stderr=subprocess.PIPE, text=True
    )
    assert server.stderr is not None
    try:
        for line in server.stderr:
            if json.loads(line)["message"] == "serving":
                break
        with Client(f"unix:{rootfs}/tmp/socket") as client:
            assert client.score(QUERY, DOCUMENTS) == pytest.approx(expected, abs=1e-3)
        server.terminate()
        assert server.wait(30) == 0
    finally:
        server.kill()
        server.wait()
        server.stderr.close()


def make_base_image(root: Path, work: Path) -> None:
    """Make what a site has: an image with Python, tagged base."""
    umoci(work, "init", "--layout", "image")
    umoci(work, "new", "--image", "image:base")
    umoci(work, "unpack", "--rootless", "--image", "image:base", "base")
    shutil.copytree(root, work / "base/rootfs", symlinks=True, dirs_exist_ok=True)
    umoci(work, "repack", "--image", "image:base", "base")


def umoci(work: Path, *arguments: str) -> None:
    subprocess.run(["umoci", *arguments], cwd=work, check=True)
