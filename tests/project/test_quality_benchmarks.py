"""The benchmarks of ranking quality: systems, kept scores, agreement with float32, tables."""

from __future__ import annotations

import math
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers import processes
from benchmarks.peers.catalogue import Environment, Peer, Setting
from benchmarks.peers.workers import worker
from benchmarks.quality import agreement, precisions, recipe, systems
from benchmarks.quality.agreement import compare, write_template
from benchmarks.quality.rescoring import draw, part_of
from benchmarks.quality.systems import System, kept_scores, peer_system
from edgerank.evaluation import NDCG, Collection
from quantize.families.templates import read_template
from tests.support import ROOT

PAIRS = [("a", "x"), ("a", "yy"), ("b", "x"), ("b", "zzz"), ("c", "wwww")]


class Lengths:
    """A system whose score is the document's length, and the calls that it got."""

    def __init__(self, identity: str = "lengths") -> None:
        self.calls: list[list[tuple[str, str]]] = []
        self.system = System(self.score, 1, identity)

    def score(self, pairs):
        self.calls.append(list(pairs))
        return np.array([len(document) for _, document in pairs], np.float32)


def scored(system, pairs, directory):
    return kept_scores(system, pairs, directory, "test", documents_at_once=2)


def test_a_document_is_scored_in_one_call_with_all_of_its_queries(tmp_path):
    lengths = Lengths()
    assert scored(lengths.system, PAIRS, tmp_path).tolist() == [1, 2, 1, 3, 4]
    assert lengths.calls == [PAIRS[:3], PAIRS[3:]]


def test_scores_are_read_back_where_system_and_texts_are_the_same(tmp_path):
    scored(Lengths().system, PAIRS, tmp_path)
    again = Lengths()
    assert scored(again.system, PAIRS, tmp_path).tolist() == [1, 2, 1, 3, 4]
    assert again.calls == []
    scored(again.system, [*PAIRS[:4], ("c", "v")], tmp_path)
    assert again.calls == [[("b", "zzz"), ("c", "v")]]
    other = Lengths("another bundle")
    scored(other.system, PAIRS, tmp_path)
    assert len(other.calls) == 2


def test_a_peer_scores_pairs_in_their_order(tmp_path, monkeypatch):
    workers = tmp_path / "workers"
    workers.mkdir()
    shutil.copyfile(ROOT / "benchmarks/peers/workers/worker.py", workers / "worker.py")
    shutil.copyfile(ROOT / "tests/support/fake_peer.py", workers / "fake_peer.py")
    monkeypatch.setattr(processes, "WORKERS", workers)
    monkeypatch.setattr(systems, "make_environment", lambda *_: Path(sys.executable))
    fake = Peer("fake", "fake_peer", Environment("none", ()), (Setting("fine", (), ""),), "")
    monkeypatch.setattr(systems, "PEERS", (fake,))
    with peer_system("fake", "fine", tmp_path, tmp_path, tmp_path / "work") as system:
        assert system.score([("q", "bb"), ("q", "a"), ("r", "ccc"), ("q", "dddd")]).tolist() == [
            *(2, 1, 3, 4)
        ]
        assert system.num_bytes == len("fine")


