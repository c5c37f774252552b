"""The model in the package on a collection: it is the default of an evaluation, and it ranks."""

from __future__ import annotations

import json

from edgerank import evaluation
from edgerank.bundle import DEFAULT_BUNDLE
from tests.support.cli import succeed
from tests.support.shared import shared

QUERY = "how do I delete a folder?"
DOCUMENTS = [
    "Paris is the capital of France.",
    "shutil.rmtree: Recursively delete a directory tree.",
    "math.floor: Return the floor of x as an integer.",
    "",
]


def test_an_evaluation_needs_no_model(tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td1\t1\n")
    (tmp_path / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": QUERY}) + "\n")
    (tmp_path / "corpus.jsonl").write_text(
        "".join(
            json.dumps({"_id": f"d{number}", "text": f"{text} A folder."}) + "\n"
            for number, text in enumerate(DOCUMENTS)
        )
    )
    [_, ours] = json.loads(succeed("eval", tmp_path, "--json"))["runs"]
    assert (ours["name"], ours["means"]["nDCG@10"]) == ("default", 1.0)


def test_it_ranks_better_than_bm25():
    judged = evaluation.read_collection(shared("collections/xquad-en"))
    run = evaluation.bm25(judged, 6)
    chosen = list(run)[::20]
    candidates = {query: run[query] for query in chosen}
    qrels = {query: judged.qrels[query] for query in chosen}
    rescored = evaluation.rescore_with_bundle(judged, candidates, DEFAULT_BUNDLE)
    before, after = (
        evaluation.evaluate(qrels, found).means[evaluation.NDCG]
        for found in (candidates, rescored.run)
    )
    assert after > before
