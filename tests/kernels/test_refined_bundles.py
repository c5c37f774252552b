"""Bundles in which some rows are rounded in two terms, or all: their bits, and what it brings.

Beside ``test_bundles.py``, whose int8 bundles are made without steps.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgerank import Reranker
from edgerank.bundle import read_bundle
from quantize import quantize
from quantize.recipe import STEPS, RecipeStep
from tests.kernels.test_bundles import (
    CHECKPOINTS,
    INT8_SHARE,
    QUERIES,
    TEXTS,
    other_family,
    ranks_agree,
    rms,
    scores,
    some_documents,
)
from tests.support.cli import succeed
from tests.support.operators import INSTRUCTION_SETS, each_instruction_set, needs_kernels

PRECISIONS = ("int8", "int8-fine")
ENCODERS = "bert", "deberta", "modernbert", "modernbert-embedding", "mpnet-embedding"
INPUTS = {  # of rows in two terms, which a graph of the architecture reads in the precisions
    "qwen2": {"int8": {"refined_rows"}, "int8-fine": {"fine_rows"}},
    "gemma3": {"int8": set(), "int8-fine": set()},  # all rows, as int8-fine of the encoders
    **{name: {"int8": set(), "int8-fine": set()} for name in ENCODERS},
}


def write_rows(path: Path) -> Path:
    rows = [
        {"query": query, "document": text, "id": text} for query, text in product(QUERIES, TEXTS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


@pytest.fixture(scope="module", params=INPUTS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small random checkpoint in float32, int8 and int8-fine."""
    work = tmp_path_factory.mktemp("bundle")
    CHECKPOINTS[request.param](work / "checkpoint")
    quantize(
        work / "checkpoint",
        work / "bundle",
        precision=["fp32", *PRECISIONS],
        calibrate=write_rows(work / "rows.jsonl"),
        steps=tuple(step for step in STEPS if step != "gptq"),  # of which few rows are too little
    )
    return work / "bundle"


@pytest.fixture(scope="module")
def stock(bundle: Path) -> dict[str, np.ndarray]:
    """The scores of stock operators."""
    return {name: scores(bundle, name, "stock") for name in ("fp32", *PRECISIONS)}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_graph_reads_which_rows_to_round_in_two_terms_or_takes_all(request, bundle, precision):
    graph = onnx.load(bundle / f"model.{precision}.onnx", load_external_data=False).graph
    found = {value.name for value in graph.input} & {"refined_rows", "fine_rows"}
    assert found == INPUTS[request.node.callspec.params["bundle"]][precision]
    linear = next(node for node in graph.node if node.op_type == "Linear")
    refined, *rests = [*linear.input[9:], ""]
    is_plain = precision == "int8" and request.node.callspec.params["bundle"] in ENCODERS
    assert bool(refined) is not is_plain
    assert any(rests) is (precision == "int8-fine")


def test_the_bundle_says_which_variant_is_of_which_precision(bundle):
    variants = {variant.name: variant for variant in read_bundle(bundle).manifest.variants}
    assert [*variants] == ["fp32", *PRECISIONS]
    for name in PRECISIONS:
        assert variants[name].precision == name
        assert variants[name].graph == f"model.{name}.onnx"
        assert "rounded in two terms" in variants[name].recipe
    assert "weights per output channel, in two terms" in variants["int8-fine"].recipe
    assert "int8-fine" in succeed("inspect", bundle)


def test_int8_fine_is_several_times_closer_to_float32_than_int8(stock):
    errors = {name: rms(stock[name] - stock["fp32"]) for name in PRECISIONS}
    assert errors["int8-fine"] < errors["int8"] / 2


def test_channels_are_smoothed_unless_all_rows_are_in_two_terms(tmp_path):
    other_family("gemma3")(tmp_path / "checkpoint")
    rows = write_rows(tmp_path / "rows.jsonl")

    def weights(*steps: RecipeStep) -> bytes:
        quantize(tmp_path / "checkpoint", tmp_path / "bundle", calibrate=rows, steps=steps)
        return (tmp_path / "bundle/model.int8.onnx.data").read_bytes()

    assert weights("smooth", "refine") == weights("refine")
    assert weights("smooth") != weights()


@each_instruction_set
@pytest.mark.parametrize("precision", PRECISIONS)
def test_kernels_differ_from_stock_operators_by_less_than_int8_from_float32(
    bundle, stock, kernels, precision
):
    got = scores(bundle, precision, kernels)
    own_error = rms(stock[precision] - stock["fp32"])
    assert own_error > 1e-5 * stock["fp32"].std()
    assert rms(got - stock[precision]) < INT8_SHARE * own_error
    assert ranks_agree(got, stock[precision])


@needs_kernels
@pytest.mark.parametrize("precision", PRECISIONS)
def test_compiled_scores_have_the_same_bits_in_any_company(bundle, precision):
    """Alone, among others, in small micro-batches that cut the prefix, with all CPUs' kernels."""
    documents = some_documents()[1:12]

    def score(texts: list[str], kernels: str = "auto", **options: int) -> np.ndarray:
        reranker = Reranker(bundle, variant=precision, kernels=kernels, **options)
        return reranker.score(QUERIES[0], texts)

    expected = score(documents, threads=1)
    alone = np.concatenate([score([text], threads=1) for text in documents[:3]])
    np.testing.assert_array_equal(alone, expected[:3])
    np.testing.assert_array_equal(score(documents[::-1], threads=2)[::-1], expected)
    np.testing.assert_array_equal(score(documents, threads=2, max_batch_tokens=16), expected)
    for kernels in INSTRUCTION_SETS:
        np.testing.assert_array_equal(score(documents, kernels), expected)
