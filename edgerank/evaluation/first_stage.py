"""The candidates that models score: from BM25, or from a run file."""

from __future__ import annotations

from pathlib import Path

import bm25s

from edgerank.errors import InputError
from edgerank.evaluation.collection import Collection
from edgerank.evaluation.trec import Run, read_run
from edgerank.ranking import top
from edgerank.trec import by_score


def bm25(collection: Collection, num_candidates: int, *, show_progress: bool = False) -> Run:
    """Find the best documents of every query with BM25, best first.

    Words are runs of two or more word characters, without English stop words, and are not stemmed.
    Candidates have a word of the query, so a query may have fewer than ``num_candidates``.
    """
    words = bm25s.tokenize(list(collection.documents.values()), show_progress=show_progress)
    if not words.vocab:
        return {query: {} for query in collection.queries}
    index = bm25s.BM25()
    index.index(words, show_progress=show_progress)
    ids = list(collection.documents)
    run: Run = {}
    for query, text in collection.queries.items():
        [query_words] = bm25s.tokenize([text], return_ids=False, show_progress=False)
        scores = index.get_scores_from_ids(index.get_tokens_ids(query_words))
        best = [place for place in top(scores, num_candidates) if scores[place] > 0]
        run[query] = {ids[place]: float(scores[place]) for place in best}
    return run


def read_candidates(path: Path, collection: Collection, num_candidates: int) -> Run:
    """Read the best documents of every query from a run file, best first.

    Queries without judgements are left out. A query with judgements that is not in the file has no
    candidates.

    :raises InputError: the file is missing or malformed, or has a document that is not in the
        corpus
    """
    run = read_run(path)
    candidates = {
        query: dict(by_score(run.get(query, {}))[:num_candidates]) for query in collection.queries
    }
    for query, scores in candidates.items():
        for document in scores:
            if document not in collection.documents:
                raise InputError(
                    str(path),
                    f"query {query!r}: the document {document!r} is not in the corpus of"
                    f" {collection.name}",
                )
    if not any(candidates.values()):
        raise InputError(str(path), f"none of the judged queries of {collection.name} is there")
    return candidates
