"""What a pack holds, from which wheels, and that it is the same each time."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from edgerank import BundleError, InputError
from edgerank.airgap.archive import unpack
from edgerank.airgap.contents import PackError
from edgerank.airgap.wheels import parse_platforms
from edgerank.bundle import DEFAULT_BUNDLE, read_bundle, sha256_of
from tests.airgap.bill import fault_of
from tests.airgap.stubs import ARM, KERNELS, X86, make_pack, write_wheel
from tests.support import ROOT
from tests.support.cli import fail, succeed


@pytest.fixture(scope="module")
def unpacked(stubs, keys, tmp_path_factory) -> Path:
    """A signed pack for two targets, unpacked."""
    work = tmp_path_factory.mktemp("unpacked")
    make_pack(work / "site.pack", stubs, X86, ARM, key=keys[0])
    unpack(work / "site.pack", keys[1], work / "pack")
    return work / "pack"


def test_the_same_inputs_give_the_same_bytes(stubs, keys, tmp_path):
    first = make_pack(tmp_path / "first", stubs, key=keys[0])
    before = os.umask(0o077)
    try:
        (tmp_path / "elsewhere").mkdir()
        second = make_pack(tmp_path / "elsewhere" / "second", stubs, key=keys[0])
    finally:
        os.umask(before)
    assert first.read_bytes() == second.read_bytes()


def test_tar_lists_a_signed_pack_and_no_key_is_in_it(stubs, keys, tmp_path):
    path = make_pack(tmp_path / "site.pack", stubs, key=keys[0])
    with tarfile.open(path) as tar:
        names = tar.getnames()
    assert names[0] == "manifest.json"
    assert {
        "install.py",
        "manifest.json.minisig",
        "sbom.cdx.json",
        "models/default/edgerank.json.minisig",
    } <= {*names}
    secret = keys[0].read_bytes().splitlines()[1]
    assert secret not in path.read_bytes()


def test_each_target_has_its_wheels_with_their_hashes(unpacked):
    names = {path.stem: path.read_text() for path in (unpacked / "requirements").iterdir()}
    assert len(names) == 2
    x86, arm = names["3.11-manylinux_2_28_x86_64"], names["3.12-manylinux_2_28_aarch64"]
    assert re.findall(r"^([^=]+)==", x86, re.MULTILINE) == [
        "edgerank",
        "numbers-lib",
        "old-library",
        "signer",
    ]
    # pip compares markers with the Python of this test, whichever of the two that is
    assert re.findall(r"^([^=]+)==", arm, re.MULTILINE) == [
        "below-the-new",
        "edgerank",
        "new-library",
        "numbers-lib",
        "signer",
    ]
    assert "below-the-new==1.0" in arm
    [line] = [line for line in arm.splitlines() if line.startswith("numbers-lib")]
    wheel = unpacked / "wheels" / "numbers_lib-2.0-cp312-abi3-manylinux_2_28_aarch64.whl"
    assert line == f"numbers-lib==2.0 --hash=sha256:{sha256_of(wheel)}"


def test_the_bill_of_materials_is_valid_and_names_everything(unpacked):
    text = (unpacked / "sbom.cdx.json").read_text()
    assert fault_of(text) is None
    assert fault_of(text.replace('"library"', '"librarian"')) is not None
    components = {each["bom-ref"]: each for each in json.loads(text)["components"]}
    wheels = {path.name for path in (unpacked / "wheels").iterdir()}
    assert components.keys() == wheels | {"models/default"}
    model = components["models/default"]
    assert model["type"] == "machine-learning-model"
    assert model["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    digest = read_bundle(DEFAULT_BUNDLE).digest
    assert model["hashes"] == [{"alg": "SHA-256", "content": digest}]
    [own] = [each for each in components.values() if each["name"] == "edgerank"]
    [kernels] = own["components"]
    assert kernels["bom-ref"].endswith(KERNELS)
    licences = {each["name"]: each["licenses"][0]["license"] for each in components.values()}
    assert licences["numbers-lib"] == {"name": "BSD licence of numbers"}
    assert licences["signer"] == {"name": "ISC License"}
    needed = {each["ref"]: each.get("dependsOn", []) for each in json.loads(text)["dependencies"]}
    assert any(each.startswith("signer") for each in needed[own["bom-ref"]])


def test_licences_are_collected(unpacked):
    assert (unpacked / "licenses/signer-1.0/LICENSE").read_text() == "the licence of signer"
    attributions = (unpacked / "licenses/NOTICE.txt").read_text()
    assert "signer 1.0: ISC License; licenses/signer-1.0/LICENSE\n" in attributions
    assert "old-library 1.0: Apache 2.0; licenses/old-library-1.0/LICENSE\n" in attributions
    assert (unpacked / "licenses/old-library-1.0/LICENSE").read_text() == "the licence of edgerank"
    assert "model default: apache-2.0; made from edgerank-default\n" in attributions


def test_the_bundles_in_a_signed_pack_are_signed(unpacked, keys):
    bundle = unpacked / "models/default"
    assert succeed("verify", bundle, "--trust", keys[1]).startswith("signed")
    assert (bundle / "MODEL_CARD.md").exists()


def test_the_requirements_of_a_pack_are_a_lock_for_the_next(stubs, unpacked, tmp_path):
    lock = unpacked / "requirements/3.11-manylinux_2_28_x86_64.txt"
    again = make_pack(tmp_path / "again", stubs, lock=lock)
    with tarfile.open(again) as tar:
        text = tar.extractfile(f"requirements/{lock.name}").read()
    assert text == lock.read_bytes()


def test_a_lock_has_its_markers_compared_with_the_target(stubs, unpacked, tmp_path):
    both = (unpacked / "requirements").glob("*.txt")
    lines = {line for path in both for line in path.read_text().splitlines()}
    hashes: dict[str, list[str]] = {}
    for line in sorted(lines):
        pin, _, digest = line.partition(" ")
        hashes.setdefault(pin, []).append(digest)
    marked = {"old-library==1.0": " ; python_version < '3.12'"}
    for name in ("new-library==1.0", "below-the-new==1.0"):
        marked[name] = " ; python_version >= '3.12'"
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "# of all platforms\n"
        + "".join(
            f"{pin}{marked.get(pin, '')} \\\n    " + " \\\n    ".join(digests) + "\n"
            for pin, digests in hashes.items()
        )
    )
    path = make_pack(tmp_path / "both", stubs, X86, ARM, lock=lock)
    with tarfile.open(path) as tar:
        for target in (X86, ARM):
            name = f"requirements/{target.python}-{target.name}.txt"
            assert tar.extractfile(name).read() == (unpacked / name).read_bytes()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("signer", "not an exact version"),
        ("signer==1.0", "not an exact version with hashes"),
        ("-r other.txt", "not an exact version"),
        (f"signer==1.0 --hash=sha256:{'0' * 64}", "HASHES|hash"),
    ],
)
def test_a_lock_that_is_none_is_refused(stubs, tmp_path, line, reason):
    lock = tmp_path / "lock.txt"
    lock.write_text(f"{line}\n")
    with pytest.raises((InputError, PackError), match=reason):
        make_pack(tmp_path / "pack", stubs, lock=lock)
    assert not (tmp_path / "pack").exists()


def test_what_would_be_missing_on_the_target_is_noticed_when_packing(stubs, unpacked, tmp_path):
    lock = tmp_path / "lock.txt"
    text = (unpacked / "requirements/3.11-manylinux_2_28_x86_64.txt").read_text()
    lock.write_text("".join(f"{each}\n" for each in text.splitlines() if "signer" not in each))
    with pytest.raises(PackError, match=r"3\.11, .* needs signer, which is missing; .*--lock"):
        make_pack(tmp_path / "pack", stubs, lock=lock)


def test_a_platform_without_wheels_is_named(stubs, tmp_path):
    [target] = parse_platforms(["3.99"], ["manylinux2014_x86_64"])
    with pytest.raises(PackError, match=r"3\.99, manylinux_2_17_x86_64: No matching distrib"):
        make_pack(tmp_path / "pack", stubs, target)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--platform", "win_amd64"], "--platform: 'win_amd64' is not a platform"),
        (["--python", "3.9"], "--python: '3.9' is not a version"),
        (["--extra", "milk"], "--extra: 'milk' is unknown; there are sign, server"),
        (["--wheel", "milk.whl"], "--wheel: milk.whl is not a wheel"),
        (["--model", "../x=models"], "--model: '../x' is no name"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(stubs, tmp_path, options, reason):
    wheel = [] if "--wheel" in options else ["--wheel", stubs]
    assert fail("pack", tmp_path / "pack", *wheel, *options).startswith(reason)
    assert not (tmp_path / "pack").exists()


def test_the_wheel_of_another_version_is_refused(tmp_path):
    wheel = write_wheel(tmp_path, "edgerank", "9.9")
    assert "which packs" in fail("pack", tmp_path / "pack", "--wheel", wheel)


def test_an_altered_bundle_is_not_packed(stubs, tmp_path):
    bundle = tmp_path / "bundle"
    succeed("pack", tmp_path / "sound", "--wheel", stubs, "--platform", X86.name)
    bundle.mkdir()
    for path in DEFAULT_BUNDLE.iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    (bundle / "tokenizer.json").write_bytes(b" " * (bundle / "tokenizer.json").stat().st_size)
    from edgerank.airgap.pack import pack
    from edgerank.airgap.wheelhouse import Sources

    with pytest.raises(BundleError, match="altered"):
        pack(tmp_path / "pack", {"m": bundle}, [X86], Sources(("sign",), (stubs,)))
    assert not (tmp_path / "pack").exists()


def test_minisign_checks_a_pack_as_the_documentation_says(stubs, keys, tmp_path):
    if shutil.which("minisign") is None:
        pytest.skip("minisign is not installed")
    page = (ROOT / "docs/air-gapped.md").read_text()
    [recipe] = re.findall(r"(?:^    .*\n)+", page[page.index("A machine without") :], re.M)[:1]
    make_pack(tmp_path / "site.pack", stubs, key=keys[0])
    shutil.copy(keys[1], tmp_path / "site.key.pub")
    run = ["sh", "-ec", recipe]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Trusted comment: edgerank pack" in done.stdout
    assert (tmp_path / "site/install.py").exists()
    shutil.rmtree(tmp_path / "site")
    content = bytearray((tmp_path / "site.pack").read_bytes())
    content[1000] ^= 1
    (tmp_path / "site.pack").write_bytes(content)
    assert subprocess.run(run, cwd=tmp_path, capture_output=True).returncode != 0
    assert not (tmp_path / "site").exists()
