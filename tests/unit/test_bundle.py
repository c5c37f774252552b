"""A damaged bundle is refused with a BundleError that names the culprit."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgerank import BundleError, Reranker
from edgerank.bundle import DEFAULT_BUNDLE, read_bundle, verify_bundle
from edgerank.manifest import Manifest

MODEL = "model.int8.onnx"
WEIGHTS = "model.int8.onnx.data"
TOKENIZER = "tokenizer.json"
TOKEN_WEIGHTS = "token_weights.npy"
FIELDS = [field.encode_name for field in msgspec.structs.fields(Manifest)]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy of the bundle in the package, to be damaged."""
    ignored = shutil.ignore_patterns("*.md")
    return shutil.copytree(DEFAULT_BUNDLE, tmp_path / "bundle", ignore=ignored)


def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest in place."""
    path = bundle / "edgerank.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))


def overwrite(bundle: Path, name: str, content: bytes) -> None:
    """Give a file other content and the manifest the size and hash that belong to it."""
    (bundle / name).write_bytes(content)
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    edit(bundle, lambda manifest: manifest["files"].update({name: entry}))


def flip_byte(path: Path, where: float) -> None:
    """Flip one bit; ``where`` is from 0, the first byte, to 1, the last."""
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def assert_refused(bundle: Path, match: str, **options: Any) -> None:
    with pytest.raises(BundleError, match=match):
        Reranker(bundle, threads=1, **options)


def test_a_sound_bundle_is_found_intact(bundle):
    assert sorted(verify_bundle(read_bundle(bundle))) == [
        MODEL,
        WEIGHTS,
        TOKEN_WEIGHTS,
        TOKENIZER,
    ]
    scores = Reranker(bundle, threads=1, verify=True).score("a query", ["one", "two"])
    assert np.isfinite(scores).all()


def test_files_that_the_manifest_does_not_name_are_ignored(bundle):
    (bundle / ".DS_Store").write_bytes(b"\0")
    Reranker(bundle, threads=1, verify=True)


@pytest.mark.parametrize("where", [0, 0.5, 1])
@pytest.mark.parametrize("name", [WEIGHTS, MODEL, TOKENIZER])
def test_one_flipped_bit_is_found_and_its_file_named(bundle, name, where):
    flip_byte(bundle / name, where)
    culprit = re.escape(str(bundle / name)) + ":.*sha256"
    assert_refused(bundle, culprit, verify=True)
    with pytest.raises(BundleError, match=culprit):
        list(verify_bundle(read_bundle(bundle)))


def test_the_files_before_an_altered_one_are_reported_intact(bundle):
    flip_byte(bundle / TOKENIZER, 0.5)
    names = verify_bundle(read_bundle(bundle))
    assert [next(names) for _ in range(3)] == [MODEL, WEIGHTS, TOKEN_WEIGHTS]
    with pytest.raises(BundleError, match=TOKENIZER):
        next(names)


@pytest.mark.parametrize("name", [WEIGHTS, MODEL, TOKENIZER])
def test_a_truncated_file_is_found_without_hashing(bundle, name):
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1])
    assert_refused(bundle, f"{name}: {len(content) - 1} bytes instead of {len(content)}")


@pytest.mark.parametrize("name", [WEIGHTS, MODEL, TOKENIZER])
def test_a_file_that_grew_is_found_without_hashing(bundle, name):
    with (bundle / name).open("ab") as file:
        file.write(b"\0")
    assert_refused(bundle, f"{name}: .*bytes instead of")


@pytest.mark.parametrize("name", [WEIGHTS, MODEL, TOKENIZER, "edgerank.json"])
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    assert_refused(bundle, f"{name}: No such file")


@pytest.mark.parametrize("name", [WEIGHTS, MODEL, TOKENIZER])
def test_a_directory_in_the_place_of_a_file_is_refused(bundle, name):
    (bundle / name).unlink()
    (bundle / name).mkdir()
    size = (bundle / name).stat().st_size
    edit(bundle, lambda manifest: manifest["files"][name].update(size=size))
    assert_refused(bundle, f"{name}: not a file")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc/self/mem")
def test_a_file_whose_reading_fails_is_named(bundle):
    (bundle / TOKENIZER).unlink()
    (bundle / TOKENIZER).symlink_to("/proc/self/mem")  # opens, but its first byte cannot be read
    edit(bundle, lambda manifest: manifest["files"][TOKENIZER].update(size=0))
    assert_refused(bundle, f"{TOKENIZER}: Input/output error", verify=True)


def test_a_missing_directory_is_named(tmp_path):
    assert_refused(tmp_path / "nowhere", "nowhere.*No such file")


def test_a_file_is_no_bundle(bundle):
    assert_refused(bundle / MODEL, f"{MODEL}.*Not a directory")


def test_a_checkpoint_is_no_bundle(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    assert_refused(tmp_path, "edgerank.json.*`edgerank quantize`")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\0" * 64,
        "{}".encode("utf-16"),
        b'{"format_version": 1} trailing',
        b'{"format_version": 3, "family": "\xff"}',
        b'{"format_version": 1, "family": "\\ud800"}',
        b'{"format_version": 1, "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda content: repr(content[:40]),
)
def test_a_manifest_that_is_not_json_is_refused(bundle, content):
    (bundle / "edgerank.json").write_bytes(content)
    assert_refused(bundle, r"edgerank\.json: not a valid manifest")


@pytest.mark.parametrize("field", FIELDS)
def test_a_manifest_without_a_field_is_refused_and_the_field_named(bundle, field):
    edit(bundle, lambda manifest: manifest.pop(field))
    assert_refused(bundle, rf"edgerank\.json: .*{field}")


def test_a_manifest_with_a_field_of_its_own_is_refused(bundle):
    edit(bundle, lambda manifest: manifest.update(surprise=1))
    assert_refused(bundle, r"edgerank\.json: .*surprise")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format_version", "1"),
        ("format_version", None),
        ("format_version", 0),
        ("format_version", -1),
        ("source", "someone/some-model"),
        ("max_length", "512"),
        ("max_length", 5.5),
        ("max_length", 0),
        ("max_length", -5),
        ("max_length", 10**9),
        ("prompt", []),
        ("prompt", {"query": [], "document": []}),
        ("prompt", {"query": [{"text": "{query}"}], "document": [{"text": "no placeholder"}]}),
        ("prompt", {"query": [{"text": "no placeholder"}], "document": [{"text": "{document}"}]}),
        ("truncation", {"rule": "middle", "reserved": 1}),
        ("truncation", {"rule": "document", "reserved": 1, "query_share": [3, 0]}),
        ("scoring", {"rule": "votes"}),
        ("scoring", {"rule": "logit", "activation": "relu"}),
        ("variants", []),
        ("variants", [{"name": "int8"}]),
        ("tokenizer", 1),
        ("files", [MODEL]),
        ("files", {MODEL: 5}),
        ("files", {MODEL: {"size": "5", "sha256": ""}}),
    ],
    ids=str,
)
def test_a_manifest_with_an_impossible_value_is_refused_and_the_field_named(bundle, field, value):
    edit(bundle, lambda manifest: manifest.update({field: value}))
    assert_refused(bundle, rf"edgerank\.json: .*{field}")


@pytest.mark.parametrize("version", [4, 5, 10**30])
def test_a_newer_format_asks_for_an_upgrade_whatever_else_it_holds(bundle, version):
    newer = {"format_version": version, "layout": ["nothing", "known"], "files": 5}
    (bundle / "edgerank.json").write_text(json.dumps(newer))
    assert_refused(bundle, rf"edgerank\.json: .*format {version}.*upgrade edgerank")


def test_an_older_format_asks_to_quantize_again(bundle):
    edit(bundle, lambda manifest: manifest.update(format_version=1))
    assert_refused(bundle, r"edgerank\.json: .*format 1.*quantize the model again")


def name_a_file(bundle: Path, role: str, name: str) -> None:
    """Give the tokenizer, or the graph or the weights of the first variant, another name."""

    def change(manifest: dict[str, Any]) -> None:
        if role == "tokenizer":
            manifest["tokenizer"] = name
        else:
            manifest["variants"][0][role] = [name] if role == "weights" else name

    edit(bundle, change)


@pytest.mark.parametrize("role", ["graph", "weights", "tokenizer", None])
@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/b", "./x", "a/../x", "..\\x", "a\\b", "..", ".", "", "a\0b", "x/"],
)
def test_a_name_that_points_outside_is_refused_even_if_a_file_is_there(bundle, name, role):
    for place in ("../x", "x", "a/b", "..\\x", "a\\b"):
        (bundle / place).parent.mkdir(exist_ok=True)
        (bundle / place).write_bytes(b"content")
    found = bundle / name if "\0" not in name else bundle / "x"
    content = found.read_bytes() if found.is_file() else b""
    entry = {"size": found.stat().st_size, "sha256": hashlib.sha256(content).hexdigest()}
    edit(bundle, lambda manifest: manifest["files"].update({name: entry}))
    if role is not None:
        name_a_file(bundle, role, name)
    assert_refused(bundle, rf"edgerank\.json: {re.escape(repr(name))}")


@pytest.mark.parametrize("role", ["graph", "weights", "tokenizer"])
def test_the_graph_and_the_tokenizer_must_be_among_the_files(bundle, role):
    (bundle / "other").write_bytes((bundle / TOKENIZER).read_bytes())
    name_a_file(bundle, role, "other")
    assert_refused(bundle, r"edgerank\.json: .*'other' is not among the files")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 5000,
        b"{}",
        b"[]",
        b'{"version": "1.0", "model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
    ],
    ids=lambda content: repr(content[:20]),
)
def test_a_tokenizer_that_cannot_be_read_is_refused_though_its_hash_is_right(bundle, content):
    overwrite(bundle, TOKENIZER, content)
    assert_refused(bundle, rf"{TOKENIZER}: not a fast tokenizer", verify=True)


@pytest.mark.parametrize("kind", ["garbage", "empty", "half", "another file"])
def test_a_graph_that_onnx_runtime_cannot_load_is_refused_though_its_hash_is_right(bundle, kind):
    graph = (bundle / MODEL).read_bytes()
    content = {
        "garbage": b"\xff" * len(graph),
        "empty": b"",
        "half": graph[: len(graph) // 2],
        "another file": (bundle / TOKENIZER).read_bytes(),
    }
    overwrite(bundle, MODEL, content[kind])
    assert_refused(bundle, f"{re.escape(str(bundle / MODEL))}: .*cannot load", verify=True)


def test_a_graph_without_its_weights_is_refused_though_the_manifest_names_none(bundle):
    (bundle / WEIGHTS).unlink()
    edit(bundle, lambda manifest: manifest["files"].pop(WEIGHTS))
    edit(bundle, lambda manifest: manifest["variants"][0].update(weights=[]))
    assert_refused(bundle, f"{re.escape(str(bundle / MODEL))}: .*cannot load", verify=True)


def test_weights_that_are_too_short_for_the_graph_are_refused_though_their_hash_is_right(bundle):
    content = (bundle / WEIGHTS).read_bytes()
    overwrite(bundle, WEIGHTS, content[: len(content) // 2])
    assert_refused(bundle, f"{re.escape(str(bundle / MODEL))}: .*cannot load", verify=True)


def test_a_graph_that_the_manifest_does_not_describe_is_refused(bundle):
    edit(bundle, lambda manifest: manifest["scoring"].update(rule="cosine"))
    assert_refused(bundle, "model.int8.onnx: not the graph that the manifest describes")


def test_two_variants_of_one_name_are_refused(bundle):
    edit(bundle, lambda manifest: manifest["variants"].append(manifest["variants"][0]))
    assert_refused(bundle, r"edgerank\.json: .*variants must be .* a name of its own")
