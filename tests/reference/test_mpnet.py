"""MPNet embedding models against transformers and sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel
from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

from edgerank import Reranker
from edgerank.bundle import read_bundle
from edgerank.packing import EMPTY, Group, Tokens
from quantize import QuantizeError, quantize
from quantize.graph.relative_positions import t5_buckets
from tests.support.bundles import encode_documents, only_variant, prompt_encoder
from tests.support.checkpoints import changed_copy, save_mpnet_embedding
from tests.support.graphs import open_graph
from tests.support.shared import shared, trained

TOLERANCE = 1e-4
QUERY = "who wrote dune?"
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965.",
    "Paris is the capital of France.",
    "",
    "  数は力 der Fluß fließt [SEP] слово\n\tand more  ",
    "a query and a list of documents " * 40,
    "Dune.",
]
BIASES = "encoder.relative_attention_bias.weight"


@pytest.fixture(scope="module", params=["mean", "cls"])
def pooling(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, pooling: str) -> Path:
    return save_mpnet_embedding(tmp_path_factory.mktemp("mpnet") / "checkpoint", pooling)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    return quantize(checkpoint, checkpoint.with_name("fp32"), precision="fp32").directory


def test_buckets_are_those_of_transformers():
    distances = np.arange(-2000, 2001)
    expected = MPNetEncoder.relative_position_bucket(torch.from_numpy(-distances))
    np.testing.assert_array_equal(t5_buckets(distances, 32), expected)


@pytest.fixture(scope="module")
def backbone(checkpoint: Path) -> torch.nn.Module:
    return AutoModel.from_pretrained(checkpoint).eval()


@settings(deadline=None, max_examples=8)
@given(
    counts=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    max_tokens=st.sampled_from([16, 700, 4096]),
    seed=st.integers(0, 99),
)
def test_ragged_lengths_agree_with_transformers(
    backbone, pooling, bundle, counts, max_tokens, seed
):
    check(backbone, pooling, bundle, counts, max_tokens, seed)


def test_the_longest_sequence_agrees_with_transformers(backbone, pooling, bundle):
    check(backbone, pooling, bundle, [512, 1, 129], 512, 0)


def check(backbone, pooling, bundle, counts, max_tokens, seed):
    rng = np.random.default_rng(seed)
    sequences = [Tokens(rng.integers(5, 150, n), np.zeros(n, np.int64)) for n in counts]
    expected = []
    for sequence in sequences:
        with torch.no_grad():
            states = backbone(torch.from_numpy(sequence.ids)[None]).last_hidden_state[0]
        pooled = states[0] if pooling == "cls" else states.mean(dim=0)
        expected.append((pooled / pooled.norm()).numpy())
    group = Group(EMPTY, sequences, range(len(counts)))
    vectors = open_graph(bundle).run([group], max_tokens)
    np.testing.assert_allclose(vectors, expected, atol=TOLERANCE)


@pytest.mark.parametrize("kernels", ["stock", "auto"])
def test_text_scores_as_in_sentence_transformers(checkpoint, bundle, kernels):
    reference = SentenceTransformer(str(checkpoint), device="cpu")
    query, *documents = reference.encode([QUERY, *DOCUMENTS])
    scores = Reranker(bundle, kernels=kernels).score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, np.array(documents) @ query, atol=TOLERANCE)


def test_text_becomes_the_tokens_of_the_fast_tokenizer(checkpoint, bundle):
    tokenizer = SentenceTransformer(str(checkpoint), device="cpu").tokenizer
    encoder = prompt_encoder(read_bundle(bundle), max_length=96)
    expected = tokenizer([QUERY, *DOCUMENTS], truncation=True, max_length=96)["input_ids"]
    encoded = encode_documents(encoder, QUERY, DOCUMENTS)
    assert encoded.query.ids.tolist() == expected[0]
    assert [tokens.ids.tolist() for tokens in encoded.sequences] == expected[1:]


def test_vectors_depend_on_the_biases_of_distances(checkpoint, bundle, tmp_path):
    """Or the tests above would pass without them."""
    scores = Reranker(bundle).score(QUERY, DOCUMENTS)
    copy = changed_copy(checkpoint, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    save_file({**tensors, BIASES: tensors[BIASES][::-1].copy()}, copy / "model.safetensors")
    quantize(copy, tmp_path / "changed", precision="fp32")
    others = Reranker(tmp_path / "changed").score(QUERY, DOCUMENTS)
    assert np.abs(others - scores).max() > 10 * TOLERANCE


def test_a_model_saved_with_its_language_head_is_read_alike(checkpoint, bundle, tmp_path):
    """As sentence-transformers/all-mpnet-base-v2 is."""
    copy = changed_copy(checkpoint, tmp_path / "copy", architectures=["MPNetForMaskedLM"])
    quantize(copy, tmp_path / "bundle", precision="fp32")
    graphs = [work / "model.fp32.onnx" for work in (tmp_path / "bundle", bundle)]
    assert graphs[0].read_bytes() == graphs[1].read_bytes()


def test_steps_leave_the_scores_alone(checkpoint, bundle, tmp_path):
    steps = ("rotate", "smooth")
    quantize(checkpoint, tmp_path / "equalised", precision="fp32", steps=steps)
    plain, equalised = (
        Reranker(path).score(QUERY, DOCUMENTS) for path in (bundle, tmp_path / "equalised")
    )
    np.testing.assert_allclose(equalised, plain, rtol=0, atol=TOLERANCE)


def test_int8_is_close(checkpoint, tmp_path):
    fidelity = only_variant(quantize(checkpoint, tmp_path / "int8").directory).fidelity
    assert fidelity.mean_error < 0.1 * fidelity.spread


@pytest.mark.parametrize("setting", [{"relative_attention_num_buckets": 64}, {"hidden_act": "x"}])
def test_what_is_not_supported_is_refused(checkpoint, tmp_path, setting):
    copy = changed_copy(checkpoint, tmp_path / "copy", **setting)
    with pytest.raises(QuantizeError, match=rf"config\.json: .*{next(iter(setting))}"):
        quantize(copy, tmp_path / "bundle")


def test_all_mpnet_base_v2_scores_as_in_sentence_transformers(tmp_path):
    checkpoint, collection = trained("all-mpnet-base-v2"), shared("collections/cisi")
    lines = (collection / "corpus.jsonl").read_text().splitlines()[:200]
    whole = [json.loads(line)["text"] for line in lines]
    documents = [" ".join(whole[:20]), "数は力 der Fluß fließt", *(text[:300] for text in whole)]
    with (collection / "queries.jsonl").open() as file:
        query = json.loads(next(file))["text"]
    quantize(checkpoint, tmp_path / "bundle", precision="fp32")
    reference = SentenceTransformer(str(checkpoint), device="cpu")
    expected = reference.encode(documents) @ reference.encode(query)
    scores = Reranker(tmp_path / "bundle").score(query, documents)
    assert expected.std() > 0.05
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)
    stock = Reranker(tmp_path / "bundle", kernels="stock").score(query, documents[:30])
    np.testing.assert_allclose(scores[:30], stock, atol=1e-5)
