"""What an attacker may do to a pack, each with the one line that refuses it.

The first table is of those who lack the key. The second is of a pack that the trusted key has
signed all the same: whoever packs may be deceived too. The third is of a pack that was unpacked.
Nothing is ever written.
"""

from __future__ import annotations

import copy
import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from edgerank import EdgerankError, InputError
from edgerank.airgap import archive
from edgerank.airgap.archive import unpack
from edgerank.airgap.contents import PackError
from edgerank.signing import open_key, sign
from tests.airgap.stubs import make_pack
from tests.support.cli import fail

WHEEL = "wheels/signer-1.0-py3-none-any.whl"
WEIGHTS = "models/default/model.int8.onnx.data"
MANIFEST_SIGNATURE = "manifest.json.minisig"
SIGNATURE = b"untrusted comment: "


@dataclass(frozen=True)
class Member:
    """A file in a pack, or something that should not be there."""

    name: str
    content: bytes = b""
    kind: bytes = tarfile.REGTYPE
    link: str = ""
    size: int | None = None  # what its header claims

    def write(self, file: io.BytesIO) -> None:
        header = tarfile.TarInfo(self.name)
        header.type, header.linkname = self.kind, self.link
        header.size = len(self.content) if self.size is None else self.size
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.write(self.content + b"\0" * (-len(self.content) % tarfile.BLOCKSIZE))


Members = list[Member]


@pytest.fixture(scope="module")
def sound(stubs, keys, tmp_path_factory) -> Path:
    return make_pack(tmp_path_factory.mktemp("sound") / "pack", stubs, key=keys[0])


@pytest.fixture(scope="module")
def members(sound) -> Members:
    with tarfile.open(sound) as tar:
        return [Member(each.name, tar.extractfile(each).read()) for each in tar]


def refusal(path: Path, trust: Path) -> str:
    """Return why a pack is refused, once nothing has been written."""
    before = sorted(path.parent.iterdir())
    with pytest.raises((PackError, InputError)) as caught:
        unpack(path, trust, path.parent / "out" / "unpacked")
    assert sorted(path.parent.iterdir()) == before
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return message


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def without_signature(content: bytes) -> bytes:
    return content[: content.rindex(SIGNATURE)]


def end_of(content: bytes) -> bytes:
    return content[content.rindex(SIGNATURE) :]


# Without the key


def altered_wheel(content: bytes) -> bytes:
    return flipped(content, content.index(b"the licence of signer"))


def altered_weights(content: bytes) -> bytes:
    return flipped(content, content.index(WEIGHTS.encode()) + 1000)


def altered_comment(content: bytes) -> bytes:
    return content.replace(b"trusted comment: edgerank pack", b"trusted comment: edgerank cake")


