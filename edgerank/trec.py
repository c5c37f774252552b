"""Lines of TREC run files: "query Q0 document rank score tag".

Ranks follow the scores, and equal scores keep their order. trec_eval and similar programs read only
the scores, and put equal scores in descending order of document ids.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping


def parse_line(line: bytes) -> tuple[str, str, float, str]:
    """Return query, document, score and tag.

    :raises ValueError: the line is not that of a run
    """
    query, _, document, _, score, tag = line.decode().split()
    if not math.isfinite(float(score)):
        raise ValueError(score)
    return query, document, float(score), tag


def by_score(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Return documents and scores, best first; equal scores keep their order."""
    return sorted(scores.items(), key=lambda item: -item[1])


def lines_of(query: str, scores: Mapping[str, float], tag: str) -> Iterator[str]:
    """Yield the lines of a query, best document first, each with its end."""
    for rank, (document, score) in enumerate(by_score(scores), 1):
        yield f"{query} Q0 {document} {rank} {score!r} {tag}\n"


def fits(name: str) -> bool:
    """Whether an id can be in a run: it is not empty, and has no white space."""
    return name.split() == [name]
