"""Inputs of batch jobs, and jobs whose scores need no model."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from edgerank.batch.begin import Begun
from edgerank.batch.formats import encode
from edgerank.batch.job import Asking, Row, Scorer
from edgerank.batch.output import INPUT_NAME
from edgerank.batch.reading import Reader
from edgerank.batch.scoring import Scored
from edgerank.batch.shards import ShardResult

SCORER = Scorer("model", "a" * 64, "int8", "stock", 1, 256, 512, Asking(), "0.1.0", "1.30")
QUERIES = {"q1": "who wrote dune?", "q2": "capital of France?", "q3": "what is sand?"}
CORPUS = {
    "d1": ("Dune", "Frank Herbert wrote it in 1965."),
    "d2": ("", "Paris is the capital of France."),
    "d3": ("Sand", "It is small grains of rock, as on a beach or in a desert."),
    "d4": ("", "A film by Denis Villeneuve."),
}
PAIRS = [
    *(("q1", name) for name in ("d4", "d1", "d3")),
    *(("q2", name) for name in ("d2", "d3")),
    *(("q3", name) for name in ("d3", "d1", "d2", "d4")),
]


def text_of(document: str) -> str:
    title, text = CORPUS[document]
    return "\n".join(filter(None, [title, text]))


def write_jsonl(path: Path, records: Iterable[object]) -> Path:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def read_jsonl(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_collection(directory: Path, *, judged: bool = False) -> Path:
    """Write QUERIES and CORPUS in BEIR's layout, and judgements of PAIRS if they are wanted."""
    directory.mkdir()
    if judged:
        (directory / "qrels").mkdir()
        lines = "".join(f"{query}\t{document}\t1\n" for query, document in PAIRS)
        (directory / "qrels/test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}")
    write_jsonl(
        directory / "queries.jsonl", ({"_id": name, "text": text} for name, text in QUERIES.items())
    )
    write_jsonl(
        directory / "corpus.jsonl",
        ({"_id": name, "title": title, "text": text} for name, (title, text) in CORPUS.items()),
    )
    return directory


def write_run(path: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> Path:
    lines = (f"{query} Q0 {document} 1 {0.5} first\n" for query, document in pairs)
    path.write_text("".join(lines))
    return path


def parts(output: Path) -> list[Path]:
    """The shards of an output, in order."""
    return sorted(output.glob("part-*"))


def results_of(output: Path) -> list[Any]:
    """The rows of an output in JSONL."""
    return [record for path in parts(output) for record in read_jsonl(path)]


def contents(directory: Path) -> dict[str, bytes]:
    """An output, without what it knows of its input, which depends on when that was written."""
    files = (path for path in sorted(directory.iterdir()) if path.name != INPUT_NAME)
    return {path.name: path.read_bytes() for path in files}


def rows_of(begun: Begun, number: int) -> list[Any]:
    with Reader(begun.source, begun.output.job.format, begun.indexes) as reader:
        return list(reader.rows(begun.output.job.shards[number]))


def hashed_results(begun: Begun) -> Iterator[ShardResult]:
    """Score what is left to do by the texts' hashes."""
    for number in begun.output.waiting():
        rows = rows_of(begun, number)
        scored = [hashed(row) for row in rows if isinstance(row, Row)]
        bad = tuple(row for row in rows if not isinstance(row, Row))
        yield ShardResult(number, encode(begun.output.job, scored), bad)


def hashed(row: Row) -> Scored:
    texts = (f"{row.query} {text}" for text in row.texts)
    return Scored(row, np.array([crc32(text.encode()) / 2**32 for text in texts], np.float32))


def by_pair(results: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], float]:
    return {(one["query_id"], one["document_id"]): one["score"] for one in results}
