"""Gemma 3, as a decoder and as EmbeddingGemma, against transformers and sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import AutoModel, AutoModelForCausalLM

from benchmarks.common.planted.decoder import OUTLIER_CHANNELS
from benchmarks.common.planted.gemma3 import write_planted
from edgerank import Reranker
from edgerank.bundle import read_bundle
from edgerank.packing import EMPTY, Group, Tokens, pack
from quantize import QuantizeError, quantize
from tests.reference.test_families import CASES
from tests.support.bundles import encode_documents, only_variant, prompt_encoder
from tests.support.checkpoints import changed_copy, save_gemma3_embedding
from tests.support.graphs import OpenedGraph, open_graph
from tests.support.shared import shared, trained

TOLERANCE = 1e-4
QUERY = "who wrote dune?"
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965.",
    "Paris is the capital of France.",
    "",
    "  数は力 der Fluß fließt слово\n\tand more  ",
    "a query and a list of documents " * 40,
    "Dune.",
]
YES_OR_NO = {
    "prompt": {
        "query": [{"text": "<bos>"}, {"text": "Query: {query}"}, {"text": "\n"}],
        "document": [{"text": "Document: {document}"}, {"text": "\nRelevant? Yes or No:"}],
    },
    "max_length": 1500,
}

lengths = st.lists(st.integers(1, 90), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("gemma3") / "checkpoint"
    CASES["gemma3"].save(directory)
    return directory


@pytest.fixture(scope="module")
def decoder_bundle(decoder: Path) -> Path:
    return quantize(decoder, decoder.with_name("fp32"), precision="fp32").directory


@pytest.fixture(scope="module")
def decoder_graph(decoder_bundle: Path) -> OpenedGraph:
    return open_graph(decoder_bundle)


@pytest.fixture(scope="module")
def decoder_scores(decoder):
    """Score prefix + sequence with transformers: the logit of "Yes"."""
    model = AutoModelForCausalLM.from_pretrained(decoder).eval()
    yes = Tokenizer.from_file(str(decoder / "tokenizer.json")).token_to_id("Yes")

    @torch.no_grad()
    def score(group: Group) -> list[float]:
        sequences = [np.concatenate([group.prefix.ids, one.ids]) for one in group.sequences]
        return [float(model(torch.from_numpy(ids)[None]).logits[0, -1, yes]) for ids in sequences]

    return score


def draw(rng: np.random.Generator, count: int) -> Tokens:
    return Tokens(rng.integers(0, 200, count), np.zeros(count, np.int64))


@settings(deadline=None, max_examples=8)
@given(
    queries=st.lists(st.tuples(st.integers(1, 60), lengths), min_size=1, max_size=3),
    max_tokens=st.sampled_from([16, 64, 512]),
    seed=st.integers(0, 99),
)
def test_a_decoder_agrees_with_transformers_however_it_is_packed(
    decoder_graph, decoder_scores, queries, max_tokens, seed
):
    rng = np.random.default_rng(seed)
    groups: list[Group] = []
    for num_prefix, counts in queries:
        first = sum(len(group.sequences) for group in groups)
        sequences = [draw(rng, count) for count in counts]
        groups.append(Group(draw(rng, num_prefix), sequences, range(first, first + len(counts))))
    expected = [score for group in groups for score in decoder_scores(group)]
    scores = decoder_graph.run(groups, max_tokens)
    np.testing.assert_allclose(scores, expected, atol=TOLERANCE)


def test_windows_reach_into_what_earlier_micro_batches_cached(decoder_graph, decoder_scores):
    rng = np.random.default_rng(0)
    group = Group(draw(rng, 200), [draw(rng, 900), draw(rng, 5)], [0, 1])
    assert max(batch.past_length for batch in pack([group], max_tokens=64, causal=True)) > 900
    scores = decoder_graph.run([group], 64)
    np.testing.assert_allclose(scores, decoder_scores(group), atol=TOLERANCE)


@pytest.mark.parametrize(
    "change",
    [
        {"sliding_window": 600},
        {"rope_local_base_freq": 100.0},
        {"rope_scaling": None},
        {"query_pre_attn_scalar": 24},
        {"layer_types": ["full_attention"] * 3},
    ],
)
def test_scores_depend_on_the_configuration(decoder, decoder_bundle, tmp_path, change):
    """Or the tests above would pass without it."""
    copy = changed_copy(decoder, tmp_path / "copy", **change)
    quantize(copy, tmp_path / "bundle", precision="fp32")
    plain, changed = (
        Reranker(path).score(QUERY, DOCUMENTS) for path in (decoder_bundle, tmp_path / "bundle")
    )
    assert np.abs(changed - plain).max() > 10 * TOLERANCE


def test_the_configurations_of_older_and_newer_versions_are_read(decoder, tmp_path):
    old = {"layer_types": None, "sliding_window_pattern": 2}
    sliding, full = "sliding_attention", "full_attention"
    new = {
        "rope_local_base_freq": None,
        "rope_scaling": None,
        "rope_theta": None,
        "rope_parameters": {
            full: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            sliding: {"rope_type": "default", "rope_theta": 10000.0},
        },
    }
    graphs = []
    for name, change in (("now", {"rope_theta": 1e6}), ("old", old), ("new", new)):
        copy = changed_copy(decoder, tmp_path / name, **{"rope_theta": 1e6, **change})
        bundle = quantize(copy, tmp_path / f"{name}.fp32", precision="fp32").directory
        graphs.append((bundle / "model.fp32.onnx").read_bytes())
    assert graphs[0] == graphs[1] == graphs[2]


@pytest.mark.parametrize(
    "setting",
    [
        {"use_bidirectional_attention": True},
        {"final_logit_softcapping": 30.0},
        {"attn_logit_softcapping": 50.0},
        {"hidden_activation": "silu"},
        {"attention_bias": True},
        {"layer_types": ["full_attention"]},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    ],
)
def test_what_the_graph_does_not_do_is_refused(decoder, tmp_path, setting):
    copy = changed_copy(decoder, tmp_path / "copy", **setting)
    complaint = "rope_type 'yarn'" if "rope_scaling" in setting else next(iter(setting))
    with pytest.raises(QuantizeError, match=rf"config\.json: .*{complaint}"):
        quantize(copy, tmp_path / "bundle")


def test_a_prompt_and_tokens_of_ones_own(decoder, tmp_path):
    """Two digits instead of "Yes" and "No": the small tokenizer has only the former."""
    template = {**YES_OR_NO, "score": {"1": 1, "0": -1}}
    (tmp_path / "template.json").write_text(json.dumps(template))
    bundle = quantize(
        decoder, tmp_path / "bundle", precision="fp32", template=tmp_path / "template.json"
    ).directory
    check_template(decoder, bundle, template, QUERY, DOCUMENTS, 400, TOLERANCE)


def check_template(checkpoint, bundle, template, query, documents, max_length, tolerance):
    """Compare token ids and scores with the template filled in by hand, and transformers."""
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    (first, second, third), (fourth, last) = (
        [piece["text"] for piece in template["prompt"][part]] for part in ("query", "document")
    )
    begin = [*ids(first), *ids(second.format(query=query)), *ids(third)]
    room = max_length - len(begin) - len(ids(last))
    sequences = [ids(fourth.format(document=document))[:room] + ids(last) for document in documents]
    encoder = prompt_encoder(read_bundle(bundle), max_length)
    encoded = encode_documents(encoder, query, documents)
    assert encoded.query.ids.tolist() == begin
    assert [tokens.ids.tolist() for tokens in encoded.sequences] == sequences
    expected = []
    for sequence in sequences:
        with torch.no_grad():
            logits = model(torch.tensor([begin + sequence])).logits[0, -1]
        parts = (weight * float(logits[ids(text)]) for text, weight in template["score"].items())
        expected.append(sum(parts))
    scores = Reranker(bundle, max_length=max_length).score(query, documents)
    assert np.ptp(expected) > 100 * tolerance
    np.testing.assert_allclose(scores, expected, atol=tolerance)


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_gemma3_embedding(tmp_path_factory.mktemp("embeddinggemma") / "checkpoint")


@pytest.fixture(scope="module")
def embedding_bundle(embedding: Path) -> Path:
    return quantize(embedding, embedding.with_name("fp32"), precision="fp32").directory


@pytest.mark.parametrize("kernels", ["stock", "auto"])
def test_an_embedding_model_scores_as_in_sentence_transformers(
    embedding, embedding_bundle, kernels
):
    reference = SentenceTransformer(str(embedding), device="cpu")
    query, documents = reference.encode_query(QUERY), reference.encode_document(DOCUMENTS)
    scores = Reranker(embedding_bundle, kernels=kernels).score(QUERY, DOCUMENTS)
    assert np.ptp(scores) > 100 * TOLERANCE
    np.testing.assert_allclose(scores, documents @ query, atol=TOLERANCE)


def test_an_embedding_models_texts_become_the_references_tokens(embedding, embedding_bundle):
    reference = SentenceTransformer(str(embedding), device="cpu")
    texts = [
        reference.prompts["query"] + QUERY,
        *(reference.prompts["document"] + text for text in DOCUMENTS),
    ]
    expected = reference.tokenizer(texts, truncation=True, max_length=96)["input_ids"]
    encoded = encode_documents(prompt_encoder(read_bundle(embedding_bundle), 96), QUERY, DOCUMENTS)
    assert encoded.query.ids.tolist() == expected[0]
    assert [tokens.ids.tolist() for tokens in encoded.sequences] == expected[1:]


@pytest.fixture(scope="module")
def embedding_graph(embedding_bundle: Path) -> OpenedGraph:
    return open_graph(embedding_bundle)


@pytest.fixture(scope="module")
def embedder(embedding: Path):
    backbone = AutoModel.from_pretrained(embedding).eval()
    dense = list(SentenceTransformer(str(embedding), device="cpu"))[2:4]

    @torch.no_grad()
    def embed(sequence: Tokens) -> np.ndarray:
        pooled = backbone(torch.from_numpy(sequence.ids)[None]).last_hidden_state[0].mean(dim=0)
        for module in dense:
            pooled = module.activation_function(module.linear(pooled))
        return (pooled / pooled.norm()).numpy()

    return embed


@settings(deadline=None, max_examples=8)
@given(
    counts=st.lists(st.integers(1, 200), min_size=1, max_size=6),
    max_tokens=st.sampled_from([16, 512]),
    seed=st.integers(0, 99),
)
def test_an_embedding_model_agrees_with_transformers(
    embedder, embedding_graph, counts, max_tokens, seed
):
    rng = np.random.default_rng(seed)
    sequences = [draw(rng, count) for count in counts]
    vectors = embedding_graph.run([Group(EMPTY, sequences, range(len(counts)))], max_tokens)
    np.testing.assert_allclose(vectors, [embedder(one) for one in sequences], atol=TOLERANCE)


def test_an_embedding_model_that_is_causal_is_refused(embedding, tmp_path):
    copy = changed_copy(embedding, tmp_path / "copy", use_bidirectional_attention=False)
    with pytest.raises(QuantizeError, match="needs use_bidirectional_attention"):
        quantize(copy, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        (
            {"activation_function": "torch.nn.modules.activation.Softmax"},
            r"2_Dense.config\.json: .*activation_function",
        ),
        ({"use_residual": True}, r"2_Dense: the checkpoint has no tensor 'residual.weight'"),
        (
            {"module_output_name": "scores"},
            r"3_Dense.config\.json: .*the one before it writes 'scores'",
        ),
        (
            {"in_features": 32},
            r"2_Dense.config\.json: .*in_features is 32, but the module before gives out 64",
        ),
    ],
)
def test_a_dense_module_of_another_kind_is_refused(embedding, tmp_path, setting, complaint):
    copy = changed_copy(embedding, tmp_path / "copy")
    path = copy / "2_Dense/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **setting}))
    with pytest.raises(QuantizeError, match=complaint):
        quantize(copy, tmp_path / "bundle")


def test_a_module_outside_the_checkpoint_is_refused(embedding, tmp_path):
    copy = changed_copy(embedding, tmp_path / "copy")
    path = copy / "modules.json"
    path.write_text(path.read_text().replace("2_Dense", "../2_Dense"))
    with pytest.raises(QuantizeError, match="lies outside the checkpoint"):
        quantize(copy, tmp_path / "bundle")


@pytest.mark.parametrize("name", ["decoder", "embedding"])
@pytest.mark.parametrize("steps", [("rotate",), ("rotate", "smooth")])
def test_each_step_leaves_the_scores_alone(request, tmp_path, name, steps):
    checkpoint, bundle = (request.getfixturevalue(one) for one in (name, f"{name}_bundle"))
    quantize(checkpoint, tmp_path / "equalised", precision="fp32", steps=steps)
    plain, equalised = (
        Reranker(path).score(QUERY, DOCUMENTS) for path in (bundle, tmp_path / "equalised")
    )
    np.testing.assert_allclose(equalised, plain, rtol=0, atol=TOLERANCE)
    weights = "model.fp32.onnx.data"
    assert (tmp_path / "equalised" / weights).read_bytes() != (bundle / weights).read_bytes()


def test_int8_of_an_embedding_model_is_close(embedding, tmp_path):
    fidelity = only_variant(quantize(embedding, tmp_path / "int8").directory).fidelity
    assert fidelity.mean_error < 0.15 * fidelity.spread


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with outliers."""
    directory = tmp_path_factory.mktemp("planted") / "checkpoint"
    write_planted(directory, outlier=100, massive=8000)
    return directory


