"""A bundle in several precisions: each is a variant as good as a bundle of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgerank import Reranker
from edgerank.bundle import read_bundle, verify_bundle
from quantize import quantize
from quantize.errors import QuantizeError
from quantize.recipe import PRECISIONS
from tests.support.bundles import only_variant
from tests.support.cli import succeed

QUERY = "who wrote dune?"
OF_ENCODERS = ("int8", "fp32", "int4")  # precisions
DOCUMENTS = ["Dune was written by Frank Herbert in 1965.", "Paris", "数は力 слово", ""]


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory, cross_encoder: Path) -> Path:
    """A directory with a bundle in two precisions, its reports, and the same apart."""
    work = tmp_path_factory.mktemp("several")
    quantize(
        cross_encoder,
        work / "bundle",
        precision=OF_ENCODERS,
        keep_fp32=["layers.0.dense"],
        report=work / "reports",
    )
    for precision in ("int8", "int4"):
        quantize(cross_encoder, work / precision, precision=precision, keep_fp32=["layers.0.dense"])
    quantize(cross_encoder, work / "fp32", precision="fp32")
    return work


@pytest.mark.parametrize("name", OF_ENCODERS)
def test_a_variant_scores_as_the_bundle_of_its_precision_alone(several, name):
    with Reranker(several / "bundle", variant=name) as reranker:
        assert reranker.variant.name == name
        scores = reranker.score(QUERY, DOCUMENTS)
    with Reranker(several / name) as alone:
        np.testing.assert_array_equal(scores, alone.score(QUERY, DOCUMENTS))


def test_the_variants_differ_and_the_first_is_preferred(several):
    scores = {
        name: Reranker(several / "bundle", variant=name).score(QUERY, DOCUMENTS)
        for name in ("int8", "int4", "fp32")
    }
    errors = [np.abs(scores[name] - scores["fp32"]).max() for name in ("int8", "int4")]
    assert 0 < errors[0] < errors[1]
    assert Reranker(several / "bundle").variant.name == "int8"


def test_each_variant_is_described_and_measured_as_it_is_alone(several):
    bundle = read_bundle(several / "bundle")
    assert [variant.name for variant in bundle.manifest.variants] == ["int8", "fp32", "int4"]
    for variant in bundle.manifest.variants:
        assert variant == only_variant(several / variant.name)
        assert variant.recipe.startswith(PRECISIONS[variant.precision])
        assert (variant.fidelity is None) == (variant.kept is None) == (variant.name == "fp32")


def test_the_files_are_those_of_the_variants_and_one_tokenizer(several):
    files = {path.name for path in (several / "bundle").iterdir()}
    graphs = {f"model.{name}.onnx{end}" for name in OF_ENCODERS for end in ("", ".data")}
    assert files == {"edgerank.json", "tokenizer.json", *graphs}
    assert {*verify_bundle(read_bundle(several / "bundle"))} == files - {"edgerank.json"}


def test_each_measured_variant_has_a_report(several):
    names = {path.name for path in (several / "reports").iterdir()}
    assert names == {
        f"report.{name}.{end}" for name in ("int8", "int4") for end in ("json", "html")
    }
    for name in ("int8", "int4"):
        report = json.loads((several / f"reports/report.{name}.json").read_bytes())
        fidelity = only_variant(several / name).fidelity
        assert (report["precision"], report["fidelity"]["pairs"]) == (name, fidelity.pairs)
        assert report["fidelity"]["mean_error"] == pytest.approx(fidelity.mean_error)


def test_a_variant_below_the_threshold_is_named_and_leaves_no_bundle(cross_encoder, tmp_path):
    with pytest.raises(QuantizeError, match=r"bundle: int4 is refused: Kendall tau is 0\."):
        quantize(cross_encoder, tmp_path / "bundle", precision=["fp32", "int4"], min_tau=1)
    assert not any(tmp_path.iterdir())


def test_the_command_line_takes_several_precisions(cross_encoder, tmp_path):
    options = ["--precision", "fp32", "--precision", "int8"]
    out = succeed("quantize", cross_encoder, "-o", tmp_path / "bundle", *options)
    assert "cross-encoder, fp32, int8, " in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("variant")] == [
        "fp32",
        "int8",
    ]
