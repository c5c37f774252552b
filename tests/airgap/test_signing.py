"""Bundles are signed and checked with keys of minisign's format."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from edgerank import BundleError, EdgerankError, Reranker
from edgerank.bundle import DEFAULT_BUNDLE, read_bundle
from edgerank.serving.models import Models, ModelSettings
from tests.support.cli import fail, succeed

WEIGHTS = "model.int8.onnx.data"
SIGNATURE = "edgerank.json.minisig"


@pytest.fixture
def bundle(tmp_path, keys) -> Path:
    """A bundle that is signed."""
    copy = shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle")
    assert succeed("sign", copy, "--key", keys[0]) == f"signed  {copy / SIGNATURE}\n"
    return copy


def edit_manifest(bundle: Path) -> None:
    path = bundle / "edgerank.json"
    manifest = json.loads(path.read_bytes())
    path.write_text(json.dumps({**manifest, "max_length": 128}))


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_a_secret_key_is_for_its_owner_only_and_is_never_replaced(tmp_path):
    key, public = tmp_path / "site.key", tmp_path / "site.key.pub"
    succeed("keygen", key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    before = key.read_bytes(), public.read_bytes()
    assert fail("keygen", key) == f"{key}: it exists; a key is not replaced"
    assert (key.read_bytes(), public.read_bytes()) == before


def test_a_signed_bundle_is_opened_and_ranks(bundle, keys, tmp_path):
    with Reranker(bundle, trust=keys[1], threads=1) as reranker:
        scores = reranker.score("who wrote dune?", ["Frank Herbert wrote Dune.", "Paris"])
    assert scores[0] > scores[1]
    assert succeed("verify", bundle, "--trust", keys[1]).startswith("signed  edgerank.json\nintact")
    (tmp_path / "documents").write_text("Paris\nDune\n")
    assert succeed("rerank", "dune", tmp_path / "documents", "-m", bundle, "--trust", keys[1])


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda b: (b / SIGNATURE).unlink(), "not signed: edgerank.json.minisig is missing"),
        (lambda b: (b / SIGNATURE).write_bytes(b"\xff" * 9000), "its signature is malformed"),
        (edit_manifest, "altered after it was signed"),
        (lambda b: flip_last_byte(b / WEIGHTS), "altered: its sha256 is not the manifest's"),
        (lambda b: flip_last_byte(b / "tokenizer.json"), "altered: its sha256 is not"),
    ],
    ids=["no signature", "broken signature", "manifest", "weights", "tokenizer"],
)
def test_an_unsigned_or_altered_bundle_is_refused(bundle, keys, harm, reason):
    harm(bundle)
    with pytest.raises(BundleError, match=reason):
        Reranker(bundle, trust=keys[1], threads=1)


def test_the_signature_of_another_key_is_refused(bundle, keys, other_keys):
    key, public = other_keys
    with pytest.raises(BundleError, match="signed by another key"):
        Reranker(bundle, trust=public)
    succeed("sign", bundle, "--key", key)  # replaces the signature
    assert "signed by another key" in fail("verify", bundle, "--trust", keys[1])


def test_a_signature_is_checked_before_the_manifest_is_read(bundle, keys):
    (bundle / "edgerank.json").write_text("{")
    with pytest.raises(BundleError, match="altered after it was signed"):
        read_bundle(bundle, keys[1])


def test_an_altered_bundle_is_not_signed(bundle, keys):
    (bundle / SIGNATURE).unlink()
    flip_last_byte(bundle / WEIGHTS)
    assert "altered" in fail("sign", bundle, "--key", keys[0])
    assert not (bundle / SIGNATURE).exists()


def test_what_is_no_key_is_named(bundle, tmp_path):
    path = tmp_path / "key"
    path.write_text("no key")
    assert "--trust: " in fail("verify", bundle, "--trust", path)
    assert "not a secret key" in fail("sign", bundle, "--key", path)
    assert "No such file" in fail("sign", bundle, "--key", tmp_path / "missing")


def test_a_key_with_a_password_signs_with_it_alone(bundle, tmp_path):
    key = tmp_path / "locked.key"
    succeed("keygen", key, "--password", EDGERANK_KEY_PASSWORD="horse")
    assert "wrong password" in fail("sign", bundle, "--key", key, EDGERANK_KEY_PASSWORD="cow")
    succeed("sign", bundle, "--key", key, EDGERANK_KEY_PASSWORD="horse")
    assert "signed" in succeed("verify", bundle, "--trust", f"{key}.pub")


def test_a_server_keeps_its_model_when_the_new_one_is_not_signed(bundle, keys):
    models = Models({"m": bundle}, ModelSettings(threads=1, warmup=False, trust=keys[1]))
    models.load()
    digest = models.get("m").digest
    edit_manifest(bundle)
    models.reload()
    assert models.get("m").digest == digest
    succeed("sign", bundle, "--key", keys[0])
    models.reload()
    assert models.get("m").digest != digest


def test_a_server_does_not_start_on_an_unsigned_bundle(keys):
    with pytest.raises(EdgerankError, match="not signed"):
        Models({"m": DEFAULT_BUNDLE}, ModelSettings(trust=keys[1])).load()


def test_minisign_itself_accepts_the_signature_and_the_other_way_round(bundle, keys, tmp_path):
    tool = shutil.which("minisign")
    if tool is None:
        pytest.skip("minisign is not installed")
    manifest = bundle / "edgerank.json"
    done = subprocess.run([tool, "-Vm", manifest, "-p", keys[1]], capture_output=True)
    assert done.returncode == 0, done.stderr
    theirs = tmp_path / "theirs.key", tmp_path / "theirs.pub"
    subprocess.run([tool, "-G", "-W", "-s", theirs[0], "-p", theirs[1]], check=True)
    subprocess.run([tool, "-Sm", manifest, "-s", theirs[0]], check=True)
    assert succeed("verify", bundle, "--trust", theirs[1]).startswith("signed")
