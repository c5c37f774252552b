"""Packs sequences into micro-batches on one flat token axis, without padding.

A micro-batch is a list of segments laid end to end. For attention each segment also has leading
keys: the shared prefix, or the earlier chunks of a long document. Row numbers count
first the past, which are the rows cached from earlier micro-batches, and then the flat axis.

A decoder's prefix is part of the first micro-batch of its query and is cached for the others, so it
costs no run of its own; small queries share a micro-batch. A document longer than a micro-batch
goes through in chunks, each with everything before it as past.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

STOCK_BATCH_TOKENS = 512  # products at full speed, and intermediate results fit the caches
COMPILED_BATCH_TOKENS = 1024  # compiled kernels have fewer intermediate results
MIN_BATCH_TOKENS = 16
UNSCORED = -1
MAX_GRID_CELLS = 1 << 20  # query slots x key slots of a micro-batch: bounds attention's memory
GPU_CELLS_PER_TOKEN = 1024  # of a micro-batch's budget: a GPU has memory for more slots
# of intermediate results: 32 heads with these cells, and an MLP 16,384 wide, in float16
GPU_BYTES_PER_TOKEN = 1 << 19
MIN_GPU_BATCH_TOKENS, MAX_GPU_BATCH_TOKENS = 1 << 10, 1 << 14  # more make a GPU no faster
GPU_BATCH_STEP = 256
MIN_CHUNK = 64  # tokens; chunks shrink as their past grows, but not below this


@dataclass(frozen=True)
class Tokens:
    """A piece of tokenised text."""

    ids: Ids  # int64 [n]
    types: Ids  # int64 [n], BERT's segment of each token
    num_unseen: int = 0  # number of last tokens to which no token attends; for encoders

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, part: slice) -> Tokens:
        return Tokens(self.ids[part], self.types[part])


EMPTY = Tokens(np.zeros(0, np.int64), np.zeros(0, np.int64))


@dataclass(frozen=True)
class Group:
    """The sequences of one query and the prefix that they share."""

    prefix: Tokens  # empty for encoders
    sequences: Sequence[Tokens]
    score_ids: Sequence[int]  # for each sequence, the id of its score

    def __len__(self) -> int:
        """Tokens of the group, the prefix counted once."""
        return len(self.prefix) + sum(map(len, self.sequences))


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens of one sequence within a micro-batch."""

    tokens: Tokens
    lead_start: int  # first row, in past and flat axis, of the keys before the segment
    lead_length: int  # number of these keys, and the position of the segment's first token
    score_id: int
    is_shared: bool = False  # with other sequences: a prefix or a part of one


