"""Each family, from tiny random checkpoints, against its own reference: token ids and scores.

The oracles are sentence-transformers where it runs the family, and otherwise the code of the
family's model card over transformers' forward pass.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mxbai_rerank import MxbaiRerankV2
from sentence_transformers import CrossEncoder, SentenceTransformer
from tokenizers import AddedToken, Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    ElectraConfig,
    ElectraForSequenceClassification,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma3TextForSequenceClassification,
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
    XLMRobertaModel,
)

from edgerank import InputError, Reranker
from edgerank.bundle import read_bundle
from edgerank.prompt import PromptEncoder
from quantize import QuantizeError, quantize
from tests.support.bundles import encode_documents, only_variant, prompt_encoder
from tests.support.checkpoints import (
    bpe_tokenizer,
    changed_copy,
    save_embedding,
    save_model,
    wordpiece_tokenizer,
)
from tests.support.shared import shared

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")

QUERY = "who wrote dune?"
DOCUMENTS = [
    "Dune was written by Frank Herbert in 1965.",
    "Paris is the capital of France.",
    "",
    "  数は力 der Fluß fließt слово \n",
    "a query and a list of documents " * 40,
    "Dune.",
]
DECODER = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.08,
}
GEMMA3 = {
    **DECODER,
    "head_dim": 24,
    "query_pre_attn_scalar": 40,
    "sliding_window": 16,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
}
ENCODER = {
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.08,
    "num_labels": 1,
    "sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"},
}

Score = Callable[[str, list[str]], np.ndarray]
TokenIds = Callable[[str, str], list[int]]


@dataclass(frozen=True)
class Oracle:
    """What a family's reference makes of texts."""

    score: Score
    token_ids: TokenIds


@dataclass(frozen=True)
class Case:
    """A checkpoint of a family, how to save it and who knows its scores."""

    save: Callable[[Path], None]
    oracle: Callable[[Path], Oracle]
    family: str


def qwen_tokenizer(name: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_file(str(shared(f"tokenizers/{name}/tokenizer.json")))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", model_max_length=400
    )


def bos_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with the special tokens of Gemma's."""
    tokenizer = bpe_tokenizer()
    tokenizer.add_special_tokens([AddedToken(text) for text in ("<pad>", "<bos>", "<eos>")])
    tokenizer.add_tokens(["Yes"])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", model_max_length=512
    )


def saver(model_class, config, make_tokenizer, *, sharpen: str = "", **files: str):
    """Save a random model, its classifier's rows ``sharpen`` made large so that scores differ."""

    def save_it(directory: Path) -> None:
        tokenizer = make_tokenizer()
        torch.manual_seed(0)
        model = model_class(config(len(tokenizer)))
        if sharpen:
            with torch.no_grad():
                model.get_submodule(sharpen).weight *= 20
        save_model(model, directory)
        tokenizer.save_pretrained(directory)
        for name, content in files.items():
            (directory / f"{name}.json").write_text(content)

    return save_it


def sentence_transformers_oracle(directory: Path) -> Oracle:
    reference = CrossEncoder(str(directory), device="cpu")

    def score(query: str, documents: list[str]) -> np.ndarray:
        return reference.predict([(query, text) for text in documents])

    def token_ids(query: str, document: str) -> list[int]:
        return reference.tokenizer([query], [document], truncation=True)["input_ids"][0]

    return Oracle(score, token_ids)


def causal_oracle(directory: Path, token_ids, read) -> Oracle:
    """Run prompts one by one; ``read`` makes a score of the last logits."""
    model = AutoModelForCausalLM.from_pretrained(directory).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory)

    def ids(query: str, document: str) -> list[int]:
        return token_ids(tokenizer, query, document)

    @torch.no_grad()
    def score(query: str, documents: list[str]) -> np.ndarray:
        prompts = [torch.tensor([ids(query, document)]) for document in documents]
        return np.array([float(read(tokenizer, model(prompt).logits[0, -1])) for prompt in prompts])

    return Oracle(score, ids)


QWEN3_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and"
    ' the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
QWEN3_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
QWEN3_TASK = "Given a web search query, retrieve relevant passages that answer the query"


