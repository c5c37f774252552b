"""Evaluation: measures against trec_eval's own, candidates, resumption, and the command."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from edgerank import EdgerankError, InputError, Reranker, kernels
from edgerank.evaluation import (
    MEASURES,
    Collection,
    Run,
    bm25,
    evaluate,
    randomisation_test,
    read_candidates,
    read_collection,
    read_run,
    recall_at,
    rescore,
    rescore_with_bundle,
    write_run,
)
from tests.support import ROOT
from tests.support.cli import edgerank, environment, fail, succeed
from tests.support.kernels import compile_library

CORPUS = [
    {"_id": "paris", "title": "Paris", "text": "the capital of France since 987"},
    {"_id": "dune", "title": "", "text": "Dune was written by Frank Herbert in 1965"},
    {"_id": "rome", "text": "Rome is the capital of Italy"},
    {"_id": "bonn", "title": None, "text": "Bonn was a capital; written documents say so"},
    {"_id": "fluss", "text": "der Fluß fließt, 数は力"},
]
QUERIES = [
    {"_id": "q1", "text": "what is the capital of France?"},
    {"_id": "unjudged", "text": "capital"},
    {"_id": "q2", "text": "who wrote Dune? written by Herbert"},
    {"_id": "q3", "text": "zyzzyva"},  # a word that no document has
]
QRELS = [("q1", "paris", 2), ("q1", "rome", 1), ("q1", "dune", 0), ("q2", "dune", 1)]
QRELS += [("q3", "fluss", 1), ("q3", "not in the corpus", 1)]


def save_collection(directory: Path, **changes: str) -> Path:
    """Save the collection above, but for the files whose content is given."""
    (directory / "qrels").mkdir(parents=True)
    rows = [("query-id", "corpus-id", "score"), *QRELS]
    contents = {
        "corpus.jsonl": "\n".join(map(json.dumps, CORPUS)),
        "queries.jsonl": "\n".join(map(json.dumps, QUERIES)) + "\n\n",
        "qrels/test.tsv": "\n".join("\t".join(map(str, row)) for row in rows) + "\n",
        **changes,
    }
    for name, content in contents.items():
        (directory / name).write_text(content, "utf-8")
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return save_collection(tmp_path_factory.mktemp("collections") / "tiny")


@pytest.fixture(scope="module")
def collection(directory) -> Collection:
    return read_collection(directory)


@pytest.fixture(scope="module")
def candidates(collection) -> Run:
    return bm25(collection, 3)


# Measures


ids = st.sampled_from([f"d{number}" for number in range(16)])
grades = st.dictionaries(ids, st.integers(0, 3), min_size=1)
few = st.sampled_from([-1.0, 0.0, 0.5, 1.0])  # many ties
scores = st.dictionaries(ids, few | st.floats(-10, 10, width=32))
queries = st.sampled_from(["q1", "q2", "q3", "q4"])


def reference(qrels: dict[str, dict[str, int]], run: Run, query: str) -> tuple[float, ...]:
    """nDCG@10, MRR@10 and Recall@10 of a query, by pytrec_eval and by trec_eval's order."""
    found = run.get(query) or {}
    if not found:
        return 0.0, 0.0, 0.0
    evaluator = pytrec_eval.RelevanceEvaluator({query: qrels[query]}, {"ndcg_cut.10", "recall.10"})
    values = evaluator.evaluate({query: found})[query]
    order = sorted(found, key=lambda document: (found[document], document), reverse=True)[:10]
    relevant = [rank for rank, name in enumerate(order, 1) if qrels[query].get(name, 0) >= 1]
    return values["ndcg_cut_10"], 1 / relevant[0] if relevant else 0.0, values["recall_10"]


@given(st.dictionaries(queries, grades, min_size=1), st.dictionaries(queries, scores))
def test_measures_are_trec_evals_over_all_judged_queries(qrels, run):
    measured = evaluate(qrels, run)
    assert tuple(measured.per_query) == MEASURES
    expected = {query: reference(qrels, run, query) for query in qrels}
    for place, name in enumerate(MEASURES):
        values = {query: value[place] for query, value in expected.items()}
        assert measured.per_query[name] == pytest.approx(values)
        assert measured.means[name] == pytest.approx(sum(values.values()) / len(qrels))


