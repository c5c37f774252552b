"""The making of the default model: text, lists, the model in torch and as a graph, training."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from edgerank import DocumentStore, Reranker
from edgerank.engine import gather
from edgerank.errors import InputError
from edgerank.packing import EMPTY, Group, Tokens
from edgerank.rules import TOKEN_VECTORS
from quantize import quantize
from quantize.checkpoint.tokenization import load_tokenizer
from quantize.errors import QuantizeError
from quantize.training import losses, mining, score_calibration, training
from quantize.training.__main__ import initialize, train
from quantize.training.batches import TrainingBatch, TrainingSettings, batch_of
from quantize.training.corpus import CorpusRecord, extract, is_held_out
from quantize.training.curve import draw_curve, read_logs
from quantize.training.initialize import (
    initialize_cross_encoder,
    initialize_late_interaction,
    prune,
)
from quantize.training.model import TextTokenizer, load_model, save_model
from quantize.training.teacher_vectors import (
    TeacherVectors,
    embed_records,
    read_vectors,
    write_vectors,
)
from quantize.training.text import manual_sections, sections

QUERY = "what is the capital of France?"
TEXTS = [
    "Paris, since 987.",
    "Dune was written by Frank Herbert in 1965; der Fluß fließt.",
    "A reranker reads a query and a list of documents and gives each document a score.",
    "the capital of France is what the capital of France was",
    "query",
]
HTML = """<html><head><title>Sockets &mdash; Manual 3.1</title><script>var x = 1;</script></head>
<body><nav>Next | Previous</nav><h1>Sockets</h1><p>A socket is one end of a connection that two
programs talk through, on one machine or on two of them.</p>
<h2>Closing<a>¶</a></h2><p>Close a socket to say that nothing more will come, and to give
back what the system keeps for it until then.</p></body></html>"""
MANUAL = r""".TH SORT 1
.SH NAME
sort \- sort lines of text files
.SH DESCRIPTION
.PP
Write sorted concatenation of all
.BR FILE (s)
to standard output, comparing lines by the rules of the language that is set.
.SH "SEE ALSO"
uniq(1)
"""
PYTHON = '''
def mean(values):
    """Return the arithmetic mean of some numbers.

    Numbers that are not finite make the mean neither, as the sum of all of them is divided once.
    """
    total = sum(values)
    return total / len(values)
'''
DEBIAN = """Package: tree
Description-md5: 0123
Description-en: displays an indented directory tree, in color
 Tree is a recursive directory listing command that produces a depth
 indented listing of files, which is colorized if you wish.
 .
 It needs no configuration at all.
"""
DICTIONARY = """recursion
   When a function calls itself, which must end in a case that does
   not.  See {recursion}.

stack
   A pile of things of which only the uppermost can be taken away,
   as plates in a canteen are.