def qwen3_oracle(directory: Path) -> Oracle:
    """The model card of Qwen/Qwen3-Reranker-0.6B."""

    def token_ids(tokenizer, query: str, document: str) -> list[int]:
        prefix, suffix = (
            tokenizer.encode(text, add_special_tokens=False)
            for text in (QWEN3_PREFIX, QWEN3_SUFFIX)
        )
        text = f"<Instruct>: {QWEN3_TASK}\n<Query>: {query}\n<Document>: {document}"
        room = MAX_LENGTH - len(prefix) - len(suffix)
        middle = tokenizer(text, truncation="longest_first", max_length=room)["input_ids"]
        return prefix + middle + suffix

    def read(tokenizer, logits):
        pair = logits[[tokenizer.convert_tokens_to_ids(word) for word in ("no", "yes")]]
        return torch.nn.functional.log_softmax(pair, dim=0)[1].exp()

    return causal_oracle(directory, token_ids, read)


def qwen3_classifier_oracle(directory: Path) -> Oracle:
    """The model card of tomaarsen/Qwen3-Reranker-0.6B-seq-cls."""
    reference = CrossEncoder(str(directory), device="cpu")

    def texts(query: str, document: str) -> tuple[str, str]:
        return (
            f"{QWEN3_PREFIX}<Instruct>: {QWEN3_TASK}\n<Query>: {query}\n",
            f"<Document>: {document}{QWEN3_SUFFIX}",
        )

    def score(query: str, documents: list[str]) -> np.ndarray:
        return reference.predict([texts(query, document) for document in documents])

    def token_ids(query: str, document: str) -> list[int]:
        pair = ([text] for text in texts(query, document))
        return reference.tokenizer(*pair)["input_ids"][0]

    return Oracle(score, token_ids)


def zerank_oracle(directory: Path) -> Oracle:
    """The chat and the score of zeroentropy/zerank-1's modeling_zeranker.py."""

    def token_ids(tokenizer, query: str, document: str) -> list[int]:
        chat = (
            f"<|im_start|>system\n{query.strip()}<|im_end|>\n"
            f"<|im_start|>user\n{document.strip()}<|im_end|>\n<|im_start|>assistant\n"
        )
        return tokenizer.encode(chat, add_special_tokens=False)

    def read(tokenizer, logits):
        return torch.sigmoid(logits[tokenizer.convert_tokens_to_ids("Yes")] / 5)

    return causal_oracle(directory, token_ids, read)