def test_int8_ranks_as_float32_beside_outliers(planted, tmp_path):
    full, plain = (
        only_variant(quantize(planted, tmp_path / "bundle", steps=steps).directory).fidelity
        for steps in (None, ())
    )
    assert full.kendall_tau > 0.9
    assert full.mean_error < 0.12 * full.spread
    assert max(full.layers) < 0.06
    assert plain.kendall_tau < 0.6
    assert plain.mean_error > 6 * full.mean_error


def test_the_planted_outliers_are_there(planted):
    model = AutoModelForCausalLM.from_pretrained(planted).eval()
    bos = Tokenizer.from_file(str(planted / "tokenizer.json")).token_to_id("<bos>")
    with torch.no_grad():
        states = model(torch.arange(5, 100)[None], output_hidden_states=True).hidden_states
        massive = model(torch.tensor([[bos]]), output_hidden_states=True).hidden_states
    for state in states[1:-1]:
        rms = state[0].square().mean(dim=0).sqrt().numpy()
        assert rms[list(OUTLIER_CHANNELS)].min() > 30 * np.median(rms)
    assert massive[3].abs().max() > 5000


def test_gemma_3_270m_gives_the_logits_of_transformers(tmp_path):
    """Its stream reaches 100,000 where most of it is below 100."""
    checkpoint, collection = trained("gemma3-270m"), shared("collections/cisi")
    template = {**YES_OR_NO, "score": {" Yes": 1}}
    (tmp_path / "template.json").write_text(json.dumps(template))
    bundle = quantize(
        checkpoint, tmp_path / "bundle", precision="fp32", template=tmp_path / "template.json"
    ).directory
    lines = (collection / "corpus.jsonl").read_text().splitlines()[:8]
    documents = [json.loads(line)["text"] for line in lines]
    documents += [" ".join(documents), "", "数は力 der Fluß 🙂"]  # the first exceeds the window
    query = "What problems do libraries have with the retrieval of titles?"
    check_template(checkpoint, bundle, template, query, documents, 1500, 1e-3)
    scores, stock = (
        Reranker(bundle, max_length=1500, kernels=kernels).score(query, documents)
        for kernels in ("auto", "stock")
    )
    np.testing.assert_allclose(scores, stock, atol=1e-5 * (1 + np.std(stock)))
