"""Whole bundles: the kernels of each instruction set score as stock operators do.

float32 differs in the last bits of its attention alone. In int8 such a bit now and then decides
how a number is rounded that lies between two integers, and the layers behind it see a whole step.
That is an error like that of quantization itself, but of few numbers. So the kernels' distance from
stock operators is measured in the int8 bundle's own distance from float32, and ranks are compared.

Where one bit of the norms' gains is changed, stock operators move from themselves as far: by 0.06
to 0.40 of that distance for five such changes of one of these models. A kernel that computes
something else moves by more than the whole.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from scipy.stats import kendalltau

from edgerank import Reranker
from edgerank.bundle import DEFAULT_BUNDLE
from quantize import quantize
from tests.support.bundles import only_variant
from tests.support.checkpoints import (
    TEXT,
    bpe_tokenizer,
    save_cross_encoder,
    save_deberta,
    save_embedding,
    save_gemma3_embedding,
    save_modernbert,
    save_modernbert_embedding,
    save_mpnet_embedding,
    save_qwen2,
    wordpiece_tokenizer,
)
from tests.support.operators import INSTRUCTION_SETS, each_instruction_set, needs_kernels

FLOAT_TOLERANCE = 1e-5  # of the spread of scores
INT8_SHARE = 0.7  # of the error that int8 makes
TEXTS = ["Dune was written by Frank Herbert in 1965.", "Paris is the capital of France.", "Dune."]
# means are a stock product of matrices, whose sums depend on how many rows there are
MEANS = {"bert-embedding", "mpnet-embedding", "gemma3-embedding"}
QUERIES = ["who wrote dune?", "what is the capital of France?", "der Fluß", "a list of documents"]


def some_documents() -> list[str]:
    """Texts from one word to more than a micro-batch of tokens."""
    rng = np.random.default_rng(0)
    words = TEXT.split()
    return [" ".join(rng.choice(words, size)) for size in [1, 150, *rng.integers(2, 40, 38)]]


def other_family(name: str) -> Callable[[Path], object]:
    def save(directory: Path) -> None:
        from tests.reference.test_families import CASES  # imports what their oracles need

        CASES[name].save(directory)

    return save


def exported(directory: Path) -> None:
    from tests.reference.test_export import save

    save(directory, "distilbert")


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "bert": save_cross_encoder,
    "bert-embedding": save_embedding,
    "deberta": lambda path: save_deberta(path, wordpiece_tokenizer()),
    "modernbert": lambda path: save_modernbert(path, wordpiece_tokenizer()),
    "modernbert-embedding": lambda path: save_modernbert_embedding(path, "cls"),
    "electra-small": other_family("electra-small"),
    "mpnet": other_family("mpnet"),
    "mpnet-embedding": save_mpnet_embedding,
    "qwen2": lambda path: save_qwen2(path, bpe_tokenizer()),
    "roberta": other_family("roberta"),
    "qwen3": other_family("qwen3-reranker"),
    "gemma": other_family("bge-gemma"),
    "gemma3": other_family("gemma3"),
    "gemma3-embedding": save_gemma3_embedding,
    "llama": other_family("mxbai-llama"),
    "exported": exported,
}


@pytest.fixture(scope="module", params=CHECKPOINTS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a small random checkpoint in float32 and int8."""
    work = tmp_path_factory.mktemp("bundle")
    CHECKPOINTS[request.param](work / "checkpoint")
    rows = [
        {"query": query, "document": text, "id": text} for query, text in product(QUERIES, TEXTS)
    ]
    (work / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    quantize(
        work / "checkpoint",
        work / "bundle",
        precision=["fp32", "int8"],
        calibrate=work / "rows.jsonl",  # few, and no steps: it is the kernels that are measured
        steps=None if request.param == "exported" else (),
    )
    return work / "bundle"


@pytest.fixture(scope="module")
def stock(bundle: Path) -> dict[str, np.ndarray]:
    """The scores of stock operators."""
    return {precision: scores(bundle, precision, "stock") for precision in ("fp32", "int8")}


@cache
def scores(bundle: Path, variant: str | None, kernels: str) -> np.ndarray:
    """Score in micro-batches so small that decoders cache their prefix and cut documents."""
    reranker = Reranker(bundle, variant=variant, kernels=kernels, threads=2, max_batch_tokens=64)
    documents = some_documents()
    return np.array([reranker.score(query, documents) for query in QUERIES], np.float64)


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x * x)))


