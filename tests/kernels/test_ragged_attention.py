"""Attention on the flat axis against its definition, on grids that packing makes.

The reference says for each token which keys it sees and takes the softmax in float64. Tolerance:
1e-5 of the largest value, since a logit is a sum of up to 256 float32 products of size one. Stock
operators are held to the same.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from edgerank.packing import Batch, Group, Tokens, pack
from quantize.graph.attention import attention
from quantize.graph.builder import Graph
from quantize.graph.grid import declare_inputs, with_mask
from quantize.graph.relative_positions import t5_buckets
from tests.support.operators import all_kernels, open_graph, rows_input, run

SEEDS = st.integers(0, 2**32 - 1)
some_shapes = settings(deadline=None, max_examples=12)
HEADS = st.sampled_from([(1, 1), (4, 4), (4, 1), (6, 2)])
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def write_attention(
    g: Graph,
    num_heads,
    num_kv_heads,
    size,
    with_past=False,
    window=None,
    with_parts=False,
    biases=None,
) -> dict[str, str]:
    """Attention of all rows, and of the scored rows alone."""
    inputs = declare_inputs(g, with_past=with_past)
    query = rows_input(g, "query", num_heads * size)
    width = 2 * num_kv_heads * size
    parts = g.input("token_types", TensorProto.INT64, ["tokens"]) if with_parts else ""
    attend = partial(
        attention,
        g,
        keys_values=rows_input(g, "keys_values", width),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        past=g.input("past", TensorProto.FLOAT, ["past", width]) if with_past else "",
    )
    change = partial(
        replace,
        window=window,
        is_causal=with_past,
        biases="" if biases is None else g.weight("biases", biases),
    )
    grid = with_mask(g, change(inputs.grid, parts=parts))
    outputs = {"attended": attend(grid=grid, query=query)}
    if not with_parts:
        scored_grid = with_mask(g, change(inputs.scored_grid))
        scored = g.op("Gather", query, inputs.scored_rows)
        outputs["scored"] = attend(grid=scored_grid, query=scored)
    return outputs


def reference(batch: Batch, query, every, positions, heads, size, window, parts, biases):
    """Attend token by token; every [P + T, 2 * num_kv_heads * size], of ``positions`` [P + T]."""
    num_heads, num_kv_heads = heads
    query = np.float64(query).reshape(-1, num_kv_heads, num_heads // num_kv_heads, size)
    keys, values = np.float64(every).reshape(len(every), 2, num_kv_heads, size).swapaxes(0, 1)
    rows = []
    for token, slot in enumerate(batch.slots):
        sequence, place = divmod(slot, batch.query_rows.shape[1])
        seen = batch.key_rows[sequence, : batch.visible[sequence, place]]
        if window is not None:
            seen = seen[np.abs(batch.positions[token] - positions[seen]) <= window]
        if parts:
            seen = seen[batch.token_types[seen] == batch.token_types[token]]
        logits = np.einsum("hgd,khd->hgk", query[token], keys[seen]) / np.sqrt(size)
        if biases is not None:
            zero = biases.shape[1] // 2
            logits += biases[:, None, zero + batch.positions[token] - positions[seen]]
        weights = np.exp(logits - logits.max(axis=2, keepdims=True))
        weights /= weights.sum(axis=2, keepdims=True)
        rows.append(np.einsum("hgk,khd->hgd", weights, values[seen]).ravel())
    return np.array(rows)


def check(
    kernels,
    batches,
    rng,
    heads,
    size,
    *,
    with_past=False,
    window=None,
    parts=False,
    biases=None,
    sharpness=1.0,
    threads=2,
) -> list[Batch]:
    """Run batches one after the other, on what those before cached; compare each."""
    num_heads, num_kv_heads = heads
    width = 2 * num_kv_heads * size
    write = partial(
        write_attention,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        size=size,
        with_past=with_past,
        window=window,
        with_parts=parts,
        biases=biases,
    )
    session = open_graph(write, kernels, threads)
    past, past_positions = np.zeros((0, width), np.float32), np.zeros(0, np.int64)
    batches = list(batches)
    for batch in batches:
        tokens = len(batch.token_ids)
        query = rng.standard_normal((tokens, num_heads * size), np.float32)
        query *= np.float32(sharpness)
        own = rng.standard_normal((tokens, width), np.float32)
        past, past_positions = past[: batch.past_length], past_positions[: batch.past_length]
        feeds = {**batch.feed, "query": query, "keys_values": own, "past": past}
        got = run(session, feeds)
        every = np.concatenate([past, own])
        positions = np.concatenate([past_positions, batch.positions])
        expected = reference(batch, query, every, positions, heads, size, window, parts, biases)
        tolerance = 1e-5 * sharpness * np.abs(every).max()
        np.testing.assert_allclose(got["attended"], expected, rtol=0, atol=tolerance)
        if not parts:
            scored = expected[batch.scored_rows]
            np.testing.assert_allclose(got["scored"], scored, rtol=0, atol=tolerance)
        past = np.concatenate([past, own[batch.cache_rows]])
        past_positions = np.concatenate([past_positions, batch.positions[batch.cache_rows]])
    return batches


def tokens_of(length: int, types: np.ndarray | None = None) -> Tokens:
    zeros = np.zeros(length, np.int64)
    return Tokens(zeros, zeros if types is None else types)


def group_of(prefix: int, lengths: list[int]) -> Group:
    return Group(tokens_of(prefix), [tokens_of(n) for n in lengths], [*range(len(lengths))])


@all_kernels
@some_shapes
@given(
    seed=SEEDS,
    groups=st.lists(st.tuples(st.integers(0, 30), LENGTHS), min_size=1, max_size=3),
    max_tokens=st.sampled_from([16, 50, 512]),
    heads=HEADS,
    size=st.sampled_from([2, 7, 32, 64]),
)
@example(0, [(20, [40, 3, 1])], 16, (4, 2), 32)  # chunks of a prefix and of a sequence
@example(1, [(20, [40, 3, 1]), (5, [9, 9])], 512, (4, 1), 7)  # prefixes in the same micro-batch
@example(2, [(20, [12, 11, 3, 30])], 35, (2, 2), 32)  # a prefix in the past and in the batch
def test_decoders_attend_to_their_prefix_and_to_what_came_before(
    kernels, seed, groups, max_tokens, heads, size
):
    rng = np.random.default_rng(seed)
    packed = pack([group_of(*group) for group in groups], max_tokens=max_tokens, causal=True)
    check(kernels, packed, rng, heads, size, with_past=True)


@all_kernels
@some_shapes
@given(
    seed=SEEDS,
    groups=st.lists(st.tuples(st.integers(0, 60), LENGTHS), min_size=1, max_size=3),
    max_tokens=st.sampled_from([16, 50, 512]),
    heads=HEADS,
    size=st.sampled_from([2, 7, 32, 64]),
    window=st.sampled_from([0, 1, 8, 30, 1000]),
    threads=st.integers(1, 4),
)
@example(0, [(40, [40, 3, 1])], 16, (4, 2), 32, 8, 2)  # shorter than the past
@example(1, [(40, [40, 3, 1])], 16, (4, 1), 7, 50, 3)  # some rows see all of it, others do not
@example(2, [(5, [40, 3, 1]), (0, [9])], 512, (2, 2), 32, 8, 1)  # a prefix in the micro-batch
def test_windows_of_decoders_reach_into_what_came_before(
    kernels, seed, groups, max_tokens, heads, size, window, threads
):
    rng = np.random.default_rng(seed)
    packed = pack([group_of(*group) for group in groups], max_tokens=max_tokens, causal=True)
    check(kernels, packed, rng, heads, size, with_past=True, window=window, threads=threads)


@all_kernels
@some_shapes
@given(
    seed=SEEDS,
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    num_heads=st.integers(1, 5),
    size=st.sampled_from([2, 7, 32, 64]),
    window=st.sampled_from([None, 8]),
    threads=st.integers(1, 4),
)
@example(0, [90, 17, 1], 2, 32, None, 2)
def test_distances_add_a_number_for_each_head(
    kernels, seed, lengths, num_heads, size, window, threads
):
    rng = np.random.default_rng(seed)
    reach = max(lengths)  # and no farther, so that what lies behind is read by mistake alone
    biases = 3 * rng.standard_normal((num_heads, 2 * reach - 1), np.float32)
    packed = pack([group_of(0, lengths)], max_tokens=128, causal=False)
    heads = num_heads, num_heads
    check(kernels, packed, rng, heads, size, window=window, biases=biases, threads=threads)


@all_kernels
@some_shapes
@given(
    seed=SEEDS,
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6),
    heads=HEADS,
    size=st.sampled_from([2, 7, 32, 64]),
    window=st.sampled_from([None, 0, 1, 8, 64, 1000]),
)
@example(0, [90, 17, 1], (2, 2), 32, 8)
def test_encoders_attend_to_both_sides_within_a_window(kernels, seed, lengths, heads, size, window):
    rng = np.random.default_rng(seed)
    packed = pack([group_of(0, lengths)], max_tokens=128, causal=False)
    check(kernels, packed, rng, heads, size, window=window)


@all_kernels
@some_shapes
@given(seed=SEEDS, splits=st.lists(st.tuples(st.integers(0, 30), st.integers(1, 30)), min_size=1))
def test_the_parts_of_a_sequence_do_not_see_each_other(kernels, seed, splits):
    rng = np.random.default_rng(seed)
    sequences = [
        tokens_of(first + second, np.repeat([0, 1], [first, second])) for first, second in splits
    ]
    group = Group(tokens_of(0), sequences, [*range(len(sequences))])
    check(kernels, pack([group], max_tokens=64, causal=False), rng, (4, 4), 16, parts=True)


@all_kernels
@pytest.mark.parametrize("size", [1, 31, 128, 256])
def test_heads_may_be_of_any_size(kernels, size):
    rng = np.random.default_rng(size)
    check(
        kernels,
        pack([group_of(3, [9, 70])], max_tokens=99, causal=True),
        rng,
        (2, 1),
        size,
        with_past=True,
    )


@all_kernels
@pytest.mark.parametrize("sharpness", [1, 100])
def test_long_sequences_are_computed_block_by_block(kernels, sharpness):
    """More keys than a block has (512) and more queries; sharp softmaxes move from key to key."""
    rng = np.random.default_rng(5)
    groups = [group_of(600, [700, 40])]
    batches = check(
        kernels,
        pack(groups, max_tokens=1000, causal=True),
        rng,
        (2, 1),
        8,
        with_past=True,
        sharpness=sharpness,
    )
    assert [batch.key_rows.shape[1] for batch in batches] == [600, 1300, 640]


@all_kernels
@pytest.mark.parametrize("window", [100, 512, 900])
def test_windows_of_long_sequences_begin_and_end_in_any_block(kernels, window):
    packed = pack([group_of(600, [700, 40])], max_tokens=1000, causal=True)
    check(kernels, packed, np.random.default_rng(6), (2, 1), 8, with_past=True, window=window)


@all_kernels
@pytest.mark.parametrize("reach", [40, 128, 600])
def test_biases_of_buckets_that_end_within_the_longest_sequence_or_beyond_it(kernels, reach):
    """The last bucket begins at a distance of 91, and a block of keys has 512."""
    rng = np.random.default_rng(reach)
    table = rng.standard_normal((32, 3), np.float32)
    biases = np.ascontiguousarray(table[t5_buckets(np.arange(1 - reach, reach), 32)].T)
    packed = pack([group_of(0, [reach, 7, reach // 2])], max_tokens=700, causal=False)
    check(kernels, packed, rng, (3, 3), 16, biases=biases)


@all_kernels
def test_a_sequence_is_no_longer_than_biases_reach(kernels):
    rng = np.random.default_rng(7)
    packed = list(pack([group_of(0, [41, 3])], max_tokens=64, causal=False))
    with pytest.raises(Exception, match=r"lengths|indices|Gather"):
        check(kernels, packed, rng, (2, 2), 16, biases=np.zeros((2, 79), np.float32))
