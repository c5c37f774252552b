"""What a backend is: functions that compare a query with parts of a segment's documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgerank.packing import Ids
from edgerank.ranking import Scores
from edgerank.store.features import Query, StoreRule
from edgerank.store.segments import Segment

Run = Callable[[int, int], None]  # compares parts from the first to before the second


@dataclass(frozen=True)
class TokenComparison:
    """A comparison of tokens, and the arrays for its results."""

    rule: StoreRule
    segment: Segment
    starts: Ids  # int64 [parts], the first token of each part
    ends: Ids  # and the first after it
    query: Query
    nearest: Scores  # float32 [parts], the feature of that name
    exact: Scores  # likewise; zeros before, because a rule without token ids leaves it alone


@dataclass(frozen=True)
class PooledComparison:
    """A comparison of pooled vectors, and the array for its results."""

    segment: Segment
    places: Ids  # int64 [parts], of the segment's parts
    query: Query
    cosines: Scores  # float32 [parts]


@dataclass(frozen=True)
class Backend:
    """What compares vectors. Each function prepares a comparison, and returns what runs it."""

    name: str
    compare_tokens: Callable[[TokenComparison], Run]
    compare_pooled: Callable[[PooledComparison], Run]
    is_shared: bool = True  # among threads; NumPy's BLAS has its own