"""


def test_markup_becomes_sections_without_navigation_and_code():
    found = {section.title: section.text for section in sections(HTML)}
    assert list(found) == ["", "Sockets — Manual 3.1", "Sockets", "Closing"]
    assert found["Closing"].startswith("Close a socket to say")
    assert "var x" not in str(found) and "Previous" not in str(found)


def test_a_manual_page_loses_its_macros():
    found = {section.title: section.text for section in manual_sections(MANUAL)}
    assert found["Name"] == "sort - sort lines of text files"
    assert "concatenation of all FILE(s) to standard" in found["Description"].replace(" (s)", "(s)")


@pytest.mark.parametrize(
    ("kind", "file", "content", "query", "passage"),
    [
        ("html", "doc/sockets.html", HTML, "closing", "Close a socket"),
        ("manual", "man1/sort.1.gz", MANUAL, "sort lines of text files", "Write sorted"),
        ("python", "lib/statistics.py", PYTHON, "arithmetic mean", "mean Numbers that are"),
        ("debian", "descriptions", DEBIAN, "indented directory tree", "Tree is a recursive"),
        ("dictd", "words.dict.dz", DICTIONARY, "recursion", "When a function"),
    ],
)
def test_queries_are_found_with_what_answers_them(tmp_path, kind, file, content, query, passage):
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    encoded = content.encode()
    path.write_bytes(gzip.compress(encoded) if path.suffix in (".gz", ".dz") else encoded)
    root = path if kind in ("debian", "dictd") else path.parent
    # a title is asked for in three of four cases
    found = [record for seed in range(20) for record in extract(kind, "here", root, 9, seed)]
    assert any(
        query in record.query.lower() and record.passage.startswith(passage) for record in found
    )
    for record in found:
        assert record.query not in record.passage or len(record.query) < 20


def test_all_records_of_a_page_are_held_out_or_none():
    records = [CorpusRecord("a", str(page), f"q{i}", "p") for page in range(2000) for i in range(2)]
    held = [is_held_out(record) for record in records]
    assert held[::2] == held[1::2]
    assert 60 < sum(held[::2]) < 140  # of 2000 at one in twenty: four standard deviations


def test_a_pruned_vocabulary_reads_kept_words_as_before_and_others_as_pieces(embedding):
    full = Tokenizer.from_file(str(embedding / "tokenizer.json"))
    letters = sum(len(token.removeprefix("##")) == 1 for token in full.get_vocab())
    pruned, kept = prune(full, ["reranker reranker", "france"], letters + 5 + 4)
    assert pruned.get_vocab_size() == len(kept) == letters + 9
    assert [full.id_to_token(old) for old in kept] == [
        pruned.id_to_token(new) for new in range(len(kept))
    ]
    encoded = pruned.encode("reranker zebra")
    assert encoded.tokens[:2] == ["[CLS]", "reranker"]
    assert encoded.tokens[2:-1] == ["z", "##e", "##b", "##r", "##a"]
    with pytest.raises(QuantizeError, match="too few"):
        prune(full, [], 20)


DIMENSION = 24  # of 64


@pytest.fixture(scope="module")
def checkpoint(embedding, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("late") / "interaction"
    save_model(*initialize_late_interaction(embedding, TEXTS, None, None, DIMENSION), directory)
    return directory


@pytest.fixture(scope="module")
def late(checkpoint, tmp_path_factory) -> Reranker:
    target = tmp_path_factory.mktemp("late") / "bundle"
    quantize(checkpoint, target, precision="fp32")
    return Reranker(target)


@torch.inference_mode()
def test_the_graph_computes_what_the_torch_model_does(checkpoint, late):
    tokenize = TextTokenizer(load_tokenizer(checkpoint))
    documents = [*TEXTS, "", "Paris " * 40]
    logits = load_model(checkpoint)(tokenize([QUERY, "dune"], 96), tokenize(documents, 96))
    expected = torch.sigmoid(logits[0]).numpy()
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(late.score(QUERY, documents), expected, atol=1e-5)


@torch.inference_mode()
def test_the_projection_keeps_more_of_the_vectors_than_another_of_its_size(embedding):
    model, tokenizer = initialize_late_interaction(embedding, TEXTS, None, None, DIMENSION)
    texts = TextTokenizer(tokenizer)(TEXTS, 96)
    units = torch.nn.functional.normalize(model.hidden(texts, 1)[texts.is_token], dim=-1)
    basis = model.projection.weight
    torch.testing.assert_close(basis @ basis.T, torch.eye(DIMENSION), rtol=0, atol=1e-5)
    _, values, _ = torch.linalg.svd(units.double())
    assert float((units @ basis.T).square().sum()) == pytest.approx(
        float(values[:DIMENSION].square().sum()), rel=1e-4
    )


def test_a_checkpoint_without_a_dimension_is_refused(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "old")
    config = json.loads((checkpoint / "config.json").read_bytes())
    del config["dimension"]
    (tmp_path / "old/config.json").write_text(json.dumps(config))
    with pytest.raises(QuantizeError, match=r"config\.json: .*`dimension`"):
        load_model(tmp_path / "old")


def test_a_projection_to_more_dimensions_is_refused(embedding):
    with pytest.raises(QuantizeError, match="dimension of 65 is wanted, and the hidden size is 64"):
        initialize_late_interaction(embedding, TEXTS, None, None, 65)


def test_a_cross_encoder_begins_with_the_embedding_models_layers(embedding, tmp_path):
    save_model(*initialize_cross_encoder(embedding, TEXTS, None, 2), tmp_path / "checkpoint")
    before, after = (
        load_file(directory / "model.safetensors")
        for directory in (embedding, tmp_path / "checkpoint")
    )
    last = "encoder.layer.{}.output.dense.weight"
    assert torch.equal(after["bert." + last.format(0)], before[last.format(0)])
    assert torch.equal(after["bert." + last.format(1)], before[last.format(2)])
    assert "bert." + last.format(2) not in after
    with pytest.raises(QuantizeError, match="9 layers"):
        initialize_cross_encoder(embedding, TEXTS, None, 9)


def features_of(checkpoint: Path, query: str, documents: list[str]) -> torch.Tensor:
    model, tokenize = load_model(checkpoint), TextTokenizer(load_tokenizer(checkpoint))
    texts = tokenize([query], 96), tokenize(documents, 96)
    return model.features(texts[0], model.encode(texts[0], 0), texts[1], model.encode(texts[1], 1))[
        0
    ]


@torch.inference_mode()
def test_the_graph_puts_out_a_vector_for_each_token(checkpoint, late):
    """Whether a text is in a pair or by itself."""
    model, tokenize = load_model(checkpoint), TextTokenizer(load_tokenizer(checkpoint))
    texts = tokenize([QUERY], 96), tokenize([TEXTS[0]], 96)
    expected = [model.encode(texts[token_type], token_type)[0].numpy() for token_type in (0, 1)]
    query, document = (
        Tokens(part.ids[0].numpy(), np.full(part.ids.shape[1], token_type))
        for token_type, part in enumerate(texts)
    )
    pair = Tokens(
        np.concatenate([query.ids, document.ids]), np.concatenate([query.types, document.types])
    )
    group = Group(EMPTY, [pair, query, document], range(3))
    vectors = gather(late.steps([group], TOKEN_VECTORS), TOKEN_VECTORS, 3)
    for found, wanted in zip(vectors, (np.concatenate(expected), *expected), strict=True):
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@torch.inference_mode()
def test_neither_part_of_a_pair_sees_the_other(embedding, tmp_path):
    """With all dimensions the projection is a rotation, which changes no cosine."""
    quantize(embedding, tmp_path / "embedding", precision="fp32")
    cosines = Reranker(tmp_path / "embedding").score(QUERY, TEXTS)
    whole = initialize_late_interaction(embedding, TEXTS, None, None, 64)
    save_model(*whole, tmp_path / "whole")
    features = features_of(tmp_path / "whole", QUERY, TEXTS)
    np.testing.assert_allclose(features[:, 0].numpy(), cosines, atol=1e-5)


@torch.inference_mode()
def test_words_in_common_count_as_in_bm25(checkpoint):
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    document = "the capital of france is what the capital of france was"
    exact = features_of(checkpoint, "capital paris", [document, *TEXTS])[0, 2]
    weights = {
        word: float(model.token_weights[tokenizer.token_to_id(word)])
        for word in ("capital", "paris")
    }
    words = len(document.split())
    lexical = model.lexical
    norm = lexical.k1 * (1 - lexical.b + lexical.b * words / lexical.average_length)
    expected = weights["capital"] * 2 / (2 + norm) / sum(weights.values())
    assert float(exact) == pytest.approx(expected, rel=1e-5)


def test_a_score_is_a_probability_and_depends_on_its_pair_alone(late):
    pairs = [(query, text) for query in (QUERY, "dune", "?") for text in [*TEXTS, ""]]
    together = late.score_pairs(pairs)
    assert (together >= 0).all() and (together <= 1).all()
    alone = [late.score(query, [text])[0] for query, text in pairs]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_store_scores_documents_that_were_encoded_apart_as_the_graph_scores_pairs(late, tmp_path):
    documents = {str(place): text for place, text in enumerate([*TEXTS, ""])}
    with DocumentStore.build(tmp_path / "store", documents, late) as store:
        for query in TEXTS[:3]:
            expected = late.score(query, documents.values())
            np.testing.assert_allclose(store.score(query, documents), expected, atol=1e-3)


def test_a_document_over_the_length_is_split_unless_the_caller_says(late):
    assert late.bundle.manifest.truncation.long_documents == "split"
    longs = [f"{first} " * 30 + last for first in TEXTS for last in TEXTS]
    best = late.score(QUERY, longs)
    assert np.array_equal(best, late.score(QUERY, longs, long_documents="split"))
    beginnings = late.score(QUERY, longs, long_documents="truncate")
    assert (best >= beginnings - 1e-6).all()
    assert (best > beginnings + 1e-3).any()


RECORDS = [CorpusRecord("here", str(i), text.split(",")[0], text) for i, text in enumerate(TEXTS)]
LISTS = [
    mining.Candidates("here", record.query, [i, *(j for j in range(5) if j != i)])
    for i, record in enumerate(RECORDS)
]
SETTINGS = TrainingSettings(steps=4, size=3, lists_a_step=2, rate=1e-3)


@pytest.mark.parametrize("kind", ["late-interaction", "cross-encoder"])
def test_training_goes_on_where_it_was_interrupted(
    checkpoint, embedding, tmp_path, monkeypatch, kind
):
    student = checkpoint
    if kind == "cross-encoder":
        student = tmp_path / "student"
        save_model(*initialize_cross_encoder(embedding, TEXTS, None, None), student)

    def run(target: Path, settings: TrainingSettings = SETTINGS) -> None:
        training.train(student, checkpoint, RECORDS, LISTS, LISTS, target, settings)

    run(tmp_path / "whole")
    monkeypatch.setattr(training, "SAVE_EVERY", 2)
    batch_of = training.batch_of

    def interrupt(records, lists, settings, step):
        if step == 3:
            raise KeyboardInterrupt
        return batch_of(records, lists, settings, step)

    monkeypatch.setattr(training, "batch_of", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    monkeypatch.setattr(training, "batch_of", batch_of)
    run(tmp_path / "parts")
    whole, parts, before = (
        load_file(directory / "model.safetensors")
        for directory in (tmp_path / "whole", tmp_path / "parts", student)
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    logs = [(tmp_path / name / "training.jsonl").read_text() for name in ("whole", "parts")]
    assert logs[0] == logs[1]
    assert len(logs[0].splitlines()) == SETTINGS.steps
    (changed,) = (name for name in whole if name.endswith("layer.0.output.dense.weight"))
    (words,) = (name for name in whole if name.endswith("word_embeddings.weight"))
    assert not torch.equal(whole[changed], before[changed])
    assert torch.equal(whole[words], before[words])
    with pytest.raises(QuantizeError, match="other settings"):
        run(tmp_path / "parts", TrainingSettings(steps=5))


def test_a_cross_encoder_learns_what_it_is_shown(checkpoint, embedding, tmp_path):
    save_model(*initialize_cross_encoder(embedding, TEXTS, None, None), tmp_path / "student")
    settings = TrainingSettings(steps=30, size=4, lists_a_step=5, rate=3e-3)
    training.train(
        tmp_path / "student", checkpoint, RECORDS, LISTS, LISTS, tmp_path / "target", settings
    )
    lines = (tmp_path / "target/training.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    quantize(tmp_path / "target", tmp_path / "bundle", precision="fp32")
    reranker = Reranker(tmp_path / "bundle")
    for record in RECORDS:
        assert np.argmax(reranker.score(record.query, TEXTS)) == TEXTS.index(record.passage)


def test_what_may_be_right_too_is_not_compared():
    records = [
        CorpusRecord("a", page, f"q{i}", text)
        for i, (page, text) in enumerate([("1", "x"), ("1", "y"), ("2", "x"), ("2", "z")])
    ]
    lists = [mining.Candidates("a", f"q{i}", [i, (i + 2) % 4]) for i in range(4)]
    settings = TrainingSettings(steps=1, size=2, lists_a_step=4)
    batch = batch_of(records, lists, settings, 0)
    for row, query in enumerate(batch.queries):
        own = records[int(query[1])]
        right = batch.is_right[row].nonzero().flatten().tolist()
        assert [batch.passages[column] for column in right] == [own.passage]
        wrong = {batch.passages[column] for column in batch.is_wrong[row].nonzero().flatten()}
        # the other page's passages, but for the one with the same text
        assert wrong == {r.passage for r in records if r.page != own.page} - {own.passage}


@pytest.mark.parametrize("known", [0.5, 0.0, 1.0])
def test_the_loss_is_a_cross_entropy_with_a_share_of_what_is_known(known):
    batch = TrainingBatch(
        ["a", "b"], list("1234"), torch.ones(2, 4, dtype=torch.bool), [0, 1, 2, 3], [0, 2], 0
    )
    random = np.random.default_rng(0)
    given, teacher = random.normal(size=(2, 2, 4)).astype(np.float32)
    compared = np.array([[True, True, False, True], [True, True, True, True]])
    total = 0.0
    for row, right in enumerate((0, 2)):
        columns = np.flatnonzero(compared[row])
        shares = np.exp(teacher[row, columns]) / np.exp(teacher[row, columns]).sum()
        wanted = (1 - known) * shares + known * (columns == right)
        total -= wanted @ np.log(np.exp(given[row, columns]) / np.exp(given[row, columns]).sum())
    loss = losses.ranking_loss(
        torch.tensor(given), torch.tensor(teacher), batch, torch.tensor(compared), known
    )
    assert float(loss) == pytest.approx(total / 2, rel=1e-5)


def test_texts_are_encoded_the_same_in_any_company(checkpoint, monkeypatch):
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    texts = TextTokenizer(tokenizer)([*TEXTS, *reversed(TEXTS)], 64)
    with torch.no_grad():
        expected = model.encode(texts, 1)[texts.is_token]
        monkeypatch.setattr(losses, "ENCODED_AT_ONCE", 3)
        found = losses.encode_by_length(model, texts, 1)[texts.is_token]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_pairs_are_scored_the_same_in_any_company(checkpoint, embedding, tmp_path):
    save_model(*initialize_cross_encoder(embedding, TEXTS, None, None), tmp_path / "student")
    model, tokenizer = load_model(tmp_path / "student"), load_tokenizer(checkpoint)
    pairs = [(query, text) for query in (QUERY, "dune", TEXTS[2]) for text in [*TEXTS, ""] * 2]
    assert len(pairs) > losses.ENCODED_AT_ONCE
    tokenize = TextTokenizer(tokenizer)
    with torch.no_grad():
        alone = [model(**tokenize.pairs([pair], 64)).logits[0, 0] for pair in pairs]
        found = losses.score_by_length(model, tokenize.pairs(pairs, 64))
    torch.testing.assert_close(found, torch.stack(alone), rtol=0, atol=1e-5)


def test_a_share_of_the_lists_is_compared_with_a_passage_that_is_not_in_the_list():
    settings = TrainingSettings(steps=1, size=3, lists_a_step=4, known=0, passages_as_queries=0.5)
    batch = batch_of(RECORDS, LISTS, settings, 0)
    assert batch.as_queries == 2
    rows = [batch.passages[row * 3 : row * 3 + 3] for row in range(4)]
    for place, number in enumerate(batch.query_numbers):
        own = RECORDS[number]
        if place < batch.as_queries:
            assert batch.queries[place] == own.passage
            assert own.passage not in rows[place]
        else:
            assert batch.queries[place] == own.query
            assert rows[place][0] == own.passage


def test_lists_that_are_too_short_are_refused(checkpoint, tmp_path):
    settings = TrainingSettings(steps=1, size=5, known=0, passages_as_queries=0.5)
    with pytest.raises(QuantizeError, match="shortest list has 5 passages; use 4 or fewer"):
        training.train(checkpoint, checkpoint, RECORDS, LISTS, [], tmp_path / "t", settings)
    assert not (tmp_path / "t").exists()


def test_a_dimension_for_a_cross_encoder_is_refused(tmp_path):
    options = ["--kind", "cross-encoder", "--dimension", "128"]
    with pytest.raises(click.UsageError, match="late-interaction"):
        initialize.main(["a", "b", str(tmp_path / "c"), *options], standalone_mode=False)


def test_a_passage_as_query_and_a_share_that_is_known_exclude_each_other(tmp_path):
    options = ["--passages-as-queries", "0.2", "--known", "0.5"]
    with pytest.raises(click.UsageError, match="--known 0"):
        train.main([*("a", "b", "c", str(tmp_path / "d")), *options], standalone_mode=False)


def test_vectors_have_the_cosines_of_the_embedding_model(embedding, tmp_path):
    quantize(embedding, tmp_path / "embedding", precision="fp32")
    vectors = embed_records(RECORDS, Reranker(tmp_path / "embedding"))
    write_vectors(tmp_path / "vectors", vectors)
    vectors = read_vectors(tmp_path / "vectors", len(RECORDS))
    cosines = vectors.cosines([1, 0], [4, 0, 2])
    expected = vectors.queries[[1, 0]].astype(float) @ vectors.passages[[4, 0, 2]].astype(float).T
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    mixed = vectors.cosines([1, 0], [4, 0, 2], as_queries=1)
    alike = vectors.passages[1].astype(float) @ vectors.passages[[4, 0, 2]].astype(float).T
    np.testing.assert_allclose(mixed, [alike, expected[1]], atol=1e-6)


def test_a_student_learns_the_cosine_of_other_vectors(checkpoint, tmp_path):
    each = np.eye(len(RECORDS), dtype=np.float16)
    after = np.roll(each, 1, axis=0)  # a query is near to the passage after the right one
    vectors = TeacherVectors(each, after)
    settings = TrainingSettings(
        steps=40, size=4, lists_a_step=5, rate=3e-3, known=0.0, other_cosine=True, bfloat16=True
    )
    training.train(
        checkpoint, checkpoint, RECORDS, LISTS, [], tmp_path / "target", settings, vectors
    )
    lines = (tmp_path / "target/training.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_a_curve_counts_the_steps_of_its_logs_through(tmp_path):
    def log(name: str, steps: int) -> Path:
        lines = [{"step": n + 1, "loss": 1 / (n + 1), "mrr": 0.5} for n in range(steps)]
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    steps = read_logs([log("first", 30), log("second", 20)])
    assert [step.step for step in steps] == list(range(1, 51))
    draw_curve(steps, tmp_path / "plots/curve.svg")
    assert "<svg" in (tmp_path / "plots/curve.svg").read_text()
    with pytest.raises(InputError, match="there are 20 steps"):
        read_logs([tmp_path / "second"])


@pytest.mark.parametrize("content", [None, b"no vectors", b""])
def test_vectors_that_are_missing_or_of_other_records_are_refused(tmp_path, content):
    path = tmp_path / "vectors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(QuantizeError, match="not a file that the command embed wrote"):
        read_vectors(path, 2)
    some = np.ones((3, 2), np.float16)
    write_vectors(path, TeacherVectors(some, 2 * some))
    with pytest.raises(QuantizeError, match="vectors of 3 records, and there are 2"):
        read_vectors(path, 2)


def test_negatives_come_from_other_pages(embedding, tmp_path):
    quantize(embedding, tmp_path / "embedding", precision="fp32")
    pages = [
        CorpusRecord("here", str(i // 2), f"word{i}", f"word{i} and some more") for i in range(12)
    ]
    lists = list(mining.mine(pages, range(12), range(12), Reranker(tmp_path / "embedding"), 4))
    assert len(lists) == 12
    for item in lists:
        right, *others = item.passages
        assert pages[right].query == item.query
        assert len({*others}) == 3
        assert all(pages[other].page != pages[right].page for other in others)
    mining.write_lines(tmp_path / "lists", lists)
    assert mining.read_candidates(tmp_path / "lists") == lists
    (tmp_path / "lists").write_bytes(b"{}\n")
    with pytest.raises(InputError, match="lists: line 1"):
        mining.read_candidates(tmp_path / "lists")


def test_calibration_finds_the_probabilities_that_the_text_was_drawn_with():
    random = np.random.default_rng(0)
    scores = random.normal(0, 1, (4000, 2))
    flip = random.random(4000) > 1 / (1 + np.exp(-3 * (scores[:, 0] - scores[:, 1])))
    scores[flip] = scores[flip, ::-1]  # the first is right as often as 3 × the difference says
    scale, offset = score_calibration.fit_scale(scores)
    [*bins] = score_calibration.reliability(1 / (1 + np.exp(-(scores * scale + offset))))
    large = [found for found in bins if found["pairs"] > 300]
    assert len(large) >= 5
    assert all(abs(found["mean_score"] - found["share_right"]) < 0.07 for found in large)
    features = np.stack([random.normal(0, 1, (500, 4)), random.normal(0, 1, (500, 4))], axis=2)
    features[:, 0, 1] += 2  # only the second feature tells the right one
    weights = score_calibration.fit_proportions(features)
    assert weights[1] > 1 > 0.2 > weights[0]


def test_the_calibrations_report_has_its_figures_and_a_plot(tmp_path):
    random = np.random.default_rng(0)
    scores = random.random((300, 4))
    scores[:, 0] = np.sqrt(scores[:, 0])
    expected = np.mean([right > wrong for right in scores[:, 0] for wrong in scores[:, 1:].ravel()])
    assert score_calibration.separation(scores) == pytest.approx(expected)
    found = {"lists": 300, "auc": expected, "reliability": score_calibration.reliability(scores)}
    score_calibration.write_report(tmp_path / "report", found)
    assert json.loads((tmp_path / "report/calibration.json").read_bytes()) == found
    plot = (tmp_path / "report/calibration.svg").read_text()
    assert "<svg" in plot
