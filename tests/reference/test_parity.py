"""fp32 graphs against transformers' own forward pass, over every way of packing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from edgerank.packing import EMPTY, Group, Tokens, pack
from tests.support.graphs import OpenedGraph, open_graph

TOLERANCE = 1e-4

lengths = st.lists(st.integers(1, 90), min_size=1, max_size=9)


def tokens(rng: np.random.Generator, count: int) -> Tokens:
    return Tokens(rng.integers(0, 400, count), np.zeros(count, np.int64))


@pytest.fixture(scope="module")
def decoder(bundles: Path) -> OpenedGraph:
    return open_graph(bundles / "qwen2.fp32")


@pytest.fixture(scope="module")
def decoder_scores(qwen2: Path):
    """Score prefix + sequence with transformers: the logit of "1" less that of "0"."""
    from tokenizers import Tokenizer

    model = AutoModelForCausalLM.from_pretrained(qwen2).eval()
    tokenizer = Tokenizer.from_file(str(qwen2 / "tokenizer.json"))
    positive, negative = (tokenizer.token_to_id(digit) for digit in "10")

    def score(group: Group) -> list[float]:
        scores = []
        for sequence in group.sequences:
            ids = torch.from_numpy(np.concatenate([group.prefix.ids, sequence.ids]))[None]
            with torch.no_grad():
                logits = model(ids).logits[0, -1]
            scores.append(float(logits[positive] - logits[negative]))
        return scores

    return score


@pytest.fixture(scope="module")
def cross_encoder_graph(bundles: Path) -> OpenedGraph:
    return open_graph(bundles / "cross-encoder.fp32")


@pytest.fixture(scope="module")
def embedding_graph(bundles: Path) -> OpenedGraph:
    return open_graph(bundles / "embedding.fp32")


@pytest.fixture(scope="module")
def classifier(cross_encoder: Path) -> torch.nn.Module:
    return AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()


@pytest.fixture(scope="module")
def embedder(embedding: Path) -> torch.nn.Module:
    return AutoModel.from_pretrained(embedding).eval()


@settings(deadline=None, max_examples=25)
@given(
    queries=st.lists(st.tuples(st.integers(1, 90), lengths), min_size=1, max_size=4),
    max_tokens=st.sampled_from([16, 64, 512]),
    seed=st.integers(0, 99),
)
def test_a_decoder_agrees_with_transformers_however_it_is_packed(
    decoder, decoder_scores, queries, max_tokens, seed
):
    rng = np.random.default_rng(seed)
    groups, first = [], 0
    for num_prefix, counts in queries:
        sequences = [tokens(rng, count) for count in counts]
        groups.append(Group(tokens(rng, num_prefix), sequences, range(first, first + len(counts))))
        first += len(counts)
    expected = [score for group in groups for score in decoder_scores(group)]
    np.testing.assert_allclose(decoder.run(groups, max_tokens), expected, atol=TOLERANCE)


def test_a_document_longer_than_a_micro_batch_goes_through_in_chunks(decoder, decoder_scores):
    rng = np.random.default_rng(0)
    sequences = [tokens(rng, 1500), tokens(rng, 20), tokens(rng, 700)]
    group = Group(tokens(rng, 300), sequences, [0, 1, 2])
    batches = list(pack([group], max_tokens=128, causal=True))
    assert max(len(batch.token_ids) for batch in batches) <= 128
    assert max(batch.past_length for batch in batches) > 1600
    scores = decoder.run([group], 128)
    np.testing.assert_allclose(scores, decoder_scores(group), atol=TOLERANCE)


@settings(deadline=None, max_examples=25)
@given(counts=lengths, max_tokens=st.sampled_from([16, 64, 512]), seed=st.integers(0, 99))
def test_a_cross_encoder_agrees_with_transformers(
    classifier, cross_encoder_graph, counts, max_tokens, seed
):
    rng = np.random.default_rng(seed)
    sequences = [
        Tokens(rng.integers(0, 200, count), (np.arange(count) > count // 2).astype(np.int64))
        for count in counts
    ]
    expected = []
    for sequence in sequences:
        with torch.no_grad():
            output = classifier(
                input_ids=torch.from_numpy(sequence.ids)[None],
                token_type_ids=torch.from_numpy(sequence.types)[None],
            )
        expected.append(float(output.logits[0, 0]))
    group = Group(EMPTY, sequences, range(len(counts)))
    scores = cross_encoder_graph.run([group], max_tokens)
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


@settings(deadline=None, max_examples=25)
@given(counts=lengths, max_tokens=st.sampled_from([16, 512]), seed=st.integers(0, 99))
def test_an_embedding_model_agrees_with_transformers(
    embedder, embedding_graph, counts, max_tokens, seed
):
    rng = np.random.default_rng(seed)
    sequences = [tokens(rng, count) for count in counts]
    sequences = [Tokens(sequence.ids % 200, sequence.types) for sequence in sequences]
    expected = []
    for sequence in sequences:
        with torch.no_grad():
            states = embedder(input_ids=torch.from_numpy(sequence.ids)[None]).last_hidden_state[0]
        mean = states.mean(dim=0).numpy()
        expected.append(mean / np.linalg.norm(mean))
    group = Group(EMPTY, sequences, range(len(counts)))
    vectors = embedding_graph.run([group], max_tokens)
    np.testing.assert_allclose(vectors, expected, atol=TOLERANCE)