def test_a_text_of_several_requests_is_embedded_once():
    calls = []

    def embed(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return np.array([[3.0, 4.0], [0.0, 2.0], [5.0, 0.0]])

    requests = [{"query": "q", "documents": ["dd", "eee"]}, {"query": "dd", "documents": ["eee"]}]
    scores = worker.as_cosines(embed)(requests)
    assert calls == [["q", "dd", "eee"]]
    assert scores == [pytest.approx([0.8, 0.6]), pytest.approx([0])]


def test_padding_is_no_part_of_a_mean():
    states = np.array([[[1.0, 2.0], [3.0, 6.0]], [[5.0, 7.0], [99.0, 99.0]]])
    assert worker.mean_pooled(states, np.array([[1, 1], [1, 0]])).tolist() == [[2, 4], [5, 7]]


def test_edgerank_and_its_peers_ask_the_same_of_a_decoder(tmp_path):
    template = read_template(write_template(tmp_path / "new/template.json"))
    prompt = worker.PROMPTS["gemma3_text"]
    assert [piece.text for piece in template.prompt.query] == [*prompt.query]
    assert [piece.text for piece in template.prompt.document] == [*prompt.document]
    assert template.score == {prompt.yes: 1, prompt.no: -1}


def test_agreement_is_of_all_pairs_and_of_each_query(monkeypatch):
    monkeypatch.setattr(agreement, "TOP", 2)
    pairs = [[("a", "x")] * 3, [("b", "y")] * 3]
    expected = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 30.0])
    same = compare(expected, expected, pairs)
    assert [figure.value for figure in same.values()] == pytest.approx([0, 0, 1, 1, 1, 100])
    found = np.array([1.0, 2.0, 3.0, 30.0, 20.0, 10.0])  # the second query's the other way round
    figures = {name: figure.value for name, figure in compare(found, expected, pairs).items()}
    spread = (np.std([1, 2, 3]) + np.std([10, 20, 30])) / 2
    assert figures["rms error / spread"] == pytest.approx(math.sqrt(2 * 400 / 6) / spread)
    assert figures["largest error / spread"] == pytest.approx(20 / spread)
    assert figures["rho of a query"] == pytest.approx(0)
    assert figures["tau of a query"] == pytest.approx(0)
    assert figures["rho, all pairs"] == pytest.approx(1 - 6 * 8 / (6 * 35))
    assert figures["top 2 in common, %"] == pytest.approx(75)


def collection(num_queries: int) -> Collection:
    """Every query has two documents of its own, of which the first is relevant."""
    names = [f"q{number}" for number in range(num_queries)]
    return Collection(
        name="small",
        documents={f"{name}{end}": name + end for name in names for end in "ab"},
        queries={name: name for name in names},
        qrels={name: {f"{name}a": 1} for name in names},
    )


def test_the_queries_that_are_drawn_are_the_same_every_time():
    judged = collection(20)
    candidates = {query: {f"{query}a": 2.0, f"{query}b": 1.0} for query in judged.queries}
    drawn = draw(candidates, 5)
    assert len(drawn) == 5
    assert drawn == draw(dict(reversed(candidates.items())), 5)
    assert list(drawn) != list(candidates)[:5]
    assert draw(candidates, 40).keys() == candidates.keys()
    part = part_of(judged, drawn)
    assert part.queries.keys() == part.qrels.keys() == drawn.keys()


def test_systems_are_compared_with_float32_on_each_collection():
    judged = collection(2)
    candidates = {query: {f"{query}a": 1.0, f"{query}b": 2.0} for query in judged.queries}
    one = precisions.Judged(judged, candidates)
    assert one.pairs == [("q0", "q0a"), ("q0", "q0b"), ("q1", "q1a"), ("q1", "q1b")]
    found = {"float32": [np.array([4.0, 1, 4, 1])], "int8": [np.array([4.0, 1, 2, 3])]}
    rows = list(precisions.rows("a model", [one], found, {"int8": 5_000_000}))
    tables = {
        (table, labels[table]): next(iter(row.figures.values())).value
        for row in rows
        for labels in [row.labels]
        for table in labels
        if table != "model"
    }
    second = 1 / math.log2(3)  # what a relevant document in second place brings
    assert tables == pytest.approx(
        {
            (NDCG, "BM25"): second,
            (NDCG, "float32"): 1,
            (NDCG, "int8"): (1 + second) / 2,
            (f"{NDCG} less float32's", "int8"): (second - 1) / 2,
            ("p of that difference", "int8"): 1,
            ("mean error of scores", "int8"): 1,
            ("size of", "int8"): 5,
        }
    )
    assert all(list(row.figures) == ["small, 2 queries"] for row in rows[:-1])


@pytest.mark.parametrize(("model", "steps"), [(recipe.MINILM, 3), (recipe.GEMMA, 5)])
def test_a_recipe_leaves_out_each_step_that_changes_the_model(model, steps):
    recipes = recipe.recipes(model)
    left_out = [name for name in recipes if name.startswith("without ")]
    assert len(left_out) == steps
    for name in left_out:
        assert name.removeprefix("without ") not in recipes[name]["steps"]
        assert len(recipes[name]["steps"]) == 4
