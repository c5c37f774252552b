"""Scores candidates with a bundle or another function, and reuses scores of earlier runs."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from tqdm import tqdm

from edgerank.errors import EdgerankError
from edgerank.evaluation.collection import Collection
from edgerank.evaluation.trec import Run, growing_run, partial_path, read_tagged
from edgerank.reranker import Reranker

QUERIES_AT_ONCE = 128  # of embedding models, which embed a document once for all of them

logger = logging.getLogger(__name__)

# Returns the scores of (query, document) pairs, in their order; higher is more relevant.
ScorePairs = Callable[[Sequence[tuple[str, str]]], Iterable[float]]


@dataclass(frozen=True)
class Rescored:
    """A run, with the time that it took."""

    run: Run
    num_scored: int  # documents that were scored; others were read back
    seconds: float  # time to score them

    @property
    def documents_per_second(self) -> float | None:
        """Speed of scoring; None if all documents were read back."""
        return self.num_scored / self.seconds if self.num_scored else None


def rescore(
    collection: Collection,
    candidates: Run,
    score_pairs: ScorePairs,
    *,
    path: Path | None = None,
    digest: str = "",
    queries_at_once: int = 1,
    name: str = "rescore",
    show_progress: bool = False,
) -> Rescored:
    """Score every candidate of every query.

    :param score_pairs: returns the scores of (query, document) pairs, in their order
    :param path: TREC run file, written query by query, with another name until it is complete.
        Scores of an earlier call with the same digest, candidates and texts are read back. Other
        scores in the file are replaced, with a warning in the log
    :param digest: identifies everything that the scores depend on besides the texts
    :param queries_at_once: number of queries whose pairs are scored in one call; an interruption
        loses the scores of the call in progress
    :param show_progress: whether to draw a progress bar on stderr, with the label ``name``
    :raises EdgerankError: a score is not finite
    """
    tag = f"edgerank-{_digest_of(digest, collection, candidates)[:12]}"
    known = {} if path is None else _read_back(path, tag, candidates)
    waiting = [query for query, found in candidates.items() if found and query not in known]
    run = {query: known.get(query, {}) for query in candidates}
    num_known = sum(map(len, known.values()))
    total = sum(map(len, candidates.values()))
    seconds = 0.0
    with (
        growing_run(path, known, tag) as append,
        tqdm(
            total=total, initial=num_known, unit="doc", desc=name, disable=not show_progress
        ) as bar,
    ):
        for first in range(0, len(waiting), queries_at_once):
            group = waiting[first : first + queries_at_once]
            places = [(query, document) for query in group for document in candidates[query]]
            pairs = [(collection.queries[q], collection.documents[d]) for q, d in places]
            start = time.perf_counter()
            scores = [float(score) for score in score_pairs(pairs)]
            seconds += time.perf_counter() - start
            scored: Run = {query: {} for query in group}
            for (query, document), score in zip(places, scores, strict=True):
                if not math.isfinite(score):
                    raise EdgerankError(
                        f"query {query!r}, document {document!r}: score {score}; scores must be"
                        " finite"
                    )
                scored[query][document] = score
            append(scored)
            run.update(scored)
            bar.update(len(pairs))
    return Rescored(run, total - num_known, seconds)


def rescore_with_bundle(
    collection: Collection,
    candidates: Run,
    bundle: str | os.PathLike[str],
    *,
    threads: int | None = None,
    kernels: str | None = None,
    max_length: int | None = None,
    path: Path | None = None,
    name: str = "rescore",
    show_progress: bool = False,
) -> Rescored:
    """Score every candidate of every query with a bundle, as ``rescore`` does.

    Parameters and errors are those of ``Reranker`` and ``rescore``.
    """
    reranker = Reranker(bundle, threads=threads, kernels=kernels, max_length=max_length)
    scorer = (
        reranker.bundle.digest,
        reranker.variant.name,
        reranker.kernels.name,
        reranker.max_length,
    )
    return rescore(
        collection,
        candidates,
        reranker.score_pairs,
        path=path,
        digest=" ".join(map(str, scorer)),
        queries_at_once=QUERIES_AT_ONCE if reranker.encodes_apart else 1,
        name=name,
        show_progress=show_progress,
    )


def _read_back(path: Path, tag: str, candidates: Run) -> Run:
    """Read scores with the tag from a finished and an unfinished run; warn of other scores."""
    known: Run = {}
    for file in (path, partial_path(path)):
        whole, num_others = read_tagged(file, tag, candidates)
        if num_others:
            logger.warning(
                "%s: queries left out: %d, unfinished or of another bundle, collection, length,"
                " first stage or kernels",
                file,
                num_others,
            )
        known.update(whole)
    return known


def _digest_of(digest: str, collection: Collection, candidates: Run) -> str:
    """Hash everything that a run depends on: the scorer, and the ids and texts of its pairs."""
    hasher = hashlib.sha256(digest.encode())
    for query, found in candidates.items():
        documents = [(document, collection.documents[document]) for document in found]
        hasher.update(msgspec.json.encode((query, collection.queries[query], documents)))
    return hasher.hexdigest()
