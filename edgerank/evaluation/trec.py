"""TREC run files: "query Q0 document rank score tag" a line.

Ranks follow the scores, and equal scores keep the order that they come in. trec_eval and its kin
read the scores alone, and put equal scores in descending order of document ids.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from edgerank.errors import InputError
from edgerank.files import read_lines, write_atomically

Run = dict[str, dict[str, float]]  # scores by query id, then document id


def read_run(path: Path) -> Run:
    """Read a run, its documents in the order of the lines.

    :raises InputError: the file is missing or malformed, or names a document twice for a query
    """
    run: Run = {}
    for number, line in read_lines(path):
        try:
            query, document, score, _ = _parse(line)
        except ValueError as error:
            raise InputError(
                str(path),
                f"line {number}: expected six fields, query Q0 document rank score tag, and"
                " a finite score",
            ) from error
        scores = run.setdefault(query, {})
        if document in scores:
            raise InputError(
                str(path),
                f"line {number}: the document {document!r} was there before for the query"
                f" {query!r}",
            )
        scores[document] = score
    return run


def write_run(path: Path, run: Run, tag: str) -> None:
    """Write a run, whole or not at all."""
    write_atomically(path, _lines(run, tag).encode())


def read_tagged(path: Path, tag: str, candidates: Run) -> tuple[Run, int]:
    """Read the queries of which every candidate, and nothing else, is in a run under the tag.

    What is not well-formed is skipped: an interruption may have torn the last line.

    :return: their scores in the order of the candidates, and how many other queries the file names
    """
    found: Run = {}
    named = set()
    for _, line in read_lines(path) if path.exists() else ():
        try:
            query, document, score, its_tag = _parse(line)
        except ValueError:
            continue
        named.add(query)
        if its_tag == tag:
            found.setdefault(query, {})[document] = score
    whole = {
        query: {document: found[query][document] for document in documents}
        for query, documents in candidates.items()
        if documents and documents.keys() == found.get(query, {}).keys()
    }
    return whole, len(named - whole.keys())


@contextmanager
def growing_run(path: Path | None, run: Run, tag: str) -> Iterator[Callable[[Run], None]]:
    """Write a run query by query under the name of ``partial_path``; rename it when all is there.

    :param path: None to write nothing
    :param run: what is there from the start
    :return: a function that appends queries
    """
    if path is None:
        yield lambda more: None
        return
    partial = partial_path(path)
    write_run(partial, run, tag)
    with partial.open("a", encoding="utf-8") as file:

        def append(more: Run) -> None:
            file.write(_lines(more, tag))
            file.flush()

        yield append
    partial.replace(path)


def partial_path(path: Path) -> Path:
    """Return where a run lies until it is complete."""
    return path.with_name(f"{path.name}.partial")


def by_score(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return documents and scores, best first; equal scores keep their order."""
    return sorted(scores.items(), key=lambda item: -item[1])


def _lines(run: Run, tag: str) -> str:
    return "".join(
        f"{query} Q0 {document} {rank} {score!r} {tag}\n"
        for query, scores in run.items()
        for rank, (document, score) in enumerate(by_score(scores), 1)
    )


def _parse(line: bytes) -> tuple[str, str, float, str]:
    """Return query, document, score and tag.

    :raises ValueError: the line is not that of a run
    """
    query, _, document, _, score, tag = line.decode().split()
    if not math.isfinite(float(score)):
        raise ValueError(score)
    return query, document, float(score), tag
