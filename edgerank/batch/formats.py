"""Scores as the content of a shard's file."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edgerank import trec
from edgerank.batch.job import Job, Kind
from edgerank.batch.scoring import Scored

TAG = "edgerank"


class RowResult(msgspec.Struct, frozen=True):
    """The scores of a query's documents, in their order."""

    id: str | int
    query: str
    scores: list[float]


class PairResult(msgspec.Struct, frozen=True):
    """The score of a pair."""

    query_id: str | int
    document_id: str
    score: float


def encode(job: Job, scored: Sequence[Scored]) -> bytes:
    """Write results in the job's format."""
    if job.format == "trec":
        return _run(scored)
    if job.format == "parquet":
        from edgerank.batch.parquet import encode_parquet

        return encode_parquet(job.kind, scored, integer_ids=job.integer_ids)
    return msgspec.json.Encoder().encode_lines([_result(job.kind, one) for one in scored])


def _result(kind: Kind, one: Scored) -> RowResult | PairResult:
    if kind == "rows":
        return RowResult(one.row.id, one.row.query, one.scores.tolist())
    return PairResult(one.row.id, one.row.names[0], float(one.scores[0]))


def _run(scored: Sequence[Scored]) -> bytes:
    """Write a run: a query's documents are best first, wherever they stand."""
    queries: dict[str, dict[str, float]] = {}
    for one in scored:
        found = queries.setdefault(str(one.row.id), {})
        found.update(zip(one.row.names, one.scores.tolist(), strict=True))
    lines = (
        line for query, scores in queries.items() for line in trec.lines_of(query, scores, TAG)
    )
    return "".join(lines).encode()
