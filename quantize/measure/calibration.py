"""Calibration text: pairs to choose scales with, and held-out pairs to measure on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from edgerank.errors import InputError
from edgerank.files import read_jsonl

T = TypeVar("T")

DEFAULT_PATH = Path(__file__).with_name("calibration.jsonl")
DEFAULT_NAME = "built-in text"
HELD_OUT_EVERY = 4  # one of this many queries is held out
CANDIDATES = 20  # most documents of a held-out query; other queries' if it has fewer
CALIBRATION_TOKENS = 12288  # more changes little and takes longer
HELD_OUT_TOKENS = 20480


class TextPair(msgspec.Struct, frozen=True):
    """A query and a document; the id names the document in figures."""

    query: str
    document: str
    id: str = ""


@dataclass(frozen=True)
class Calibration:
    """Pairs to choose scales with, and held-out pairs of other queries to measure on."""

    name: str  # source of the pairs
    pairs: Sequence[TextPair]
    held_out: Sequence[TextPair]


def read_calibration(path: Path | None) -> Calibration:
    """Read JSON Lines of {"query": ..., "document": ..., "id": ...}; the built-in text for None.

    Every fourth query is held out, with all of its documents. Ids default to the line's number.

    :raises InputError: a line is malformed, or there are fewer than two queries
    """
    name = DEFAULT_NAME if path is None else path.name
    path = path or DEFAULT_PATH
    pairs = []
    for number, pair in read_jsonl(path, TextPair):
        if not pair.query.strip():
            raise InputError(str(path), f"line {number}: the query is blank")
        pairs.append(pair if pair.id else msgspec.structs.replace(pair, id=f"{name}:{number}"))
    places = {query: place for place, query in enumerate(dict.fromkeys(p.query for p in pairs))}
    if len(places) < 2:
        raise InputError(
            str(path),
            f"it has {len(places)} queries; at least 2 are needed, one to calibrate with and"
            " another to measure on",
        )
    last = min(HELD_OUT_EVERY, len(places)) - 1
    parts: tuple[list[TextPair], list[TextPair]] = ([], [])
    for pair in pairs:
        parts[places[pair.query] % HELD_OUT_EVERY == last].append(pair)
    return Calibration(name, parts[0], _with_candidates(parts[1]))


def _with_candidates(pairs: Sequence[TextPair]) -> list[TextPair]:
    """Add other queries' documents to queries that have few."""
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    filled = []
    for place, query in enumerate(queries):
        others = [*queries[place + 1 :], *queries[:place]]
        own = [pair for pair in pairs if pair.query == query]
        borrowed = [pair for other in others for pair in pairs if pair.query == other]
        for pair in borrowed[: max(0, CANDIDATES - len(own))]:
            own.append(msgspec.structs.replace(pair, query=query))
        filled += own
    return filled


def thinned(
    calibration: Calibration, count_tokens: Callable[[Sequence[TextPair]], int]
) -> Calibration:
    """Reduce the text to the budgets of tokens: leave out pairs evenly, or whole queries.

    :param count_tokens: returns the number of tokens to compute for some pairs
    """

    def share(pairs: Sequence[TextPair], budget: int) -> float:
        return min(1.0, budget / max(count_tokens(pairs), 1))

    pairs = _spread(calibration.pairs, share(calibration.pairs, CALIBRATION_TOKENS))
    queries = list(dict.fromkeys(pair.query for pair in calibration.held_out))
    chosen = {*_spread(queries, share(calibration.held_out, HELD_OUT_TOKENS))}
    held_out = [pair for pair in calibration.held_out if pair.query in chosen]
    return Calibration(calibration.name, pairs, held_out)


def _spread(items: Sequence[T], share: float) -> list[T]:
    """Choose a share of the items, at least one, at even distances."""
    count = max(1, int(len(items) * share))
    return [items[index * len(items) // count] for index in range(count)]