def ranks_agree(x: np.ndarray, y: np.ndarray) -> bool:
    return all(kendalltau(*rows).statistic > 0.9 for rows in zip(x, y, strict=True))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_all_attention_is_compiled(request, bundle, precision):
    """Or the tests below would compare stock operators with themselves."""
    if "exported" in request.node.callspec.id:
        pytest.skip("an exported graph keeps its own attention")
    graph = onnx.load(bundle / f"model.{precision}.onnx", load_external_data=False).graph
    operators = {node.op_type for node in graph.node}
    assert "RaggedAttention" in operators and "Attention" not in operators


@each_instruction_set
def test_float32_scores_as_with_stock_operators(bundle, stock, kernels):
    expected = stock["fp32"]
    got = scores(bundle, "fp32", kernels)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(got, expected, rtol=0, atol=FLOAT_TOLERANCE * (1 + expected.std()))


@each_instruction_set
def test_int8_differs_from_stock_operators_by_less_than_from_float32(bundle, stock, kernels):
    got = scores(bundle, "int8", kernels)
    own_error = rms(stock["int8"] - stock["fp32"])
    assert own_error > 1e-4 * stock["fp32"].std()
    assert rms(got - stock["int8"]) < INT8_SHARE * own_error
    assert ranks_agree(got, stock["int8"])


@needs_kernels
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_compiled_scores_have_the_same_bits_in_any_company(request, bundle, precision):
    """Alone, among others, in another order, in small micro-batches by more threads."""
    name, documents = request.node.callspec.params["bundle"], some_documents()
    query, order = QUERIES[0], np.random.default_rng(1).permutation(len(documents))

    def score(texts: list[str], **options: int) -> np.ndarray:
        reranker = Reranker(bundle, variant=precision, kernels="auto", **options)
        return reranker.score(query, texts)

    together = score(documents, threads=1)
    others = [
        np.concatenate([score([text], threads=1) for text in documents[:4]]),
        score([documents[place] for place in order], threads=1)[np.argsort(order)],
        score(documents, threads=2, max_batch_tokens=64),
    ]
    for other in others:
        expected = together[: len(other)]
        if name in MEANS:
            np.testing.assert_allclose(other, expected, rtol=0, atol=1e-6 * (1 + together.std()))
        else:
            np.testing.assert_array_equal(other, expected)


@needs_kernels
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_all_instruction_sets_give_the_same_bits(bundle, precision):
    expected, *others = (scores(bundle, precision, name) for name in INSTRUCTION_SETS)
    for got in others:
        np.testing.assert_array_equal(got, expected)


@each_instruction_set
def test_the_model_in_the_package_scores_as_with_stock_operators(kernels):
    """The error of int8 is that which the bundle's manifest says."""
    expected, got = (scores(DEFAULT_BUNDLE, None, name) for name in ("stock", kernels))
    assert np.abs(got - expected).mean() < only_variant(DEFAULT_BUNDLE).fidelity.mean_error
    assert ranks_agree(got, expected)


@each_instruction_set
def test_compiled_kernels_take_larger_micro_batches_unless_told(kernels):
    stock = Reranker(kernels="stock")
    compiled = Reranker(kernels=kernels)
    assert compiled.max_batch_tokens > stock.max_batch_tokens
    assert Reranker(kernels=kernels, max_batch_tokens=64).max_batch_tokens == 64
