"""ModernBERT against transformers and sentence-transformers, in float32 and in int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import CrossEncoder, SentenceTransformer
from tokenizers import Tokenizer

from benchmarks.common.planted.modernbert import OUTLIER_CHANNELS, write_planted
from edgerank import Reranker
from edgerank.bundle import read_bundle
from edgerank.packing import EMPTY, Group, Tokens
from quantize import quantize
from quantize.errors import QuantizeError
from tests.support.bundles import encode_documents, only_variant, prompt_encoder
from tests.support.checkpoints import (
    ModernBertForSequenceClassification,
    ModernBertModel,
    changed_copy,
    save_modernbert,
    save_modernbert_embedding,
    wordpiece_tokenizer,
)
from tests.support.graphs import OpenedGraph, open_graph
from tests.support.shared import shared

TOLERANCE = 1e-4
QUERY = "who wrote dune?"
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965.",
    "Paris is the capital of France.",
    "",
    "数は力 der Fluß fließt слово",
    "a query and a list of documents " * 40,
    "Dune.",
]

lengths = st.lists(st.integers(1, 300), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of checkpoints and, as <checkpoint>.fp32, bundles."""
    work = tmp_path_factory.mktemp("modernbert")
    tokenizer = wordpiece_tokenizer()
    save_modernbert(work / "cls", tokenizer)
    save_modernbert(
        work / "mean",
        tokenizer,
        classifier_pooling="mean",
        classifier_bias=True,
        local_rope_theta=None,
        global_attn_every_n_layers=2,
    )
    save_modernbert_embedding(work / "embedding-cls", "cls")
    save_modernbert_embedding(work / "embedding-mean", "mean")
    for name in ("cls", "mean", "embedding-cls", "embedding-mean"):
        quantize(work / name, work / f"{name}.fp32", precision="fp32")
    return work


def run(graph: OpenedGraph, sequences: list[Tokens], max_tokens: int) -> np.ndarray:
    return graph.run([Group(EMPTY, sequences, range(len(sequences)))], max_tokens)


def draw(counts: list[int], seed: int) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    return [Tokens(rng.integers(0, 200, n), np.zeros(n, np.int64)) for n in counts]


@pytest.mark.parametrize(("pooling", "implementation"), [("cls", "eager"), ("mean", "sdpa")])
def test_a_cross_encoder_agrees_with_transformers(checkpoints, pooling, implementation):
    model = ModernBertForSequenceClassification.from_pretrained(
        checkpoints / pooling, attn_implementation=implementation
    ).eval()
    graph = open_graph(checkpoints / f"{pooling}.fp32")

    @settings(deadline=None, max_examples=6)
    @given(counts=lengths, max_tokens=st.sampled_from([64, 512]), seed=st.integers(0, 99))
    def check(counts, max_tokens, seed):
        sequences = draw(counts, seed)
        with torch.no_grad():
            expected = [
                float(model(torch.from_numpy(sequence.ids)[None]).logits[0, 0])
                for sequence in sequences
            ]
        scores = run(graph, sequences, max_tokens)
        np.testing.assert_allclose(scores, expected, atol=TOLERANCE)

    check()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_an_embedding_model_agrees_with_transformers(checkpoints, pooling):
    model = ModernBertModel.from_pretrained(checkpoints / f"embedding-{pooling}").eval()
    graph = open_graph(checkpoints / f"embedding-{pooling}.fp32")

    @settings(deadline=None, max_examples=6)
    @given(counts=lengths, max_tokens=st.sampled_from([64, 512]), seed=st.integers(0, 99))
    def check(counts, max_tokens, seed):
        sequences = draw(counts, seed)
        expected = []
        for sequence in sequences:
            with torch.no_grad():
                states = model(torch.from_numpy(sequence.ids)[None]).last_hidden_state[0]
            pooled = states[0] if pooling == "cls" else states.mean(dim=0)
            expected.append((pooled / pooled.norm()).numpy())
        vectors = run(graph, sequences, max_tokens)
        np.testing.assert_allclose(vectors, expected, atol=TOLERANCE)

    check()


def test_the_window_matters(checkpoints, tmp_path):
    wide = changed_copy(checkpoints / "cls", tmp_path / "wide", local_attention=600)
    quantize(wide, tmp_path / "bundle", precision="fp32")
    sequences = draw([9, 250], 0)
    narrow = run(open_graph(checkpoints / "cls.fp32"), sequences, 512)
    scores = run(open_graph(tmp_path / "bundle"), sequences, 512)
    np.testing.assert_allclose(scores[0], narrow[0], atol=TOLERANCE)
    assert abs(scores[1] - narrow[1]) > 100 * TOLERANCE


