"""Disentangled attention of every kind of kernels against its formula in NumPy, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto

from edgerank.kernels import choose_kernels
from edgerank.session import open_session
from quantize.graph.attention import attention
from quantize.graph.builder import Graph
from quantize.graph.grid import declare_inputs
from quantize.graph.relative_positions import Positions, log_buckets, write_buckets
from tests.support.operators import all_kernels, each_instruction_set

REACH = 640  # longer than a block of keys
TOLERANCE = 1e-5
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """A layer's attention over random rows of sequences."""

    lengths: Sequence[int]
    buckets: NDArray[np.int32]
    positions: Positions
    query: Floats  # [T, H·D]
    keys_values: Floats  # [T, 2·H·D]

    @property
    def shape(self) -> tuple[int, int]:
        """Heads, and the size of each."""
        return self.positions.keys.shape[0], self.positions.keys.shape[2]


def random_case(
    lengths: Sequence[int], num_heads: int, size: int, buckets: NDArray[np.int32], seed: int
) -> Case:
    rng = np.random.default_rng(seed)
    num_rows = int(buckets.max()) + 1
    scale = (3 * size) ** -0.5
    keys, queries = rng.standard_normal((2, num_heads, num_rows, size), np.float32)
    factor = np.float32(scale)
    positions = Positions("positions", keys * factor, queries * factor, scale)
    query = rng.standard_normal((sum(lengths), num_heads * size), np.float32)
    keys_values = rng.standard_normal((sum(lengths), 2 * num_heads * size), np.float32)
    return Case(lengths, buckets, positions, query, keys_values)


def computed(case: Case, kernels: str, directory: Path) -> tuple[Floats, Floats]:
    """Attend from all tokens, and from the first of each sequence alone."""
    num_heads, size = case.shape
    width = num_heads * size
    g = Graph(directory / "model.onnx")
    query = g.input("query", TensorProto.FLOAT, ["tokens", width])
    keys_values = g.input("keys_values", TensorProto.FLOAT, ["tokens", 2 * width])
    inputs = declare_inputs(g, with_past=False)
    buckets = g.weight("position_buckets", case.buckets)
    rows = {"all": query, "scored": g.op("Gather", query, inputs.scored_rows)}
    for (name, x), grid in zip(rows.items(), (inputs.grid, inputs.scored_grid), strict=True):
        found = write_buckets(
            g,
            grid.query_rows,
            grid.key_rows,
            num_heads=num_heads,
            buckets=buckets,
            max_length=(len(case.buckets) + 1) // 2,
        )
        attended = attention(
            g,
            replace(grid, buckets=found),
            x,
            keys_values,
            num_heads=num_heads,
            num_kv_heads=num_heads,
            positions=replace(case.positions, name=name),
        )
        g.output(f"{name} attended", attended, ["rows", width])
    g.save()
    session = open_session(g.path, threads=2, kernels=choose_kernels(kernels))
    starts = np.cumsum([0, *case.lengths[:-1]])
    lengths = np.array(case.lengths)
    longest = lengths.max()
    places = np.arange(longest)
    is_token = places < lengths[:, None]
    feeds = {
        "query": case.query,
        "keys_values": case.keys_values,
        "query_rows": np.where(is_token, starts[:, None] + places, 0),
        "slots": np.flatnonzero(is_token),
        "visible": np.where(is_token, lengths[:, None], 1),
        "scored_rows": starts,
    }
    one, other = session.run(None, feeds)
    return one, other


def expected_of(case: Case) -> Floats:
    """Compute what each token attends to, one sequence and head at a time."""
    num_heads, size = case.shape
    tables = case.positions.keys.astype(float), case.positions.queries.astype(float)
    zero = len(case.buckets) // 2
    heads: list[list[NDArray[np.float64]]] = []
    start = 0
    for length in case.lengths:
        query = case.query[start : start + length].astype(float)
        keys, values = np.split(case.keys_values[start : start + length].astype(float), 2, axis=1)
        start += length
        places = np.arange(length)
        buckets = case.buckets[zero + places[:, None] - places]
        heads.append([])
        for head in range(num_heads):
            part = slice(head * size, (head + 1) * size)
            q, k = query[:, part], keys[:, part]
            logits = case.positions.scale * q @ k.T
            logits += np.take_along_axis(q @ tables[0][head].T, buckets, axis=1)
            logits += np.take_along_axis(k @ tables[1][head].T, buckets.T, axis=1).T
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            heads[-1].append(weights @ values[:, part] / weights.sum(axis=1, keepdims=True))
    return np.concatenate([np.concatenate(of_one, axis=1) for of_one in heads]).astype(np.float32)


def check(case: Case, kernels: str, directory: Path) -> None:
    attended, scored = computed(case, kernels, directory)
    expected = expected_of(case)
    np.testing.assert_allclose(attended, expected, rtol=0, atol=TOLERANCE)
    starts = np.cumsum([0, *case.lengths[:-1]])
    np.testing.assert_allclose(scored, expected[starts], rtol=0, atol=TOLERANCE)


@st.composite
def rising_buckets(draw: st.DrawFn) -> NDArray[np.int32]:
    """Draw buckets that rise by none, one or several from a distance to the next."""
    seed = draw(st.integers(0, 2**32 - 1))
    shares = draw(st.sampled_from([(0, 1, 0), (0.1, 0.85, 0.05), (0.6, 0.3, 0.1), (1, 0, 0)]))
    steps = np.random.default_rng(seed).choice([0, 1, 3], 2 * REACH - 1, p=shares)
    return np.cumsum(steps).astype(np.int32)


def log_buckets_of(num_buckets: int) -> NDArray[np.int32]:
    return log_buckets(np.arange(1 - REACH, REACH), num_buckets, REACH)


@all_kernels
@settings(deadline=None, max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 150), min_size=1, max_size=5),
    num_heads=st.integers(1, 3),
    size=st.sampled_from([4, 15, 32, 64]),
    buckets=rising_buckets(),
    seed=st.integers(0, 2**32 - 1),
)
@example([600, 1, 513], 1, 16, log_buckets_of(256), 0)
@example([1], 2, 64, log_buckets_of(4), 1)
@example([64, 65, 63, 128, 16, 17, 15], 2, 64, log_buckets_of(256), 2)
@example([300], 3, 8, log_buckets_of(32), 3)
def test_attention_is_that_of_the_formula(
    kernels, tmp_path_factory, lengths, num_heads, size, buckets, seed
):
    case = random_case(lengths, num_heads, size, buckets, seed)
    check(case, kernels, tmp_path_factory.mktemp("graph"))


@all_kernels
def test_a_sequence_as_long_as_the_buckets_reach_and_none_longer(kernels, tmp_path):
    reach = 40
    buckets = log_buckets(np.arange(1 - reach, reach), 8, reach)
    check(random_case([reach, 3], 2, 16, buckets, 0), kernels, tmp_path)
    with pytest.raises(Exception, match=r"lengths|indices|Gather"):
        computed(random_case([reach + 1, 3], 2, 16, buckets, 0), kernels, tmp_path)


@each_instruction_set
@pytest.mark.parametrize("change", ["falls", "lies outside of the tables"])
def test_a_bucket_that_does_not_fit_is_refused(kernels, tmp_path, change):
    buckets = log_buckets(np.arange(-39, 40), 8, 40)
    case = random_case([5], 2, 16, buckets, 0)
    changed = buckets.copy()
    changed[-1] = changed[-2] - 1 if change == "falls" else buckets.max() + 1
    with pytest.raises(Exception, match="buckets must not fall"):
        computed(replace(case, buckets=changed), kernels, tmp_path)
