"""A pack has the variants of bundles that its site can run: by default none for a GPU."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edgerank import InputError, Reranker
from edgerank.airgap.archive import unpack
from edgerank.airgap.pack import pack
from edgerank.airgap.wheelhouse import Sources
from edgerank.bundle import (
    DEFAULT_BUNDLE,
    describe_files,
    read_bundle,
    sign_bundle,
    verify_bundle,
    write_manifest,
)
from edgerank.manifest import CUDA_PROVIDER, Manifest, Needs
from edgerank.signing import open_key
from tests.airgap.stubs import X86
from tests.support.cli import fail

GRAPH = "model.cuda-fp16.onnx"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory, keys) -> Path:
    """The bundle in the package with a variant for a GPU before its own, signed."""
    directory = tmp_path_factory.mktemp("bundle") / "both"
    directory.mkdir()
    original = read_bundle(DEFAULT_BUNDLE).manifest
    for name in original.files:
        (directory / name).write_bytes((DEFAULT_BUNDLE / name).read_bytes())
    (directory / GRAPH).write_bytes(b"a graph")
    (directory / f"{GRAPH}.data").write_bytes(b"weights")
    [cpu] = original.variants
    gpu = msgspec.structs.replace(
        cpu,
        name="cuda-fp16",
        precision="fp16",
        provider=CUDA_PROVIDER,
        graph=GRAPH,
        weights=(f"{GRAPH}.data",),
        needs=Needs(gpu=True),
    )
    manifest = msgspec.structs.replace(
        original, variants=(gpu, cpu), files=describe_files(directory)
    )
    write_manifest(directory, manifest)
    sign_bundle(read_bundle(directory), open_key(keys[0], lambda: ""))
    return directory


def packed(bundle: Path, stubs: Path, keys, directory: Path, *variants: str) -> Path:
    """Pack a bundle, unpack it, and return where it lies."""
    secret = open_key(keys[0], lambda: "")
    sources = Sources(extras=("sign",), wheels=(stubs,))
    pack(directory / "pack", {"both": bundle}, (X86,), sources, secret, variants)
    unpack(directory / "pack", keys[1], directory / "out")
    return directory / "out" / "models" / "both"


def names_of(manifest: Manifest) -> list[str]:
    return [variant.name for variant in manifest.variants]


def test_variants_for_a_gpu_stay_out_and_the_rest_opens_verifies_and_is_signed(
    bundle, stubs, keys, tmp_path
):
    made = packed(bundle, stubs, keys, tmp_path)
    opened = read_bundle(made, trust=keys[1])
    assert names_of(opened.manifest) == ["int8"]
    files = {path.name for path in made.iterdir()}
    assert not any("cuda" in name for name in files)
    assert {*verify_bundle(opened)} == files - {"edgerank.json", "edgerank.json.minisig"}
    assert {*opened.manifest.files} == {*read_bundle(DEFAULT_BUNDLE).manifest.files}
    with Reranker(made, trust=keys[1]) as reranker, Reranker() as original:
        texts = ["Dune, by Frank Herbert.", "Paris"]
        assert reranker.score("who?", texts).tolist() == original.score("who?", texts).tolist()
    assert names_of(read_bundle(bundle, trust=keys[1]).manifest) == ["cuda-fp16", "int8"]


@pytest.mark.parametrize("variants", [("cuda-fp16",), ("int8", "cuda-fp16")])
def test_variants_that_are_asked_for_are_packed(bundle, stubs, keys, tmp_path, variants):
    made = packed(bundle, stubs, keys, tmp_path, *variants)
    opened = read_bundle(made, trust=keys[1])
    assert {*names_of(opened.manifest)} == {*variants}
    assert (made / f"{GRAPH}.data").read_bytes() == b"weights"
    [*verify_bundle(opened)]


def test_a_bundle_that_is_packed_whole_keeps_its_manifest(bundle, stubs, keys, tmp_path):
    made = packed(bundle, stubs, keys, tmp_path, "int8", "cuda-fp16")
    assert (made / "edgerank.json").read_bytes() == (bundle / "edgerank.json").read_bytes()


def test_what_no_bundle_has_is_refused(bundle, stubs, tmp_path):
    sources = Sources(extras=("sign",), wheels=(stubs,))
    both = {"both": bundle, "default": DEFAULT_BUNDLE}
    for variants, complaint in (
        (("cuda-fp16",), r"default has none of cuda-fp16; choose among int8"),
        (("int8", "int5"), r"int5: no bundle has it"),
    ):
        with pytest.raises(InputError, match=complaint):
            pack(tmp_path / "pack", both, (X86,), sources, None, variants)
    assert "int5: no bundle has it" in fail(
        "pack", tmp_path / "pack", "--variant", "int5", "--variant", "int8"
    )
    assert not any(tmp_path.iterdir())


def test_a_bundle_for_gpus_alone_must_be_asked_for(bundle, stubs, keys, tmp_path):
    alone = packed(bundle, stubs, keys, tmp_path, "cuda-fp16")
    sources = Sources(extras=("sign",), wheels=(stubs,))
    with pytest.raises(InputError, match=r"only variants for a GPU; choose among cuda-fp16"):
        pack(tmp_path / "again", {"alone": alone}, (X86,), sources)
    assert not (tmp_path / "again").exists()


def test_a_signature_of_another_manifest_is_not_packed(bundle, stubs, tmp_path):
    import tarfile

    pack(tmp_path / "pack", {"both": bundle}, (X86,), Sources(extras=("sign",), wheels=(stubs,)))
    with tarfile.open(tmp_path / "pack") as tar:
        assert "models/both/edgerank.json.minisig" not in tar.getnames()