def test_the_configuration_of_transformers_5_is_read(checkpoints, tmp_path):
    full, sliding = "full_attention", "sliding_attention"
    change = {
        "global_rope_theta": None,
        "local_rope_theta": None,
        "global_attn_every_n_layers": None,
        "layer_types": [full, sliding, sliding, full, sliding],
        "rope_parameters": {
            full: {"rope_theta": 160000.0, "rope_type": "default"},
            sliding: {"rope_theta": 10000.0, "rope_type": "default"},
        },
    }
    checkpoint = changed_copy(checkpoints / "cls", tmp_path / "five", **change)
    quantize(checkpoint, tmp_path / "bundle", precision="fp32")
    graphs = [work / "model.fp32.onnx" for work in (tmp_path / "bundle", checkpoints / "cls.fp32")]
    assert graphs[0].read_bytes() == graphs[1].read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias is not supported"),
        ({"norm_bias": True}, "norm_bias is not supported"),
        ({"hidden_activation": "silu"}, "hidden_activation"),
        ({"layer_types": ["full_attention"]}, "layer_types must name as many layers"),
        ({"num_attention_heads": 64}, "heads of even size"),
    ],
)
def test_what_the_graph_does_not_do_is_refused(checkpoints, tmp_path, change, message):
    checkpoint = changed_copy(checkpoints / "cls", tmp_path / "checkpoint", **change)
    with pytest.raises(QuantizeError, match=rf"config\.json.*{message}"):
        quantize(checkpoint, tmp_path / "bundle")


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_it_scores_as_sentence_transformers_does(checkpoints, pooling):
    pairs = [(QUERY, text) for text in DOCUMENTS]
    expected = CrossEncoder(str(checkpoints / pooling), device="cpu").predict(pairs)
    scores = Reranker(checkpoints / f"{pooling}.fp32").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)

    reference = SentenceTransformer(str(checkpoints / f"embedding-{pooling}"), device="cpu")
    query, *documents = reference.encode([QUERY, *DOCUMENTS])
    scores = Reranker(checkpoints / f"embedding-{pooling}.fp32").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, np.array(documents) @ query, atol=TOLERANCE)


def test_the_real_tokenizer_gives_the_ids_and_scores_of_the_reference(tmp_path):
    path = shared("tokenizers/modernbert/tokenizer.json")
    tokenizer = Tokenizer.from_file(str(path))
    save_modernbert(tmp_path / "checkpoint", tokenizer, vocab_size=50368)
    reference = CrossEncoder(str(tmp_path / "checkpoint"), device="cpu")
    quantize(tmp_path / "checkpoint", tmp_path / "bundle", precision="fp32")

    encoder = prompt_encoder(read_bundle(tmp_path / "bundle"), 256)
    encoded = encode_documents(encoder, QUERY, DOCUMENTS)
    pairs = [(QUERY, text) for text in DOCUMENTS]
    expected = reference.tokenizer(*zip(*pairs, strict=True), truncation="longest_first")
    assert [sequence.ids.tolist() for sequence in encoded.sequences] == expected["input_ids"]

    scores = Reranker(tmp_path / "bundle").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, reference.predict(pairs), atol=TOLERANCE)


@pytest.mark.parametrize("name", ["cls", "mean", "embedding-mean"])
@pytest.mark.parametrize("steps", [("rotate",), ("rotate", "smooth")])
def test_each_step_leaves_the_scores_alone(checkpoints, tmp_path, name, steps):
    quantize(checkpoints / name, tmp_path / "equalised", precision="fp32", steps=steps)
    plain, equalised = (
        Reranker(path).score(QUERY, DOCUMENTS)
        for path in (checkpoints / f"{name}.fp32", tmp_path / "equalised")
    )
    np.testing.assert_allclose(equalised, plain, rtol=0, atol=TOLERANCE)
    weights = "model.fp32.onnx.data"
    assert (tmp_path / "equalised" / weights).read_bytes() != (
        checkpoints / f"{name}.fp32" / weights
    ).read_bytes()


@pytest.mark.parametrize("name", ["cls", "embedding-mean"])
def test_int8_is_close(checkpoints, tmp_path, name):
    fidelity = only_variant(quantize(checkpoints / name, tmp_path / "int8").directory).fidelity
    assert fidelity.mean_error < 0.1 * fidelity.spread


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder with outliers, in float32 and in int8 by recipe."""
    work = tmp_path_factory.mktemp("planted")
    write_planted(work / "checkpoint", outlier=100, massive=8000)
    quantize(work / "checkpoint", work / "fp32", precision="fp32")
    quantize(work / "checkpoint", work / "plain", steps=())
    quantize(work / "checkpoint", work / "full")
    return work


def test_the_recipe_undoes_what_outliers_do(planted):
    plain, full = (only_variant(planted / name).fidelity for name in ("plain", "full"))
    assert full.kendall_tau > 0.98
    assert plain.kendall_tau < 0.8
    assert full.mean_error < plain.mean_error / 8


def test_steps_are_exact_beside_outliers_too(planted, tmp_path):
    steps = ("rotate", "smooth")
    quantize(planted / "checkpoint", tmp_path / "bundle", precision="fp32", steps=steps)
    plain, equalised = (
        Reranker(path).score(QUERY, DOCUMENTS) for path in (planted / "fp32", tmp_path / "bundle")
    )
    # these scores are in the tens, of sums over channels a hundred times the others
    np.testing.assert_allclose(equalised, plain, rtol=1e-4, atol=1e-2)


def test_the_planted_outliers_are_there(planted):
    model = ModernBertForSequenceClassification.from_pretrained(planted / "checkpoint").eval()
    with torch.no_grad():
        states = model(torch.arange(5, 100)[None], output_hidden_states=True).hidden_states
        massive = model(torch.tensor([[3]]), output_hidden_states=True).hidden_states
    for state in (states[0], states[3]):  # from the embedding's norm on
        rms = state[0].square().mean(dim=0).sqrt().numpy()
        assert rms[list(OUTLIER_CHANNELS)].min() > 30 * np.median(rms)
    assert massive[3].abs().max() > 1000
