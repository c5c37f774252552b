"""The making of the default model: text, lists, the model in torch and as a graph, training."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer

from edgerank import Reranker
from quantize import quantize
from quantize.errors import QuantizeError
from quantize.training import calibrating, mining, training
from quantize.training.beginning import begin, prune
from quantize.training.corpus import Record, extract, is_held_out
from quantize.training.model import PairTokenizer, load_model, load_tokenizer, save_model
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
    records = [Record("a", str(page), f"q{i}", "p") for page in range(2000) for i in range(2)]
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


@pytest.fixture(scope="module")
def checkpoint(embedding, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("late") / "interaction"
    save_model(*begin(embedding, TEXTS, None, None), directory)
    return directory


@pytest.fixture(scope="module")
def late(checkpoint, tmp_path_factory) -> Reranker:
    target = tmp_path_factory.mktemp("late") / "bundle"
    quantize(checkpoint, target, precision="fp32")
    return Reranker.open(target)


@torch.inference_mode()
def test_the_graph_computes_what_the_torch_model_does(checkpoint, late):
    model = load_model(checkpoint).eval()
    tokenize = PairTokenizer(load_tokenizer(checkpoint), 96)
    documents = [*TEXTS, "", "Paris " * 40]
    expected = torch.sigmoid(model(tokenize([QUERY] * len(documents), documents))).numpy()
    assert np.ptp(expected) > 0.05
    np.testing.assert_allclose(late.score(QUERY, documents), expected, atol=1e-5)


@torch.inference_mode()
def test_neither_part_of_a_pair_sees_the_other(checkpoint, embedding, tmp_path):
    quantize(embedding, tmp_path / "embedding", precision="fp32")
    cosines = Reranker.open(tmp_path / "embedding").score(QUERY, TEXTS)
    tokenize = PairTokenizer(load_tokenizer(checkpoint), 96)
    features = load_model(checkpoint).eval().features(tokenize([QUERY] * len(TEXTS), TEXTS))
    np.testing.assert_allclose(features[:, 0].numpy(), cosines, atol=1e-5)


@torch.inference_mode()
def test_words_in_common_count_as_in_bm25(checkpoint):
    model, tokenizer = load_model(checkpoint).eval(), load_tokenizer(checkpoint)
    document = "the capital of france is what the capital of france was"
    exact = model.features(PairTokenizer(tokenizer, 96)(["capital paris"], [document]))[0, 2]
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
    pairs = [(query, text) for query in (QUERY, "dune", "") for text in [*TEXTS, ""]]
    together = late.score_pairs(pairs)
    assert (together >= 0).all() and (together <= 1).all()
    alone = [late.score(query, [text])[0] for query, text in pairs]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_document_over_the_length_is_split_unless_the_caller_says(late):
    assert late.bundle.manifest.truncation.long_documents == "split"
    longs = [f"{first} " * 30 + last for first in TEXTS for last in TEXTS]
    best = late.score(QUERY, longs)
    assert np.array_equal(best, late.score(QUERY, longs, long_documents="split"))
    beginnings = late.score(QUERY, longs, long_documents="truncate")
    assert (best >= beginnings - 1e-6).all()
    assert (best > beginnings + 1e-3).any()


RECORDS = [Record("here", str(i), text.split(",")[0], text) for i, text in enumerate(TEXTS)]
LISTS = [
    mining.Candidates("here", record.query, [i, *(j for j in range(5) if j != i)])
    for i, record in enumerate(RECORDS)
]
SETTINGS = training.Settings(steps=4, size=3, lists_a_step=2, rate=1e-3)


def test_training_goes_on_where_it_was_interrupted(checkpoint, tmp_path, monkeypatch):
    def run(target: Path, settings: training.Settings = SETTINGS) -> None:
        training.train(checkpoint, checkpoint, RECORDS, LISTS, LISTS, target, settings)

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
        for directory in (tmp_path / "whole", tmp_path / "parts", checkpoint)
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    changed = "encoder.layer.0.output.dense.weight"
    assert not torch.equal(whole[changed], before[changed])
    with pytest.raises(QuantizeError, match="other settings"):
        run(tmp_path / "parts", training.Settings(steps=5))


def test_negatives_come_from_other_pages(embedding, tmp_path):
    quantize(embedding, tmp_path / "embedding", precision="fp32")
    pages = [Record("here", str(i // 2), f"word{i}", f"word{i} and some more") for i in range(12)]
    lists = list(mining.mine(pages, range(12), range(12), Reranker.open(tmp_path / "embedding"), 4))
    assert len(lists) == 12
    for item in lists:
        right, *others = item.passages
        assert pages[right].query == item.query
        assert len({*others}) == 3
        assert all(pages[other].page != pages[right].page for other in others)
    mining.write_lines(tmp_path / "lists", lists)
    assert mining.read_candidates(tmp_path / "lists") == lists
    (tmp_path / "lists").write_bytes(b"{}\n")
    with pytest.raises(QuantizeError, match="lists"):
        mining.read_candidates(tmp_path / "lists")


def test_calibration_finds_the_probabilities_that_the_text_was_drawn_with():
    random = np.random.default_rng(0)
    scores = random.normal(0, 1, (4000, 2))
    flip = random.random(4000) > 1 / (1 + np.exp(-3 * (scores[:, 0] - scores[:, 1])))
    scores[flip] = scores[flip, ::-1]  # the first is right as often as 3 × the difference says
    scale, offset = calibrating.fit_scale(scores)
    [*bins] = calibrating.reliability(1 / (1 + np.exp(-(scores * scale + offset))))
    large = [found for found in bins if found["pairs"] > 300]
    assert len(large) >= 5
    assert all(abs(found["mean_score"] - found["share_right"]) < 0.07 for found in large)
    features = np.stack([random.normal(0, 1, (500, 4)), random.normal(0, 1, (500, 4))], axis=2)
    features[:, 0, 1] += 2  # only the second feature tells the right one
    weights = calibrating.fit_proportions(features)
    assert weights[1] > 1 > 0.2 > weights[0]