ALTERED = "it was altered after it was signed, or the signature is another file's"
WITHOUT_THE_KEY: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "altered wheel": (altered_wheel, ALTERED),
    "altered weights": (altered_weights, ALTERED),
    "altered manifest": (lambda c: flipped(c, 1000), ALTERED),
    "altered comment": (altered_comment, ALTERED),
    "something added": (lambda c: without_signature(c) + b"\0" * 512 + end_of(c), ALTERED),
    "missing signature": (without_signature, "it is not signed, or not whole"),
    "broken signature": (lambda c: c[:-30], "its signature is malformed"),
    "truncated": (lambda c: c[: len(c) // 2], "it is not signed, or not whole"),
    "empty": (lambda c: b"", "it is not signed, or not whole"),
    "a signature alone": (end_of, ALTERED),
}


@pytest.mark.parametrize("attack", WITHOUT_THE_KEY)
def test_a_pack_that_was_altered_is_refused(attack, sound, keys, tmp_path):
    change, reason = WITHOUT_THE_KEY[attack]
    content = change(sound.read_bytes())
    assert content != sound.read_bytes()
    path = tmp_path / "pack"
    path.write_bytes(content)
    assert reason in refusal(path, keys[1])


def test_a_pack_of_another_key_is_refused(sound, other_keys, tmp_path):
    path = shutil.copy(sound, tmp_path / "pack")
    assert "it is signed by another key than the trusted one" in refusal(path, other_keys[1])


def test_a_refusal_is_one_line_on_stderr(sound, other_keys, tmp_path):
    reason = fail("unpack", sound, "--trust", other_keys[1], "-o", tmp_path / "out")
    assert reason == f"{sound}: it is signed by another key than the trusted one"
    assert not (tmp_path / "out").exists()


def test_nothing_is_parsed_before_the_signature_is_checked(
    sound, other_keys, tmp_path, monkeypatch
):
    monkeypatch.setattr(archive.tarfile, "open", lambda **_: pytest.fail("tar was opened"))
    path = shutil.copy(sound, tmp_path / "pack")
    assert "another key" in refusal(path, other_keys[1])


# With the key


def change(name: str, **changes: object) -> Callable[[Members], Members]:
    """Change the file of a name."""
    return lambda members: [
        replace(each, **changes) if each.name == name else each for each in members
    ]


def add(*added: Member) -> Callable[[Members], Members]:
    return lambda members: [*members, *added]


def flip(name: str) -> Callable[[Members], Members]:
    return lambda members: [
        replace(each, content=flipped(each.content, 0)) if each.name == name else each
        for each in members
    ]


def edit_manifest(edit: Callable[[dict], object]) -> Callable[[Members], Members]:
    def apply(members: Members) -> Members:
        manifest = json.loads(members[0].content)
        edit(manifest)
        return [replace(members[0], content=json.dumps(manifest).encode()), *members[1:]]

    return apply


def swap_signature(members: Members) -> Members:
    """Give the manifest the signature of the bundle in the pack, which the same key has made."""
    [other] = [each for each in members if each.name == "models/default/edgerank.json.minisig"]
    return change(MANIFEST_SIGNATURE, content=other.content)(members)


def drop(name: str) -> Callable[[Members], Members]:
    return lambda members: [each for each in members if each.name != name]


OUTSIDE = "points outside the pack"
NOT_PLAIN = "is not a plain file"
WITH_THE_KEY: dict[str, tuple[Callable[[Members], Members], str]] = {
    "altered wheel": (flip(WHEEL), f"'{WHEEL}' was altered: its sha256 is not the manifest's"),
    "altered weights": (flip(WEIGHTS), f"'{WEIGHTS}' was altered: its sha256"),
    "altered installer": (flip("install.py"), "'install.py' was altered"),
    "longer wheel": (change(WHEEL, content=b"x" * 9), "has 9 bytes instead of"),
    "missing wheel": (drop(WHEEL), f"'{WHEEL}' is missing"),
    "added wheel": (add(Member("wheels/evil.whl", b"x")), "is not in manifest.json"),
    "swapped manifest": (
        edit_manifest(lambda m: m["files"].pop("sbom.cdx.json")),
        "'sbom.cdx.json' is not in manifest.json",
    ),
    "manifest without a wheel": (
        edit_manifest(lambda m: m["files"].pop(WHEEL)),
        f"'{WHEEL}' is not among its files",
    ),
    "manifest of another pack": (
        edit_manifest(lambda m: m["files"][WHEEL].update(sha256="0" * 64)),
        "was altered: its sha256 is not the manifest's",
    ),
    "manifest that is not JSON": (change("manifest.json", content=b"{"), "manifest.json: "),
    "manifest of another format": (
        edit_manifest(lambda m: m.update(format_version=99)),
        "it has format 99",
    ),
    "no manifest": (drop("manifest.json"), "manifest.json does not come first"),
    "manifest without its signature": (drop(MANIFEST_SIGNATURE), f"'{MANIFEST_SIGNATURE}' is miss"),
    "manifest signed by nobody": (
        change(MANIFEST_SIGNATURE, content=b"untrusted comment: none\n"),
        "manifest.json: its signature is malformed",
    ),
    "manifest with the signature of another": (
        lambda members: swap_signature(members),
        "manifest.json: it was altered after it was signed",
    ),
    "lists that are not there": (
        edit_manifest(lambda m: m["targets"][0].update(installed="installed/none")),
        "'installed/none' is not among its files",
    ),
    "traversal": (add(Member("../evil")), OUTSIDE),
    "traversal inside": (add(Member("models/../../evil")), OUTSIDE),
    "absolute path": (add(Member("/etc/evil")), OUTSIDE),
    "drive": (add(Member("C:evil")), OUTSIDE),
    "backslash": (add(Member("..\\evil")), OUTSIDE),
    "dot": (add(Member("./install.py")), OUTSIDE),
    "escape sequence": (add(Member("evil\x1b[2J")), OUTSIDE),
    "symbolic link": (add(Member("models/x", kind=tarfile.SYMTYPE, link="/etc")), NOT_PLAIN),
    "hard link": (add(Member("models/x", kind=tarfile.LNKTYPE, link="install.py")), NOT_PLAIN),
    "directory": (add(Member("models/x", kind=tarfile.DIRTYPE)), NOT_PLAIN),
    "device": (add(Member("models/x", kind=tarfile.CHRTYPE)), NOT_PLAIN),
    "pipe": (add(Member("models/x", kind=tarfile.FIFOTYPE)), NOT_PLAIN),
    "sparse bomb": (add(Member("models/x", kind=tarfile.GNUTYPE_SPARSE)), NOT_PLAIN),
    "bomb": (change(WEIGHTS, size=1 << 40), "it claims more than it can hold"),
    "duplicate": (add(Member("install.py", b"evil")), "'install.py' is there twice"),
    "duplicate in other case": (add(Member("INSTALL.py", b"evil")), "is there twice"),
    "duplicate in other form": (
        add(Member("\u00e9"), Member("e\u0301")),
        "is there twice",
    ),
    "file and directory": (add(Member("install.py/x")), "is a file and a directory"),
}


def write_signed(path: Path, tar: bytes, key: Path) -> None:
    path.write_bytes(tar + sign(tar, open_key(key, lambda: ""), "edgerank pack"))


@pytest.mark.parametrize("attack", WITH_THE_KEY)
def test_a_pack_that_holds_what_it_must_not_is_refused_though_signed(
    attack, members, keys, tmp_path
):
    apply, reason = WITH_THE_KEY[attack]
    changed = apply(copy.copy(members))
    assert changed != members
    signature = [each.content for each in changed if each.name == MANIFEST_SIGNATURE]
    if signature == [each.content for each in members if each.name == MANIFEST_SIGNATURE]:
        again = sign(changed[0].content, open_key(keys[0], lambda: ""), "edgerank pack's manifest")
        changed = change(MANIFEST_SIGNATURE, content=again)(changed)
    file = io.BytesIO()
    for member in changed:
        member.write(file)
    file.write(b"\0" * 2 * tarfile.BLOCKSIZE)
    path = tmp_path / "pack"
    write_signed(path, file.getvalue(), keys[0])
    assert reason in refusal(path, keys[1])


def test_what_the_attacks_are_made_of_is_unpacked_unchanged(members, keys, tmp_path):
    file = io.BytesIO()
    for member in members:
        member.write(file)
    file.write(b"\0" * 2 * tarfile.BLOCKSIZE)
    write_signed(tmp_path / "pack", file.getvalue(), keys[0])
    unpack(tmp_path / "pack", keys[1], tmp_path / "out")
    assert (tmp_path / "out" / WHEEL).exists()


@pytest.mark.parametrize("content", [b"no tar" * 200, b"\x1f\x8b\x08" + b"\0" * 1021])
def test_what_is_no_tar_or_a_compressed_one_is_refused_though_signed(content, keys, tmp_path):
    content += b"\0" * (-len(content) % tarfile.BLOCKSIZE)
    write_signed(tmp_path / "pack", content, keys[0])
    assert "not a pack" in refusal(tmp_path / "pack", keys[1])


def test_an_output_that_exists_or_has_no_room_is_left_alone(sound, keys, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="it exists"):
        unpack(sound, keys[1], tmp_path / "out")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(InputError, match="10 are free"):
        unpack(sound, keys[1], tmp_path / "elsewhere")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


# Once it is unpacked


def link_to_a_copy(path: Path) -> None:
    target = path.with_name("elsewhere")
    shutil.move(path, target)
    shutil.move(target, path.parents[2] / "elsewhere")
    path.symlink_to(path.parents[2] / "elsewhere")


UNPACKED: dict[str, tuple[Callable[[Path], object], str]] = {
    "altered wheel": (
        lambda d: (d / WHEEL).write_bytes(flipped((d / WHEEL).read_bytes(), 0)),
        f"{WHEEL} was altered",
    ),
    "altered weights": (
        lambda d: (d / WEIGHTS).write_bytes(flipped((d / WEIGHTS).read_bytes(), 0)),
        f"{WEIGHTS} was altered",
    ),
    "missing wheel": (lambda d: (d / WHEEL).unlink(), f"{WHEEL} is missing"),
    "added wheel": (lambda d: (d / "wheels/evil.whl").touch(), "evil.whl is not in manifest.json"),
    "symbolic link": (lambda d: link_to_a_copy(d / WHEEL), f"{WHEEL} was altered"),
    "broken manifest": (lambda d: (d / "manifest.json").write_text("{"), "manifest.json: "),
}


@pytest.fixture
def unpacked(sound, keys, tmp_path) -> Path:
    unpack(sound, keys[1], tmp_path / "parent/pack")
    return tmp_path / "parent/pack"


def install(unpacked: Path, target: Path) -> str:
    """Run the installer, which must fail with one line and write nothing; return the line."""
    command = [sys.executable, "-I", unpacked / "install.py", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert not target.exists()
    [line] = done.stderr.splitlines()
    return line


@pytest.mark.parametrize("attack", UNPACKED)
def test_the_installer_refuses_what_was_altered_since(attack, unpacked, tmp_path):
    harm, reason = UNPACKED[attack]
    harm(unpacked)
    assert reason in install(unpacked, tmp_path / "target")


def test_the_installer_refuses_a_machine_that_the_pack_is_not_for(stubs, keys, tmp_path):
    from tests.airgap.stubs import ARM

    make_pack(tmp_path / "pack", stubs, ARM, key=keys[0])
    unpack(tmp_path / "pack", keys[1], tmp_path / "out")
    line = install(tmp_path / "out", tmp_path / "target")
    assert line.endswith("the pack is for Python 3.12 manylinux_2_28_aarch64")


def test_an_installation_that_fails_leaves_nothing(own_pack, keys, tmp_path, monkeypatch):
    unpack(own_pack, keys[1], tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nonexistent")  # the command that was installed finds no tools
        line = install(tmp_path / "out", tmp_path / "deep" / "target")
    assert line.startswith("install.py: error: edgerank: ")
    (tmp_path / "there").mkdir()
    done = subprocess.run(
        [sys.executable, tmp_path / "out/install.py", tmp_path / "there"], capture_output=True
    )
    assert b"exists; name a new directory" in done.stderr


def test_every_refusal_is_an_error_of_edgerank():
    assert issubclass(PackError, EdgerankError)