def bge_gemma_oracle(directory: Path) -> Oracle:
    """The PyPI package FlagEmbedding, inference/reranker/decoder_only/base.py."""
    task = (
        "Given a query A and a passage B, determine whether the passage contains an answer to the"
        " query by providing a prediction of either 'Yes' or 'No'."
    )

    def token_ids(tokenizer, query: str, document: str) -> list[int]:
        def encode(text: str, length: int | None = None) -> list[int]:
            return tokenizer(
                text, add_special_tokens=False, truncation=length is not None, max_length=length
            )["input_ids"]

        separator, prompt = encode("\n"), encode(task)
        first = [tokenizer.bos_token_id, *encode(f"A: {query}", MAX_LENGTH * 3 // 4)]
        second = separator + encode(f"B: {document}", MAX_LENGTH)
        excess = len(first + second) - (MAX_LENGTH + len(separator) + len(prompt))
        if excess > 0:
            second = second[:-excess]
        return first + second + separator + prompt

    def read(tokenizer, logits):
        return logits[tokenizer.convert_tokens_to_ids("Yes")]

    return causal_oracle(directory, token_ids, read)


def mxbai_oracle(directory: Path) -> Oracle:
    reference = MxbaiRerankV2(str(directory), device="cpu", max_length=MAX_LENGTH)

    def score(query: str, documents: list[str]) -> np.ndarray:
        results = reference.rank(query, documents, sort=False)
        return np.array([result.score for result in results])

    def token_ids(query: str, document: str) -> list[int]:
        inputs = reference.prepare_inputs([query], [document])
        return inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()

    return Oracle(score, token_ids)


def electra_tokenizer() -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=wordpiece_tokenizer(),
        pad_token="[PAD]",
        model_max_length=128,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def xlmr_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_file(str(shared("tokenizers/xlm-roberta/tokenizer.json")))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=128
    )


def roberta_tokenizer(**names: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer that joins pairs as RoBERTa's does."""
    from tokenizers.processors import RobertaProcessing

    tokenizer = bpe_tokenizer()
    tokenizer.add_special_tokens([AddedToken(text) for text in ("<s>", "<pad>", "</s>")])
    sep, cls = (tokenizer.token_to_id(text) for text in ("</s>", "<s>"))
    tokenizer.post_processor = RobertaProcessing(
        ("</s>", sep), ("<s>", cls), trim_offsets=True, add_prefix_space=False
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", model_max_length=128, **names
    )


MAX_LENGTH = 300
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
CASES = {
    "electra": Case(
        saver(
            ElectraForSequenceClassification,
            lambda size: ElectraConfig(
                vocab_size=size, embedding_size=64, max_position_embeddings=128, **ENCODER
            ),
            electra_tokenizer,
            sharpen="classifier.out_proj",
        ),
        sentence_transformers_oracle,
        "cross-encoder",
    ),
    "electra-small": Case(
        saver(
            ElectraForSequenceClassification,
            lambda size: ElectraConfig(
                vocab_size=size, embedding_size=32, max_position_embeddings=128, **ENCODER
            ),
            electra_tokenizer,
            sharpen="classifier.out_proj",
        ),
        sentence_transformers_oracle,
        "cross-encoder",
    ),
    "mpnet": Case(
        saver(
            MPNetForSequenceClassification,
            lambda size: MPNetConfig(
                vocab_size=size, max_position_embeddings=130, pad_token_id=0, **ENCODER
            ),
            lambda: roberta_tokenizer(model_input_names=["input_ids", "attention_mask"]),
            sharpen="classifier.out_proj",
        ),
        sentence_transformers_oracle,
        "cross-encoder",
    ),
    "roberta": Case(
        saver(
            RobertaForSequenceClassification,
            lambda size: RobertaConfig(
                vocab_size=size,
                max_position_embeddings=130,
                type_vocab_size=1,
                pad_token_id=1,
                **ENCODER,
            ),
            roberta_tokenizer,
            sharpen="classifier.out_proj",
        ),
        sentence_transformers_oracle,
        "cross-encoder",
    ),
    "xlm-roberta": Case(
        saver(
            XLMRobertaForSequenceClassification,
            lambda size: XLMRobertaConfig(
                vocab_size=size,
                max_position_embeddings=514,
                type_vocab_size=1,
                pad_token_id=1,
                **ENCODER,
            ),
            xlmr_tokenizer,
            sharpen="classifier.out_proj",
        ),
        sentence_transformers_oracle,
        "cross-encoder",
    ),
    "qwen2-classifier": Case(
        saver(
            Qwen2ForSequenceClassification,
            lambda size: Qwen2Config(vocab_size=size, pad_token_id=0, num_labels=1, **DECODER),
            lambda: PreTrainedTokenizerFast(
                tokenizer_object=bpe_tokenizer(), pad_token="<|endoftext|>", model_max_length=400
            ),
        ),
        sentence_transformers_oracle,
        "cross-encoder",
    ),
    "qwen3-reranker": Case(
        saver(
            Qwen3ForCausalLM,
            lambda size: Qwen3Config(
                vocab_size=size, head_dim=32, tie_word_embeddings=True, **DECODER
            ),
            lambda: qwen_tokenizer("qwen3"),
        ),
        qwen3_oracle,
        "qwen3-reranker",
    ),
    "qwen3-classifier": Case(
        saver(
            Qwen3ForSequenceClassification,
            lambda size: Qwen3Config(
                vocab_size=size, head_dim=32, pad_token_id=151643, num_labels=1, **DECODER
            ),
            lambda: qwen_tokenizer("qwen3"),
        ),
        qwen3_classifier_oracle,
        "qwen3-reranker",
    ),
    "zerank": Case(
        saver(
            Qwen3ForCausalLM,
            lambda size: Qwen3Config(
                vocab_size=size,
                head_dim=32,
                tie_word_embeddings=True,
                auto_map={"AutoConfig": "modeling_zeranker.ZEConfig"},
                **DECODER,
            ),
            lambda: qwen_tokenizer("qwen3"),
        ),
        zerank_oracle,
        "zerank",
    ),
    "bge-gemma": Case(
        saver(
            GemmaForCausalLM,
            lambda size: GemmaConfig(vocab_size=size, head_dim=24, **DECODER),
            bos_tokenizer,
        ),
        bge_gemma_oracle,
        "bge-reranker-gemma",
    ),
    "gemma3": Case(
        saver(
            Gemma3ForCausalLM,
            lambda size: Gemma3TextConfig(vocab_size=size, **GEMMA3),
            bos_tokenizer,
        ),
        bge_gemma_oracle,
        "bge-reranker-gemma",
    ),
    "gemma3-classifier": Case(
        saver(
            Gemma3TextForSequenceClassification,
            lambda size: Gemma3TextConfig(
                vocab_size=size, pad_token_id=bos_tokenizer().pad_token_id, num_labels=1, **GEMMA3
            ),
            bos_tokenizer,
        ),
        sentence_transformers_oracle,
        "cross-encoder",
    ),
    "mxbai-llama": Case(
        saver(
            LlamaForCausalLM,
            lambda size: LlamaConfig(vocab_size=size, rope_scaling=LLAMA3_ROPE, **DECODER),
            lambda: qwen_tokenizer("qwen2.5"),
        ),
        mxbai_oracle,
        "mxbai-rerank-v2",
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Case:
    """One of ``CASES``."""
    return CASES[request.param]


@pytest.fixture(scope="module")
def checkpoint(case, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("family") / "checkpoint"
    case.save(directory)
    return directory


@pytest.fixture(scope="module")
def oracle(case, checkpoint) -> Oracle:
    return case.oracle(checkpoint)


@pytest.fixture(scope="module")
def fp32(checkpoint) -> Path:
    target = checkpoint.with_name("fp32")
    quantize(checkpoint, target, precision="fp32")
    return target


def length_of(case: Case, bundle: Path) -> int:
    """Return the maximum length that the oracle runs with."""
    manifest = read_bundle(bundle).manifest
    is_asked = case.family in ("qwen3-reranker", "bge-reranker-gemma", "mxbai-rerank-v2")
    return MAX_LENGTH if is_asked else manifest.max_length


def test_the_family_is_recognised(case, fp32):
    assert read_bundle(fp32).manifest.family == case.family


def test_scores_are_the_references(case, oracle, fp32):
    reranker = Reranker(fp32, max_length=length_of(case, fp32))
    documents = DOCUMENTS
    if case.oracle in (qwen3_classifier_oracle, zerank_oracle):  # these cut the question off
        documents = [document[:200] for document in DOCUMENTS]
    expected = oracle.score(QUERY, documents)
    scores = reranker.score(QUERY, documents)
    assert np.ptp(expected) > 1e-3
    np.testing.assert_allclose(scores, expected, atol=1e-4)


def test_normalised_scores_lie_between_0_and_1_in_the_same_order(fp32):
    reranker = Reranker(fp32)
    scores, normalised = (reranker.score(QUERY, DOCUMENTS, normalize=on) for on in (False, True))
    assert 0 <= normalised.min() < normalised.max() <= 1
    np.testing.assert_array_equal(np.argsort(normalised), np.argsort(scores))


@pytest.mark.parametrize("case", ["qwen3-reranker"], indirect=True)
def test_an_instruction_takes_the_place_of_the_familys_own(checkpoint, fp32, monkeypatch):
    reranker = Reranker(fp32, max_length=MAX_LENGTH)
    usual = reranker.score(QUERY, DOCUMENTS)
    monkeypatch.setattr("tests.reference.test_families.QWEN3_TASK", "Find the author\nof a book ")
    expected = qwen3_oracle(checkpoint).score(QUERY, DOCUMENTS)
    scores = reranker.score(QUERY, DOCUMENTS, instruction="Find the author\nof a book ")
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.abs(scores - usual).max() > 1e-3


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
special = st.sampled_from(["<|im_end|>", "\n", " \n", "?\n", ".", "<Document>:", "</s>", "[SEP]"])


@pytest.fixture(scope="module")
def encoder(case, fp32) -> PromptEncoder:
    return prompt_encoder(read_bundle(fp32), length_of(case, fp32))


@settings(deadline=None, max_examples=20)
@given(query=words | special, document=words | special, repeats=st.sampled_from([1, 1, 1, 60]))
def test_token_ids_are_the_references(case, oracle, encoder, query, document, repeats):
    document *= 1 if case.oracle in (qwen3_classifier_oracle, zerank_oracle) else repeats
    encoded = encode_documents(encoder, query, [document])
    ids = np.concatenate([encoded.query.ids, encoded.sequences[0].ids])
    assert ids.tolist() == list(oracle.token_ids(query, document))


ARCHITECTURES = (
    "electra",
    "electra-small",
    "mpnet",
    "roberta",
    "qwen3-reranker",
    "bge-gemma",
    "gemma3",
    "mxbai-llama",
)


@pytest.mark.parametrize("case", ARCHITECTURES, indirect=True)
def test_int8_stays_close(checkpoint, tmp_path):
    """Random weights take rounding badly: documents hardly differ, so errors weigh much."""
    fidelity = only_variant(quantize(checkpoint, tmp_path / "int8").directory).fidelity
    assert max(fidelity.layers) < 0.04
    assert fidelity.mean_error < 0.35 * fidelity.spread
    assert fidelity.kendall_tau > 0.75


def test_an_embedding_model_reads_its_prompts_and_roberta_positions(tmp_path):
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    tokenizer = xlmr_tokenizer()
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=514,
        type_vocab_size=1,
        pad_token_id=1,
        **ENCODER,
    )
    save_model(XLMRobertaModel(config), tmp_path / "backbone")
    tokenizer.save_pretrained(tmp_path / "backbone")
    transformer = Transformer(str(tmp_path / "backbone"), max_seq_length=96)
    reference = SentenceTransformer(
        modules=[transformer, Pooling(64, pooling_mode="mean"), Normalize()],
        device="cpu",
        prompts={"query": "query: ", "passage": "passage: "},
    )
    reference.save(str(tmp_path / "checkpoint"))
    reference = SentenceTransformer(str(tmp_path / "checkpoint"), device="cpu")
    quantize(tmp_path / "checkpoint", tmp_path / "bundle", precision="fp32")
    query, documents = reference.encode_query(QUERY), reference.encode_document(DOCUMENTS)
    scores = Reranker(tmp_path / "bundle").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, documents @ query, atol=1e-4)


def test_an_embedding_model_may_end_in_dense_modules(tmp_path):
    """As LaBSE does."""
    save_embedding(tmp_path / "checkpoint", "cls", has_dense=True)
    reference = SentenceTransformer(str(tmp_path / "checkpoint"), device="cpu")
    quantize(tmp_path / "checkpoint", tmp_path / "bundle", precision="fp32")
    query, *documents = reference.encode([QUERY, *DOCUMENTS])
    scores = Reranker(tmp_path / "bundle").score(QUERY, DOCUMENTS)
    np.testing.assert_allclose(scores, np.array(documents) @ query, atol=1e-4)


def test_a_template_of_ones_own_and_a_family_by_name(tmp_path):
    """A Qwen3 decoder asked as mxbai-rerank asks, once by name and once by a template."""
    checkpoint, named, templated = (tmp_path / name for name in ("checkpoint", "named", "own"))
    saver(
        Qwen3ForCausalLM,
        lambda size: Qwen3Config(vocab_size=size, head_dim=32, tie_word_embeddings=True, **DECODER),
        lambda: PreTrainedTokenizerFast(
            tokenizer_object=bpe_tokenizer(), pad_token="<|endoftext|>"
        ),
    )(checkpoint)
    own = {
        "prompt": {
            "query": [{"text": "{query}"}, {"text": "?"}],
            "document": [{"text": "{document}"}, {"text": "="}],
        },
        "score": {"1": 2, "0": -1},
        "max_length": 256,
    }
    (tmp_path / "template.json").write_text(json.dumps(own))
    quantize(checkpoint, templated, precision="fp32", template=tmp_path / "template.json")
    assert read_bundle(templated).manifest.max_length == 256

    def token_ids(tokenizer, query: str, document: str) -> list[int]:
        return [id for text in (query, "?", document, "=") for id in tokenizer.encode(text)]

    def read(tokenizer, logits):
        one, zero = (logits[tokenizer.convert_tokens_to_ids(digit)] for digit in "10")
        return 2 * one - zero

    expected = causal_oracle(checkpoint, token_ids, read).score(QUERY, DOCUMENTS[:2])
    scores = Reranker(templated).score(QUERY, DOCUMENTS[:2])
    np.testing.assert_allclose(scores, expected, atol=1e-4)

    quantize(checkpoint, named, precision="fp32", family="mxbai-rerank-v2")
    assert read_bundle(named).manifest.family == "mxbai-rerank-v2"
    shutil.rmtree(named)
    with pytest.raises(QuantizeError, match="not supported by family embedding"):
        quantize(checkpoint, named, precision="fp32", family="embedding")
    with pytest.raises(InputError, match="family: 'x' is unknown; choose zerank, "):
        quantize(checkpoint, named, precision="fp32", family="x")
    with pytest.raises(InputError, match=r"config.json: not a template"):
        quantize(checkpoint, named, precision="fp32", template=checkpoint / "config.json")
    assert not named.exists()


@pytest.mark.parametrize(
    "architecture",
    ["BertForSequenceClassification", "BertModel", "AlbertForSequenceClassification"],
)
def test_only_decoders_take_a_template(embedding, tmp_path, architecture):
    """Whether there is a writer for the architecture or optimum would export it."""
    checkpoint = changed_copy(embedding, tmp_path / "checkpoint", architectures=[architecture])
    own = {"prompt": {"query": [{"text": "{query}"}], "document": [{"text": "{document}"}]}}
    (tmp_path / "template.json").write_text(json.dumps(own))
    with pytest.raises(QuantizeError, match=f"{architecture} takes no template; only decoders do"):
        quantize(checkpoint, tmp_path / "bundle", template=tmp_path / "template.json")
