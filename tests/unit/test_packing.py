"""Micro-batches hold every token once, within the budget, and see the right keys."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerank.packing import (
    EMPTY,
    MAX_GRID_CELLS,
    UNSCORED,
    Batch,
    Group,
    Tokens,
    gpu_batch_tokens,
    pack,
)

groups_of_lengths = st.lists(
    st.tuples(st.integers(1, 60), st.lists(st.integers(1, 150), max_size=8)), max_size=5
)


def numbered(shapes: list[tuple[int, list[int]]]) -> list[Group]:
    """Groups whose token ids are all different, so that a token can be recognised anywhere."""
    groups, token, sequence = [], 0, 0
    for num_prefix, lengths in shapes:
        parts = []
        for length in [num_prefix, *lengths]:
            ids = np.arange(token, token + length)
            parts.append(Tokens(ids, ids % 2))
            token += length
        score_ids = range(sequence, sequence + len(lengths))
        groups.append(Group(parts[0], parts[1:], score_ids))
        sequence += len(lengths)
    return groups


def replay(batches: list[Batch]) -> dict[int, list[int]]:
    """Follow the batches as a graph would: for each score, the token ids its row sees, in order."""
    cache: list[int] = []
    room = 0
    seen: dict[int, list[int]] = {}
    for batch in batches:
        assert batch.past_length <= len(cache)
        if batch.past_length:  # as many rows are told throughout, for a buffer cannot grow
            assert batch.cache_length == room
        room = batch.cache_length
        assert batch.past_length + len(batch.cache_rows) <= room
        rows = cache[: batch.past_length] + batch.token_ids.tolist()
        num_slots = batch.query_rows.size
        assert len(set(batch.slots)) == len(batch.slots) <= num_slots
        flat_queries = batch.query_rows.reshape(-1)
        assert flat_queries[batch.slots].tolist() == list(range(len(batch.token_ids)))
        for number, (row, score_id) in enumerate(
            zip(batch.scored_rows, batch.score_ids, strict=True)
        ):
            sequence, slot = divmod(int(batch.slots[row]), batch.query_rows.shape[1])
            assert sequence == number
            visible = batch.key_rows[sequence, : batch.visible[sequence, slot]]
            if score_id != UNSCORED:
                assert score_id not in seen
                seen[int(score_id)] = [rows[key] for key in visible]
        scored = batch.scored_rows[batch.score_ids != UNSCORED]
        np.testing.assert_array_equal(batch.refined_rows, scored)
        assert (np.diff(batch.refined_rows) > 0).all()  # as compiled operators read them
        assert batch.token_types.tolist() == [token % 2 for token in batch.token_ids]
        new = [int(batch.token_ids[row]) for row in batch.cache_rows]
        cache = cache[: batch.past_length] + new
    return seen


@settings(deadline=None, max_examples=200)
@given(shapes=groups_of_lengths, max_tokens=st.sampled_from([16, 64, 200, 1024]))
def test_a_decoders_score_sees_its_prefix_and_its_sequence_and_nothing_else(shapes, max_tokens):
    groups = numbered(shapes)
    batches = list(pack(groups, max_tokens=max_tokens, causal=True))
    seen = replay(batches)
    for group in groups:
        for tokens, score_id in zip(group.sequences, group.score_ids, strict=True):
            assert seen.pop(score_id) == [*group.prefix.ids, *tokens.ids]
    assert not seen
    for batch in batches:
        assert len(batch.token_ids) <= max_tokens
        assert batch.query_rows.shape[1] * batch.key_rows.size <= MAX_GRID_CELLS


@settings(deadline=None, max_examples=200)
@given(shapes=groups_of_lengths, max_tokens=st.sampled_from([16, 64, 200, 1024]))
def test_fine_rows_are_those_of_prefixes_and_of_the_tokens_that_are_scored(shapes, max_tokens):
    groups = numbered(shapes)
    batches = list(pack(groups, max_tokens=max_tokens, causal=True))
    fine = [token for batch in batches for token in batch.token_ids[batch.fine_rows].tolist()]
    prefixes = [token for group in groups if group.sequences for token in group.prefix.ids.tolist()]
    last = [int(tokens.ids[-1]) for group in groups for tokens in group.sequences]
    assert sorted(fine) == sorted(prefixes + last)
    for batch in batches:
        assert (np.diff(batch.fine_rows) > 0).all()  # as compiled operators read them


@settings(deadline=None, max_examples=200)
@given(shapes=groups_of_lengths, max_tokens=st.sampled_from([16, 64, 200, 1024]))
def test_an_encoders_score_sees_its_whole_sequence(shapes, max_tokens):
    groups = [Group(EMPTY, g.sequences, g.score_ids) for g in numbered(shapes)]
    batches = list(pack(groups, max_tokens=max_tokens, causal=False))
    seen = replay(batches)
    for group in groups:
        for tokens, score_id in zip(group.sequences, group.score_ids, strict=True):
            assert seen.pop(score_id) == tokens.ids.tolist()
    assert not seen
    for batch in batches:
        assert len(batch.token_ids) <= max_tokens or len(batch.score_ids) == 1


@settings(deadline=None)
@given(shapes=groups_of_lengths, max_tokens=st.sampled_from([64, 200]))
def test_positions_count_from_the_start_of_the_prompt(shapes, max_tokens):
    groups = numbered(shapes)
    place = {}
    for group in groups:
        for tokens in group.sequences:
            whole = [*group.prefix.ids, *tokens.ids]
            place.update({int(token): position for position, token in enumerate(whole)})
    for batch in pack(groups, max_tokens=max_tokens, causal=True):
        for token, position in zip(batch.token_ids, batch.positions, strict=True):
            assert place[int(token)] == position


def test_a_prefix_is_computed_once_however_many_micro_batches_its_query_needs():
    groups = numbered([(30, [100] * 12)])
    batches = list(pack(groups, max_tokens=256, causal=True))
    assert len(batches) > 3
    assert sum(len(batch.token_ids) for batch in batches) == 30 + 12 * 100


def test_small_queries_share_a_micro_batch():
    groups = numbered([(20, [30, 40]), (10, [50]), (15, [20, 20])])
    assert len(list(pack(groups, max_tokens=512, causal=True))) == 1


def test_a_chunk_shrinks_as_its_past_grows_so_that_attention_stays_bounded():
    groups = numbered([(10, [9000])])
    batches = list(pack(groups, max_tokens=1024, causal=True))
    cells = [batch.query_rows.shape[1] * batch.key_rows.size for batch in batches]
    assert max(cells) <= MAX_GRID_CELLS
    assert batches[-2].query_rows.size < batches[2].query_rows.size


def test_what_is_scored_at_the_end_of_a_long_sequence_is_not_cached():
    *chunks, last = pack(numbered([(5, [70])]), max_tokens=32, causal=True)
    assert len(chunks) >= 2
    assert all(len(chunk.cache_rows) for chunk in chunks)
    assert len(last.cache_rows) == 0


def test_more_grid_cells_make_fewer_micro_batches():
    groups = numbered([(40, [300] * 64)])
    budget = {"max_tokens": 8192, "causal": True}
    few, many = (
        list(pack(groups, **budget, max_cells=cells)) for cells in (MAX_GRID_CELLS, 8 << 20)
    )
    assert len(many) == 3 < len(few)
    assert replay(many) == replay(few)


def test_a_gpu_s_micro_batches_are_as_its_memory_allows():
    gib = 1 << 30
    assert gpu_batch_tokens(80 * gib, 3 * gib) == 16384
    assert gpu_batch_tokens(4 * gib, 3 * gib) == 1024
    between = gpu_batch_tokens(8 * gib, 3 * gib)
    assert between == (8 * gib * 4 // 5 - 3 * gib) // (1 << 19) // 256 * 256
    assert 1024 < between < 16384
