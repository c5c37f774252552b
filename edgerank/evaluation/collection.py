"""A collection with judgements in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgerank.beir import CORPUS, QUERIES, read_record
from edgerank.errors import InputError
from edgerank.files import read_lines

QRELS_HEADER = ["query-id", "corpus-id", "score"]
MAX_RELEVANCE = 1_000_000  # trec_eval keeps a counter for each level, and wraps at 32 bits

Qrels = dict[str, dict[str, int]]  # relevance by query id, then document id


@dataclass(frozen=True)
class Collection:
    """Documents, queries and relevance judgements."""

    name: str
    documents: dict[str, str]  # by id: title and text
    queries: dict[str, str]  # by id: the text; only queries with judgements
    qrels: Qrels  # of these queries; may include documents that are not in the corpus


def read_collection(directory: str | os.PathLike[str], split: str = "test") -> Collection:
    """Read a collection.

    :param directory: a directory in BEIR's layout
    :param split: name of the file of judgements, qrels/<split>.tsv
    :raises InputError: a file is missing or malformed, or a query with judgements is missing
    """
    directory = Path(directory)
    qrels_path = directory / "qrels" / f"{split}.tsv"
    qrels = _read_qrels(qrels_path)
    queries = _read_texts(directory / QUERIES)
    missing = next((query for query in qrels if query not in queries), None)
    if missing is not None:
        raise InputError(str(qrels_path), f"the query {missing!r} is not in queries.jsonl")
    blank = next((query for query in qrels if not queries[query].strip()), None)
    if blank is not None:
        raise InputError(str(directory / QUERIES), f"the query {blank!r} is blank")
    return Collection(
        name=directory.resolve().name,
        documents=_read_texts(directory / CORPUS),
        queries={query: queries[query] for query in queries if query in qrels},
        qrels=qrels,
    )


def _read_texts(path: Path) -> dict[str, str]:
    """Read the titles and texts of a JSONL file, by id."""
    texts: dict[str, str] = {}
    for number, line in read_lines(path):
        key, text = read_record(str(path), number, line)
        if key in texts:
            raise InputError(str(path), f"line {number}: the id {key!r} was there before")
        texts[key] = text
    if not texts:
        raise InputError(str(path), "empty; expected a JSON object with _id and text a line")
    return texts


def _read_qrels(path: Path) -> Qrels:
    """Read tab-separated judgements under BEIR's header."""
    qrels: Qrels = {}
    for number, line in read_lines(path):
        try:
            fields = [field.strip() for field in line.decode().split("\t")]
            if number == 1 and fields != QRELS_HEADER:
                raise ValueError
            if number == 1:
                continue
            query, document, relevance = fields
            grade = int(relevance)
        except ValueError as error:
            wanted = "the header query-id, corpus-id, score" if number == 1 else "an integer score"
            raise InputError(
                str(path),
                f"line {number}: expected three fields with tabs between them, and {wanted}",
            ) from error
        if abs(grade) > MAX_RELEVANCE:
            raise InputError(
                str(path),
                f"line {number}: the score {grade} is out of range; it must be from"
                f" {-MAX_RELEVANCE} to {MAX_RELEVANCE}",
            )
        before = qrels.setdefault(query, {}).setdefault(document, grade)
        if before != grade:
            raise InputError(
                str(path),
                f"line {number}: {document!r} has the score {grade} for {query!r}, but had"
                f" {before} before",
            )
    if not qrels:
        raise InputError(str(path), "no judgements below the header; expected one a line")
    return qrels
