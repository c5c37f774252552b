"""TREC run files, read and written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgerank.errors import InputError
from edgerank.files import read_lines, write_atomically
from edgerank.trec import lines_of, parse_line

Run = dict[str, dict[str, float]]  # scores by query id, then document id


def read_run(path: Path) -> Run:
    """Read a run, its documents in the order of the lines.

    :raises InputError: the file is missing or malformed, or names a document twice for a query
    """
    run: Run = {}
    for number, line in read_lines(path):
        try:
            query, document, score, _ = parse_line(line)
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
    """Read the queries that are complete in a run: exactly their candidates have the tag.

    Malformed lines are skipped, because an interruption may have cut the last line.

    :return: their scores in the order of the candidates, and the number of other queries in the
        file
    """
    found: Run = {}
    named = set()
    for _, line in read_lines(path) if path.exists() else ():
        try:
            query, document, score, its_tag = parse_line(line)
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
    """Write a run query by query to ``partial_path``; rename the file when it is complete.

    :param path: the final file; None writes nothing
    :param run: the queries to begin with
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
    """Return the path of a run until it is complete."""
    return path.with_name(f"{path.name}.partial")


def _lines(run: Run, tag: str) -> str:
    return "".join(line for query, scores in run.items() for line in lines_of(query, scores, tag))