def test_measures_are_what_one_computes_by_hand():
    qrels = {"q": {"a": 2, "b": 1, "c": 0}, "not in the run": {"a": 1}}
    run = {"q": {"c": 3.0, "a": 2.0, "x": 1.0, "b": 0.5}}
    ideal = 2 / math.log2(2) + 1 / math.log2(3)
    gain = 2 / math.log2(3) + 1 / math.log2(5)
    assert evaluate(qrels, run).per_query == {
        "nDCG@10": {"q": pytest.approx(gain / ideal), "not in the run": 0},
        "MRR@10": {"q": 0.5, "not in the run": 0},
        "Recall@10": {"q": 1, "not in the run": 0},
    }
    assert evaluate(qrels, run).means["MRR@10"] == 0.25
    assert recall_at(2, qrels, run) == 0.25


@pytest.mark.parametrize(("rank", "value"), [(1, 1), (10, 0.1), (11, 0)])
def test_the_reciprocal_rank_ends_at_ten(rank, value):
    run = {"q": {f"d{place}": float(-place) for place in range(1, 13)}}
    assert evaluate({"q": {f"d{rank}": 1}}, run).means["MRR@10"] == value


def test_the_randomisation_test_enumerates_the_swaps_of_few_queries():
    baseline = dict.fromkeys("abcd", 0.0)
    assert randomisation_test(dict.fromkeys("dcba", 0.5), baseline) == 2 / 2**4
    assert randomisation_test({"a": 1.0, "b": -1.0, "c": 0.5, "d": -0.5}, baseline) == 1
    assert randomisation_test(baseline, baseline) == 1
    assert randomisation_test({"a": 1.0}, {"a": 0.0}) == 1


def test_the_randomisation_test_of_many_queries_agrees_with_the_t_test():
    from scipy.stats import ttest_rel

    rng = np.random.default_rng(0)
    one, two = rng.normal(0.5, 0.1, 200), rng.normal(0.53, 0.1, 200)
    p = randomisation_test(*({str(i): float(x) for i, x in enumerate(v)} for v in (one, two)))
    assert p == pytest.approx(ttest_rel(one, two).pvalue, abs=0.02)
    assert 0.01 < p < 0.2


# Collections and first stages


def test_a_collection_has_titles_before_texts_and_the_judged_queries(collection):
    assert collection.name == "tiny"
    assert collection.documents["paris"] == "Paris\nthe capital of France since 987"
    assert collection.documents["dune"] == CORPUS[1]["text"]
    assert list(collection.queries) == ["q1", "q2", "q3"]
    assert collection.qrels["q1"] == {"paris": 2, "rome": 1, "dune": 0}


def test_numbers_are_ids_and_a_byte_order_mark_is_none_of_the_header(tmp_path):
    corpus = '\ufeff{"_id": 7, "text": "Paris"}'
    qrels = "\ufeffquery-id\tcorpus-id\tscore\r\nq1\t7\t1\r\n"
    files = {"corpus.jsonl": corpus, "qrels/dev.tsv": qrels}
    collection = read_collection(save_collection(tmp_path / "tiny", **files), "dev")
    assert collection.documents == {"7": "Paris"}
    assert collection.qrels == {"q1": {"7": 1}}


FIRST = '{"_id": "a", "text": "x"}\n'
HEADER = "query-id\tcorpus-id\tscore\n"
BAD_FILES = [
    ("corpus.jsonl", FIRST + '{"_id": "b"}', r"corpus\.jsonl: line 2: .*text"),
    ("corpus.jsonl", FIRST + '\n{"text": "x"}', r"corpus\.jsonl: line 3: .*_id"),
    ("corpus.jsonl", FIRST + "not JSON", r"corpus\.jsonl: line 2: "),
    ("corpus.jsonl", FIRST + FIRST, r"corpus\.jsonl: line 2: the id 'a' was there before"),
    ("corpus.jsonl", '{"_id": "a b", "text": "x"}', r"corpus\.jsonl: line 1: the id 'a b'.*space"),
    ("corpus.jsonl", '{"_id": "", "text": "x"}', r"corpus\.jsonl: line 1: the id ''.*empty"),
    ("corpus.jsonl", "\n", r"corpus\.jsonl: empty"),
    ("queries.jsonl", FIRST, r"test\.tsv: the query 'q1' is not in queries\.jsonl"),
    ("qrels/test.tsv", "q1\tparis\t1\n", r"test\.tsv: line 1: .*header"),
    ("qrels/test.tsv", HEADER + "q1\tparis\tyes\n", r"test\.tsv: line 2: .*integer"),
    ("qrels/test.tsv", HEADER + "q1 0 paris 1\n", r"test\.tsv: line 2: .*three fields"),
    ("qrels/test.tsv", HEADER + "q1\tparis\t1000001\n", r"line 2: .*from -1000000 to 1000000"),
    ("qrels/test.tsv", HEADER + f"q1\tparis\t{10**30}\n", r"line 2: .*from -1000000 to 1000000"),
    ("qrels/test.tsv", HEADER + "q1\tparis\t1\n" * 2 + "q1\tparis\t0\n", r"line 4: .*1 before"),
    ("qrels/test.tsv", HEADER, r"test\.tsv: no judgements"),
]


