"""DeBERTa cross-encoders against transformers and sentence-transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sentence_transformers import CrossEncoder
from tokenizers import Tokenizer
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from benchmarks.common.planted.deberta import write_planted
from edgerank import Reranker
from edgerank.bundle import read_bundle
from edgerank.packing import EMPTY, Group, Tokens
from quantize import QuantizeError, quantize
from quantize.graph.relative_positions import log_buckets
from tests.support.bundles import encode_documents, only_variant, prompt_encoder
from tests.support.checkpoints import changed_copy, save_deberta, wordpiece_tokenizer
from tests.support.graphs import OpenedGraph, open_graph
from tests.support.shared import shared

TOLERANCE = 1e-4
QUERY = "who wrote dune?"
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965.",
    "Paris is the capital of France.",
    "",
    "  数は力 der Fluß fließt [SEP] слово\n\tand more  ",
    "a query and a list of documents " * 120,
    "Dune.",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_deberta(tmp_path_factory.mktemp("deberta") / "checkpoint", wordpiece_tokenizer())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    target = tmp_path_factory.mktemp("deberta") / "fp32"
    return quantize(checkpoint, target, precision="fp32").directory


@pytest.fixture(scope="module")
def graph(bundle: Path) -> OpenedGraph:
    return open_graph(bundle)


@pytest.fixture(scope="module")
def classifier(checkpoint: Path) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(checkpoint).eval()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with the tokenizer of DeBERTa-v3, and its bundle in float32 beside it."""
    tokenizer = Tokenizer.from_file(str(shared("tokenizers/deberta-v3/tokenizer.json")))
    work = tmp_path_factory.mktemp("spoken")
    save_deberta(work / "checkpoint", tokenizer, hidden_size=32, num_attention_heads=2)
    quantize(work / "checkpoint", work / "fp32", precision="fp32")
    return work


def score(classifier: torch.nn.Module, sequence: Tokens) -> float:
    with torch.no_grad():
        return float(classifier(input_ids=torch.from_numpy(sequence.ids)[None]).logits[0, 0])


@settings(deadline=None, max_examples=8)
@given(
    counts=st.lists(st.integers(1, 400), min_size=1, max_size=6),
    max_tokens=st.sampled_from([16, 700, 4096]),
    seed=st.integers(0, 99),
)
def test_ragged_lengths_agree_with_transformers(classifier, graph, counts, max_tokens, seed):
    rng = np.random.default_rng(seed)
    sequences = [Tokens(rng.integers(0, 150, count), np.zeros(count, np.int64)) for count in counts]
    group = Group(EMPTY, sequences, range(len(counts)))
    scores = graph.run([group], max_tokens)
    expected = [score(classifier, sequence) for sequence in sequences]
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


@pytest.mark.parametrize("length", [1, 2, 129, 512])
def test_lengths_at_the_borders_agree_with_transformers(classifier, graph, length):
    ids = np.random.default_rng(length).integers(0, 150, length)
    sequence = Tokens(ids, np.zeros(length, np.int64))
    scores = graph.run([Group(EMPTY, [sequence], [0])], 512)
    np.testing.assert_allclose(scores, [score(classifier, sequence)], atol=TOLERANCE)


def test_scores_depend_on_positions_and_on_keys_biases(checkpoint, bundle, tmp_path):
    """Or the tests above would pass without them."""
    scores = Reranker(bundle).score(QUERY, DOCUMENTS)
    copy = changed_copy(checkpoint, tmp_path / "copy")
    tensors = load_file(copy / "model.safetensors")
    for part in ("rel_embeddings.weight", "layer.1.attention.self.key_proj.bias"):
        changed = {f"deberta.encoder.{part}": -tensors[f"deberta.encoder.{part}"]}
        save_file({**tensors, **changed}, copy / "model.safetensors")
        quantize(copy, tmp_path / "changed", precision="fp32")
        others = Reranker(tmp_path / "changed").score(QUERY, DOCUMENTS)
        assert np.abs(others - scores).max() > 10 * TOLERANCE


