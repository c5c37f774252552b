"""The protocol: bundles rank the same candidates of a collection, and are compared."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgerank.bundle import read_bundle
from edgerank.errors import InputError
from edgerank.evaluation.collection import Collection, read_collection
from edgerank.evaluation.first_stage import bm25, read_candidates
from edgerank.evaluation.measures import NDCG, evaluate, randomisation_test, recall_at
from edgerank.evaluation.rescoring import rescore_with_bundle
from edgerank.evaluation.trec import Run, write_run
from edgerank.kernels import choose_kernels


@dataclass(frozen=True)
class EvaluatedRun:
    """A ranking of all queries, and its measures."""

    name: str
    bundle: str | None  # its directory; None for the first stage
    means: dict[str, float]  # by measure
    p: dict[str, float]  # by the name of another run: the p of the difference in nDCG@10
    documents_per_second: float | None  # None if nothing was scored
    per_query: dict[str, dict[str, float]]  # by measure, then query id


@dataclass(frozen=True)
class Evaluation:
    """The first stage and the bundles on one collection."""

    collection: str
    split: str
    queries: int
    candidates: int  # most candidates of a query
    candidate_recall: float  # mean share of the relevant documents that are candidates
    runs: list[EvaluatedRun]  # the first stage, then the bundles in their order


def evaluate_bundles(
    collection: str | os.PathLike[str],
    bundles: Sequence[str | os.PathLike[str]],
    *,
    num_candidates: int = 100,
    first_stage: str | os.PathLike[str] | None = None,
    runs: str | os.PathLike[str] | None = None,
    split: str = "test",
    max_length: int | None = None,
    threads: int | None = None,
    kernels: str | None = None,
    show_progress: bool = False,
) -> Evaluation:
    """Rank the same candidates with each bundle, and compare the rankings.

    Each bundle is compared with the first stage and with the first bundle.

    :param collection: a directory in BEIR's layout
    :param bundles: directories of the bundles
    :param num_candidates: number of documents to rank for each query
    :param first_stage: TREC run file with the candidates; by default BM25 finds them
    :param runs: directory for the rankings, as TREC run files; an interrupted call continues from
        them
    :param split: name of the file of judgements, qrels/<split>.tsv
    :param max_length: most tokens of query and document together; each bundle's own by default
    :param threads: as for ``Reranker``
    :param kernels: as for ``Reranker``
    :param show_progress: whether to draw progress bars on stderr
    :raises InputError: the collection, the run file or an option is unusable
    :raises BundleError: a bundle is missing or broken
    """
    # find unusable arguments before hours of work
    choose_kernels(kernels)
    for bundle in bundles:
        _check_length(bundle, max_length)
    judged = read_collection(collection, split)
    directory = None if runs is None else Path(runs)
    if directory is not None:
        directory.mkdir(parents=True, exist_ok=True)
    first_name = "bm25" if first_stage is None else Path(first_stage).stem
    candidates = _candidates(judged, num_candidates, first_stage, directory, show_progress)
    measured = evaluate(judged.qrels, candidates)
    found = [EvaluatedRun(first_name, None, measured.means, {}, None, measured.per_query)]
    names = _unique([first_name, *(Path(bundle).resolve().name for bundle in bundles)])
    for name, bundle in zip(names[1:], bundles, strict=True):
        rescored = rescore_with_bundle(
            judged,
            candidates,
            bundle,
            threads=threads,
            kernels=kernels,
            max_length=max_length,
            path=None if directory is None else directory / f"{name}.trec",
            name=name,
            show_progress=show_progress,
        )
        measured = evaluate(judged.qrels, rescored.run)
        p = {
            run.name: randomisation_test(measured.per_query[NDCG], run.per_query[NDCG])
            for run in found[:2]  # the first stage and, from the second bundle on, the first one
        }
        speed = rescored.documents_per_second
        run = EvaluatedRun(name, os.fspath(bundle), measured.means, p, speed, measured.per_query)
        found.append(run)
    recall = recall_at(num_candidates, judged.qrels, candidates)
    return Evaluation(judged.name, split, len(judged.queries), num_candidates, recall, found)


def _check_length(bundle: str | os.PathLike[str], max_length: int | None) -> None:
    try:
        read_bundle(bundle).manifest.length(max_length)
    except InputError as error:
        raise InputError(error.field, f"{error.reason} for {bundle}") from error


def _candidates(
    judged: Collection,
    num_candidates: int,
    first_stage: str | os.PathLike[str] | None,
    directory: Path | None,
    show_progress: bool,
) -> Run:
    if first_stage is not None:
        return read_candidates(Path(first_stage), judged, num_candidates)
    candidates = bm25(judged, num_candidates, show_progress=show_progress)
    if directory is not None:
        write_run(directory / "bm25.trec", candidates, "bm25")
    return candidates


def _unique(names: Sequence[str]) -> list[str]:
    """Append numbers to repeated names."""
    unique: list[str] = []
    for name in names:
        number, free = 2, name
        while free in unique:
            number, free = number + 1, f"{name}-{number}"
        unique.append(free)
    return unique