@pytest.mark.parametrize(("name", "content", "named"), BAD_FILES)
def test_a_bad_file_of_a_collection_is_named_with_its_line(tmp_path, name, content, named):
    directory = save_collection(tmp_path / "tiny", **{name: content})
    with pytest.raises(InputError, match=named):
        read_collection(directory)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_missing_file_of_a_collection_is_named(tmp_path, name):
    (save_collection(tmp_path / "tiny") / name).unlink()
    with pytest.raises(InputError, match=re.escape(name)):
        read_collection(tmp_path / "tiny")


def test_bm25_takes_documents_that_share_a_word_best_first(collection):
    run = bm25(collection, 10)
    assert set(run["q1"]) == {"paris", "rome", "bonn"}
    assert next(iter(run["q1"])) == "paris"
    assert list(run["q2"]) == ["dune", "bonn"]
    assert run["q3"] == {}
    for scores in run.values():
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert {query: list(found) for query, found in bm25(collection, 1).items()} == {
        "q1": ["paris"],
        "q2": ["dune"],
        "q3": [],
    }


def test_bm25_of_documents_without_words_finds_nothing(tmp_path):
    directory = save_collection(tmp_path / "tiny", **{"corpus.jsonl": '{"_id": "a", "text": "I"}'})
    assert bm25(read_collection(directory), 10) == {"q1": {}, "q2": {}, "q3": {}}


def test_a_query_without_candidates_counts_as_nothing_found(collection, candidates):
    means = evaluate(collection.qrels, candidates).means
    assert candidates["q3"] == {}
    assert means["MRR@10"] == pytest.approx(2 / 3)


def test_a_run_file_is_read_as_it_was_written(tmp_path):
    run = {"q1": {"a": 1 / 3, "b": -1e-30}, "q2": {"c": float(np.float32(0.1))}}
    write_run(tmp_path / "x.trec", run, "tag")
    assert read_run(tmp_path / "x.trec") == run
    assert [path.name for path in tmp_path.iterdir()] == ["x.trec"]
    lines = (tmp_path / "x.trec").read_text().splitlines()
    assert lines[0] == f"q1 Q0 a 1 {1 / 3!r} tag"


def test_equal_scores_keep_their_order_in_a_run_file(tmp_path):
    write_run(tmp_path / "x.trec", {"q": {"b": 1.0, "a": 1.0, "c": 2.0}}, "tag")
    fields = [line.split() for line in (tmp_path / "x.trec").read_text().splitlines()]
    assert [(field[2], field[3]) for field in fields] == [("c", "1"), ("b", "2"), ("a", "3")]


def test_candidates_are_the_best_of_a_run_file(collection, tmp_path):
    path = tmp_path / "run"
    lines = ["q1 Q0 dune 1 0.5 t", "q1\tQ0\trome\t2\t2\tt", "", "q1 Q0 bonn 3 2 t"]
    path.write_text("\n".join([*lines, "unjudged Q0 nowhere 1 1 t"]))
    found = read_candidates(path, collection, 2)
    assert {query: list(scores) for query, scores in found.items()} == {
        "q1": ["rome", "bonn"],
        "q2": [],
        "q3": [],
    }