@pytest.mark.parametrize(("buckets", "reach"), [(256, 512), (32, 512), (256, 2048), (6, 24)])
def test_buckets_are_those_of_transformers(buckets, reach):
    distances = np.arange(1 - reach, reach)
    expected = make_log_bucket_position(torch.from_numpy(distances), buckets, reach)
    expected = (expected.to(torch.long) + buckets).clamp(0, 2 * buckets - 1)
    np.testing.assert_array_equal(log_buckets(distances, buckets, reach), expected)


def test_text_scores_as_in_sentence_transformers(spoken):
    reference = CrossEncoder(str(spoken / "checkpoint"), device="cpu")
    expected = reference.predict([(QUERY, text) for text in DOCUMENTS])
    scores = Reranker(spoken / "fp32").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


def test_text_becomes_the_tokens_of_the_fast_tokenizer(spoken):
    tokenizer = AutoTokenizer.from_pretrained(spoken / "checkpoint")
    encoder = prompt_encoder(read_bundle(spoken / "fp32"), max_length=512)
    pairs = tokenizer([QUERY] * len(DOCUMENTS), DOCUMENTS, truncation="longest_first")
    encoded = encode_documents(encoder, QUERY, DOCUMENTS)
    assert [tokens.ids.tolist() for tokens in encoded.sequences] == pairs["input_ids"]


@pytest.mark.parametrize("steps", [("rotate",), ("smooth",), ("rotate", "smooth")])
def test_each_step_leaves_the_scores_alone(checkpoint, bundle, tmp_path, steps):
    quantize(checkpoint, tmp_path / "equalised", precision="fp32", steps=steps)
    plain, equalised = (
        Reranker(path).score(QUERY, DOCUMENTS) for path in (bundle, tmp_path / "equalised")
    )
    np.testing.assert_allclose(equalised, plain, rtol=0, atol=TOLERANCE)


def test_int8_ranks_as_float32_beside_outliers(tmp_path):
    write_planted(tmp_path / "checkpoint", outlier=100, massive=30)
    full, plain = (
        only_variant(
            quantize(tmp_path / "checkpoint", tmp_path / "bundle", steps=steps).directory
        ).fidelity
        for steps in (None, ())
    )
    assert full.kendall_tau >= 0.97
    assert full.mean_error < 0.05 * full.spread
    assert plain.kendall_tau < 0.85


def test_int8_of_a_checkpoint_without_outliers_stays_close(checkpoint, tmp_path):
    fidelity = only_variant(quantize(checkpoint, tmp_path / "int8").directory).fidelity
    assert fidelity.mean_error < 0.1 * fidelity.spread
    assert max(fidelity.layers) < 0.03


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ({"share_att_key": False}, "share_att_key"),
        ({"pos_att_type": ["c2p"]}, "pos_att_type"),
        ({"pos_att_type": "c2p|p2c|p2p"}, "pos_att_type"),
        ({"conv_kernel_size": 3}, "conv_kernel_size"),
        ({"embedding_size": 128}, "embedding_size"),
        ({"position_biased_input": True}, "position_biased_input"),
        ({"position_buckets": -1}, "position_buckets"),
        ({"norm_rel_ebd": "none"}, "norm_rel_ebd"),
        ({"type_vocab_size": 2}, "type_vocab_size"),
        ({"pooler_hidden_act": "tanh"}, "pooler_hidden_act"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"max_relative_positions": 100}, "position_buckets"),
    ],
)
def test_what_is_not_supported_is_refused(checkpoint, tmp_path, setting, complaint):
    copy = changed_copy(checkpoint, tmp_path / "copy", **setting)
    with pytest.raises(QuantizeError, match=rf"config\.json: .*{complaint}"):
        quantize(copy, tmp_path / "bundle")