@dataclass(frozen=True)
class Batch:
    """A micro-batch: the arrays are inputs of the graph with the same names."""

    token_ids: Ids  # int64 [T]
    token_types: Ids  # int64 [T]
    positions: Ids  # int64 [T]
    query_rows: Ids  # int64 [B, L]
    key_rows: Ids  # int64 [B, S]
    slots: Ids  # int64 [T]
    visible: Ids  # int64 [B, L]
    scored_rows: Ids  # int64 [B], each segment's last row, or its first for encoders
    refined_rows: Ids  # int64 [R], the scored rows whose scores are used
    fine_rows: Ids  # int64 [R], these and the rows of prefixes, ascending
    cache_rows: Ids  # int64 [C], rows whose keys and values later micro-batches need
    past_length: int  # leading rows of the cache that this micro-batch sees
    cache_length: int  # most rows of the cache until it is emptied
    score_ids: Ids  # int64 [B], UNSCORED for prefixes and unfinished chunks

    @property
    def lengths(self) -> Ids:
        """Tokens of each segment, int64 [B]."""
        num_segments, length = self.query_rows.shape
        return np.bincount(self.slots // length, minlength=num_segments)

    @property
    def feed(self) -> dict[str, Ids]:
        """The arrays by name; a graph takes those that it has inputs for."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("past_length", "cache_length", "score_ids")
        }


@dataclass(frozen=True)
class _Budget:
    """The size that a micro-batch may have."""

    tokens: int
    cells: int  # query slots x key slots


@dataclass(frozen=True)
class _Cached:
    """How a micro-batch uses the cache."""

    past_length: int  # leading rows that it sees
    num_new: int  # number of its first rows, which are added to the cache
    length: int  # most rows of the cache until it is emptied


_NO_CACHE = _Cached(0, 0, 0)


def default_batch_tokens(*, compiled: bool) -> int:
    """Return the fastest number of tokens of a micro-batch, with compiled kernels or without."""
    return COMPILED_BATCH_TOKENS if compiled else STOCK_BATCH_TOKENS


def gpu_batch_tokens(free_memory: int, weights: int) -> int:
    """Return the number of tokens of a micro-batch that a GPU has memory for.

    Of the free memory, a fifth stays free, and the weights take their part. What is left is for
    micro-batches, half a MiB for each token. The result is from 1,024 to 16,384, a multiple of 256.

    :param free_memory: bytes
    :param weights: bytes of the graph's files
    """
    left = free_memory * 4 // 5 - weights
    fitting = left // GPU_BYTES_PER_TOKEN // GPU_BATCH_STEP * GPU_BATCH_STEP
    return min(max(fitting, MIN_GPU_BATCH_TOKENS), MAX_GPU_BATCH_TOKENS)


def pack(
    groups: Iterable[Group], *, max_tokens: int, causal: bool, max_cells: int = MAX_GRID_CELLS
) -> Iterator[Batch]:
    """Lay out groups as micro-batches of at most ``max_tokens`` tokens, longest sequence first.

    ``causal`` is for decoders. An encoder's sequence that exceeds the budget has a micro-batch of
    its own. Micro-batches must run in this order: one may read what an earlier one cached.

    :param max_cells: query slots x key slots of a micro-batch
    """
    budget = _Budget(max_tokens, max_cells)
    if not causal:
        groups = list(groups)
        everything = Group(
            EMPTY,
            [sequence for group in groups for sequence in group.sequences],
            [score_id for group in groups for score_id in group.score_ids],
        )
        for batch in _fill(_longest_first(everything), max_tokens, budget, lead_length=0):
            segments = [Segment(tokens, 0, 0, score_id) for tokens, score_id in batch]
            yield _build(segments, causal=False)
        return
    shared: list[Group] = []
    for group in groups:
        if not group.sequences:
            continue
        if len(group) > max_tokens:
            yield from _pack_large(group, budget)
            continue
        if sum(map(len, shared)) + len(group) > max_tokens:
            yield _share(shared)
            shared = []
        shared.append(group)
    if shared:
        yield _share(shared)


def _share(groups: list[Group]) -> Batch:
    """Put whole groups into one micro-batch, each prefix before its sequences."""
    segments: list[Segment] = []
    start = 0
    for group in groups:
        if len(group.prefix):
            segments.append(Segment(group.prefix, 0, 0, UNSCORED, is_shared=True))
        for tokens, score_id in _longest_first(group):
            segments.append(Segment(tokens, start, len(group.prefix), score_id))
        start += len(group)
    return _build(segments, causal=True)


def _pack_large(group: Group, budget: _Budget) -> Iterator[Batch]:
    """Lay out a group that needs several micro-batches."""
    prefix_length, max_tokens = len(group.prefix), budget.tokens
    is_long = [
        len(tokens) > max_tokens or len(tokens) * (prefix_length + len(tokens)) > budget.cells
        for tokens in group.sequences
    ]
    ordered = _longest_first(group)
    long, short = ordered[: sum(is_long)], ordered[sum(is_long) :]
    cache_length = prefix_length + (len(long[0][0]) if long else 0)

    includes_prefix = not long and prefix_length + len(ordered[0][0]) <= max_tokens
    if not includes_prefix:
        yield from _chunks(group.prefix, 0, budget, UNSCORED, cache_length, is_shared=True)
    for tokens, score_id in long:
        yield from _chunks(tokens, prefix_length, budget, score_id, cache_length)
    first = max_tokens - prefix_length if includes_prefix else max_tokens
    for number, batch in enumerate(_fill(short, first, budget, prefix_length)):
        segments = [Segment(tokens, 0, prefix_length, score_id) for tokens, score_id in batch]
        if includes_prefix and number == 0:
            head = Segment(group.prefix, 0, 0, UNSCORED, is_shared=True)
            cached = _Cached(0, prefix_length, cache_length)
            yield _build([head, *segments], cached, causal=True)
        else:
            yield _build(segments, _Cached(prefix_length, 0, cache_length), causal=True)


def _chunks(
    tokens: Tokens,
    past_length: int,
    budget: _Budget,
    score_id: int,
    cache_length: int,
    *,
    is_shared: bool = False,
) -> Iterator[Batch]:
    """Lay out one long sequence as consecutive chunks, each cached for the next."""
    start = 0
    while start < len(tokens):
        past = past_length + start
        size = min(budget.tokens, max(MIN_CHUNK, budget.cells // (past + budget.tokens)))
        chunk = tokens[start : start + size]
        start += size
        belongs = score_id if start >= len(tokens) else UNSCORED
        num_new = len(chunk) if belongs == UNSCORED else 0  # the last chunk is not cached
        cached = _Cached(past, num_new, cache_length)
        yield _build([Segment(chunk, 0, past, belongs, is_shared)], cached, causal=True)


def _longest_first(group: Group) -> list[tuple[Tokens, int]]:
    """Pair sequences with their score ids, longest first, ties in input order."""
    order = sorted(range(len(group.sequences)), key=lambda i: -len(group.sequences[i]))
    return [(group.sequences[i], group.score_ids[i]) for i in order]


def _fill(
    ordered: list[tuple[Tokens, int]], first_tokens: int, budget: _Budget, lead_length: int
) -> Iterator[list[tuple[Tokens, int]]]:
    """Cut sequences, longest first, into runs within the budget, the first one of fewer tokens."""
    batch: list[tuple[Tokens, int]] = []
    total, limit = 0, first_tokens
    for tokens, score_id in ordered:
        longest = len(batch[0][0]) if batch else len(tokens)
        cells = (len(batch) + 1) * longest * (lead_length + longest)
        if batch and (total + len(tokens) > limit or cells > budget.cells):
            yield batch
            batch, total, limit = [], 0, budget.tokens
        batch.append((tokens, score_id))
        total += len(tokens)
    if batch:
        yield batch


def _build(segments: list[Segment], cached: _Cached = _NO_CACHE, *, causal: bool) -> Batch:
    """Concatenate segments."""
    lengths = np.array([len(segment.tokens) for segment in segments], np.int64)
    lead_lengths = np.array([segment.lead_length for segment in segments], np.int64)
    lead_starts = np.array([segment.lead_start for segment in segments], np.int64)
    starts = np.cumsum(lengths) - lengths
    score_ids = np.array([segment.score_id for segment in segments], np.int64)
    scored_rows = starts + lengths - 1 if causal else starts
    query_rows, key_rows, visible, slots, positions = attention_grid(
        lengths, lead_starts, lead_lengths, cached.past_length, causal
    )
    refined_rows = scored_rows[score_ids != UNSCORED]
    is_fine = np.repeat([segment.is_shared for segment in segments], lengths)
    is_fine[refined_rows] = True
    num_unseen = np.array([segment.tokens.num_unseen for segment in segments], np.int64)
    if num_unseen.any():
        visible = np.minimum(visible, (lengths - num_unseen)[:, None])
    return Batch(
        token_ids=np.concatenate([segment.tokens.ids for segment in segments]),
        token_types=np.concatenate([segment.tokens.types for segment in segments]),
        positions=positions,
        query_rows=query_rows,
        key_rows=key_rows,
        slots=slots,
        visible=visible,
        scored_rows=scored_rows,
        refined_rows=refined_rows,
        fine_rows=np.flatnonzero(is_fine),
        cache_rows=np.arange(cached.num_new, dtype=np.int64),
        past_length=cached.past_length,
        cache_length=cached.length,
        score_ids=score_ids,
    )


def attention_grid(
    lengths: Ids, lead_starts: Ids, lead_lengths: Ids, past_length: int, causal: bool
) -> tuple[Ids, Ids, Ids, Ids, Ids]:
    """Place segments of a flat token axis into a grid with one segment a row.

    With B segments, T tokens, L the longest segment and S the longest leading keys plus segment:

    :param lengths: int64 [B], tokens of each segment, at least 1
    :param lead_starts: int64 [B], first row of past ++ flat axis among the leading keys
    :param lead_lengths: int64 [B], number of leading keys
    :param past_length: rows of the past
    :param causal: whether a token sees only keys up to itself, or all of its segment's
    :return: query_rows [B, L], key_rows [B, S], visible [B, L], slots [T], positions [T], int64;
        see ``quantize.graph.grid.Grid``; empty slots hold row 0, and see one key
    """
    starts = np.cumsum(lengths) - lengths
    columns = np.arange(lengths.max())
    is_token = columns < lengths[:, None]
    query_rows = np.where(is_token, starts[:, None] + columns, 0)
    slots = np.flatnonzero(is_token)

    keys = np.arange((lead_lengths + lengths).max())
    own = keys - lead_lengths[:, None]
    key_rows = np.where(own < 0, lead_starts[:, None] + keys, past_length + starts[:, None] + own)
    key_rows[own >= lengths[:, None]] = 0

    last_seen = columns + 1 if causal else lengths[:, None]
    visible = np.where(is_token, lead_lengths[:, None] + last_seen, 1)
    positions = (lead_lengths[:, None] + columns)[is_token]
    return query_rows, key_rows, visible, slots, positions
