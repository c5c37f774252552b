"""The cache of keys and values."""

from __future__ import annotations

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgerank.caches import Cache

LAYERS, WIDTH = 16, 8


def rows(rng: np.random.Generator, count: int) -> list[np.ndarray]:
    return [rng.standard_normal((count, WIDTH)).astype(np.float32) for _ in range(LAYERS)]


@given(stores=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 40)), max_size=8))
def test_a_cache_holds_what_was_written_last_and_what_lies_before_it(stores):
    rng = np.random.default_rng(0)
    cache, expected = Cache(LAYERS, WIDTH), [np.zeros((0, WIDTH), np.float32)] * LAYERS
    for start, count in stores:
        start, new = min(start, len(expected[0])), rows(rng, count)
        cache.store(start, new)
        expected = [
            np.concatenate([layer[:start], more]) for layer, more in zip(expected, new, strict=True)
        ]
        for layer, wanted in zip(cache.leading(start + count), expected, strict=True):
            np.testing.assert_array_equal(layer, wanted)


def test_a_cache_that_grows_is_never_held_twice():
    rng = np.random.default_rng(0)
    cache, many, one = Cache(LAYERS, WIDTH), rows(rng, 4096), rows(rng, 1)
    tracemalloc.start()
    cache.store(0, many)
    cache.store(4096, one)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    grown = 2 * sum(layer.nbytes for layer in many)
    assert grown <= peak < 1.1 * grown