BAD_RUNS = [
    ("q1 Q0 paris 1 0.5 t\nq1 Q0 rome 2 0.4\n", r"run: line 2: expected six fields"),
    ("q1 Q0 paris 1 high t\n", r"run: line 1: .*finite score"),
    ("q1 Q0 paris 1 nan t\n", r"run: line 1: .*finite score"),
    ("q1 Q0 paris 1 2 t\nq1 Q0 paris 2 1 t\n", r"run: line 2: the document 'paris' .*'q1'"),
    ("q1 Q0 berlin 1 2 t\n", r"run: query 'q1': the document 'berlin' is not in .*tiny"),
    ("other Q0 paris 1 2 t\n", r"run: none of the judged queries of tiny"),
]


@pytest.mark.parametrize(("content", "named"), BAD_RUNS)
def test_a_bad_run_file_is_named_with_what_is_wrong(collection, tmp_path, content, named):
    (tmp_path / "run").write_text(content)
    with pytest.raises(InputError, match=named):
        read_candidates(tmp_path / "run", collection, 10)


# Re-scoring


class Scorer:
    """Scores pairs by their length, counts its calls, and fails at one of them if told to."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.calls: list[set[str]] = []  # the queries of each
        self.fails_at = fails_at

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.calls.append({query for query, _ in pairs})
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        return [1 / len(document) for _, document in pairs]


def lengths(collection: Collection, candidates: Run) -> Run:
    return {
        query: {document: 1 / len(collection.documents[document]) for document in found}
        for query, found in candidates.items()
    }


@pytest.mark.parametrize("queries_at_once", [1, 2, 10])
def test_every_candidate_is_scored_once(collection, candidates, queries_at_once):
    scorer = Scorer()
    done = rescore(collection, candidates, scorer, queries_at_once=queries_at_once)
    assert done.run == lengths(collection, candidates)
    assert done.num_scored == sum(map(len, candidates.values()))
    assert done.documents_per_second > 0
    assert len(scorer.calls) == (2 if queries_at_once == 1 else 1)


def test_nothing_to_score_is_no_call(collection):
    scorer = Scorer()
    done = rescore(collection, {query: {} for query in collection.queries}, scorer)
    assert (done.num_scored, done.documents_per_second, scorer.calls) == (0, None, [])


def interrupted(collection, candidates, path) -> Path:
    """Score the first query, and be interrupted at the second; return the unfinished run."""
    with pytest.raises(KeyboardInterrupt):
        rescore(collection, candidates, Scorer(fails_at=2), path=path, digest="a")
    partial = path.with_name("x.trec.partial")
    assert not path.exists()
    assert list(read_run(partial)) == ["q1"]
    return partial


def test_an_interrupted_run_goes_on_where_it_was(collection, candidates, tmp_path, caplog):
    path = tmp_path / "x.trec"
    partial = interrupted(collection, candidates, path)
    scorer = Scorer()
    done = rescore(collection, candidates, scorer, path=path, digest="a")
    assert scorer.calls == [{collection.queries["q2"]}]
    assert done.num_scored == len(candidates["q2"])
    assert done.run == lengths(collection, candidates)
    assert not partial.exists()

    rescore(collection, candidates, Scorer(), path=tmp_path / "whole.trec", digest="a")
    assert path.read_bytes() == (tmp_path / "whole.trec").read_bytes()

    scorer = Scorer()
    again = rescore(collection, candidates, scorer, path=path, digest="a")
    assert (again.run, again.num_scored, scorer.calls) == (done.run, 0, [])
    assert path.read_bytes() == (tmp_path / "whole.trec").read_bytes()
    assert caplog.records == []


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_last_line_is_scored_anew(collection, candidates, tmp_path, cut):
    path = tmp_path / "x.trec"
    rescore(collection, candidates, Scorer(), path=path, digest="a")
    whole = path.read_bytes()
    path.unlink()
    path.with_name("x.trec.partial").write_bytes(whole[:-cut])
    scorer = Scorer()
    done = rescore(collection, candidates, scorer, path=path, digest="a")
    assert scorer.calls == ([] if cut == 1 else [{collection.queries["q2"]}])  # 1: the newline
    assert done.run == lengths(collection, candidates)
    assert path.read_bytes() == whole


def changed(collection: Collection, candidates: Run, what: str) -> tuple[Collection, Run, str]:
    """Change one thing that scores depend on."""
    if what == "digest":
        return collection, candidates, "b"
    if what == "text":
        documents = {**collection.documents, "paris": "other"}
        collection = Collection("tiny", documents, collection.queries, collection.qrels)
        return collection, candidates, "a"
    return collection, {**candidates, "q2": {"rome": 1.0}}, "a"


@pytest.mark.parametrize("what", ["digest", "text", "candidates"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_a_run_of_something_else_is_scored_anew_with_a_warning(
    collection, candidates, tmp_path, caplog, what, is_finished
):
    path = tmp_path / "x.trec"
    if is_finished:
        rescore(collection, candidates, Scorer(), path=path, digest="a")
    else:
        interrupted(collection, candidates, path)
    collection, candidates, digest = changed(collection, candidates, what)
    scorer = Scorer()
    done = rescore(collection, candidates, scorer, path=path, digest=digest)
    assert len(scorer.calls) == 2
    assert done.run == lengths(collection, candidates)
    assert read_run(path) == {query: found for query, found in done.run.items() if found}
    [record] = caplog.records
    assert f"x.trec{'' if is_finished else '.partial'}: " in record.getMessage()


def test_a_finished_run_stays_until_another_has_taken_its_place(collection, candidates, tmp_path):
    path = tmp_path / "x.trec"
    rescore(collection, candidates, Scorer(), path=path, digest="a")
    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        rescore(collection, candidates, Scorer(fails_at=2), path=path, digest="b")
    assert path.read_bytes() == before
    scorer = Scorer()
    rescore(collection, candidates, scorer, path=path, digest="b")
    assert len(scorer.calls) == 1


def test_a_score_that_is_no_number_is_an_error(collection, candidates):
    with pytest.raises(EdgerankError, match="query 'q1', document 'paris': score nan"):
        rescore(collection, candidates, lambda pairs: [math.nan] * len(pairs))


@pytest.mark.parametrize("name", ["qwen2.int8", "cross-encoder.fp32", "embedding.int8"])
def test_a_bundle_scores_as_the_reranker_does(bundles, collection, candidates, name):
    done = rescore_with_bundle(collection, candidates, bundles / name)
    reranker = Reranker(bundles / name)
    for query, found in candidates.items():
        texts = [collection.documents[document] for document in found]
        expected = reranker.score(collection.queries[query], texts)
        assert list(done.run[query]) == list(found)
        np.testing.assert_allclose(list(done.run[query].values()), expected, atol=1e-3)


def test_the_length_tells_runs_of_a_bundle_apart(bundles, collection, candidates, tmp_path, caplog):
    path, bundle = tmp_path / "x.trec", bundles / "cross-encoder.int8"
    for length, num_scored in ((None, 5), (128, 0), (20, 5)):
        done = rescore_with_bundle(collection, candidates, bundle, path=path, max_length=length)
        assert done.num_scored == num_scored
    assert len(caplog.records) == 1


def test_the_kernels_tell_runs_of_a_bundle_apart(
    bundles, collection, candidates, tmp_path, monkeypatch
):
    library = compile_library(tmp_path / "library.so", "fast")
    monkeypatch.setattr(kernels, "LIBRARY", library)
    path, bundle = tmp_path / "x.trec", bundles / "cross-encoder.int8"
    for name, num_scored in (("stock", 5), ("stock", 0), ("fast", 5)):
        done = rescore_with_bundle(collection, candidates, bundle, path=path, kernels=name)
        assert done.num_scored == num_scored


# The command


@pytest.fixture(scope="module")
def models(bundles) -> list[Path]:
    return [bundles / "cross-encoder.fp32", bundles / "cross-encoder.int8"]


def test_the_table_sets_first_stage_and_bundles_side_by_side(models, directory, candidates):
    printed = succeed("eval", *models, directory, "--candidates", "3")
    title, header, first, fp32, int8, note = printed.splitlines()
    assert title == "tiny, test: 3 queries, up to 3 candidates each, Recall@3 0.6667"
    assert header.split() == [
        *("run", "nDCG@10", "MRR@10", "Recall@10"),
        *("p", "vs", "bm25", "p", "vs", "cross-encoder.fp32", "docs/s"),
    ]
    means = evaluate(read_collection(directory).qrels, candidates).means
    assert first.split() == ["bm25", *(f"{mean:.4f}" for mean in means.values())]
    assert [len(fp32.split()), len(int8.split())] == [6, 7]
    assert [fp32.split()[0], int8.split()[0]] == ["cross-encoder.fp32", "cross-encoder.int8"]
    assert "randomisation" in note


def test_json_has_every_querys_values(models, directory, collection, candidates):
    printed = json.loads(succeed("eval", *models, directory, "--candidates", "3", "--json"))
    runs = printed.pop("runs")
    assert printed == {
        "collection": "tiny",
        "split": "test",
        "queries": 3,
        "candidates": 3,
        "candidate_recall": pytest.approx(2 / 3),
    }
    assert [run["bundle"] for run in runs] == [None, *map(str, models)]
    assert [list(run["p"]) for run in runs] == [[], ["bm25"], ["bm25", "cross-encoder.fp32"]]
    assert runs[0]["documents_per_second"] is None
    for run, bundle in zip(runs[1:], models, strict=True):
        rescored = rescore_with_bundle(collection, candidates, bundle)
        expected = evaluate(collection.qrels, rescored.run)
        assert run["per_query"] == expected.per_query
        assert run["means"] == pytest.approx(expected.means)
        assert run["documents_per_second"] > 0


def test_run_files_are_written_read_back_and_taken_as_a_first_stage(
    models, directory, collection, tmp_path
):
    command = ("eval", *models, models[0], directory, "--candidates", "2", "--json")
    names = ["bm25", "cross-encoder.fp32", "cross-encoder.int8", "cross-encoder.fp32-2"]
    written = json.loads(succeed(*command, "--runs", tmp_path / "new" / "runs"))
    assert [run["name"] for run in written["runs"]] == names
    files = {path.name: path for path in (tmp_path / "new" / "runs").iterdir()}
    assert set(files) == {f"{name}.trec" for name in names}
    for run in written["runs"]:
        measured = evaluate(
            read_collection(directory).qrels, read_run(files[f"{run['name']}.trec"])
        )
        assert measured.per_query == run["per_query"]

    again = json.loads(succeed(*command, "--runs", tmp_path / "new" / "runs"))
    for run in written["runs"]:
        run["documents_per_second"] = None
    assert again == written

    from_file = json.loads(succeed(*command, "--first-stage", files["bm25.trec"]))
    assert [run["per_query"] for run in from_file["runs"]] == [
        run["per_query"] for run in written["runs"]
    ]


def test_a_run_of_another_bundle_is_replaced_with_one_line_on_stderr(models, directory, tmp_path):
    for model in models:
        shutil.copytree(model, tmp_path / model.name / "model")
    runs = ("--runs", tmp_path / "runs")
    succeed("eval", tmp_path / models[0].name / "model", directory, *runs)
    done = edgerank("eval", tmp_path / models[1].name / "model", directory, *runs)
    assert done.returncode == 0
    [line] = done.stderr.decode().splitlines()
    assert re.search(r"model\.trec: queries left out: 2,", line)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["MODEL"], r"test\.tsv"),
        ([], "COLLECTION"),
        (["MODEL", "nowhere"], r"nowhere.*test\.tsv"),
        (["MODEL", "COLLECTION", "--split", "dev"], r"dev\.tsv"),
        (["MODEL", "nowhere", "COLLECTION"], r"nowhere.*edgerank quantize"),
        (["MODEL", "COLLECTION", "--first-stage", "missing.trec"], r"missing\.trec"),
        (["MODEL", "COLLECTION", "--first-stage", "COLLECTION"], "directory"),
        (["MODEL", "COLLECTION", "--candidates", "0"], "--candidates.*0"),
        (["MODEL", "COLLECTION", "--threads", "0"], "--threads.*0"),
        (["MODEL", "COLLECTION", "--max-length", "9999"], "max-length: 9999.*cross-encoder"),
        (["MODEL", "COLLECTION", "--runs", __file__], "test_evaluation"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line_that_names_the_culprit(models, directory, arguments, named):
    places = {"MODEL": models[0], "COLLECTION": directory}
    assert re.search(named, fail("eval", *(places.get(word, word) for word in arguments)))


@pytest.mark.parametrize("library", ["bm25s", "ir_measures", "scipy"])
def test_a_missing_library_is_one_line_that_says_what_to_install(models, directory, library):
    assert importlib.util.find_spec(library)
    code = (
        f"import sys; sys.modules[{library!r}] = None\n"
        f"sys.argv[1:] = ['eval', {str(models[0])!r}, {str(directory)!r}]\n"
        "from edgerank.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert re.search(rf"evaluating needs {library}.*: pip install 'edgerank\[eval\]'", line)
