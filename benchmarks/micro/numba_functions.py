"""The runtime's ragged helpers, compiled by numba: for ``numba``, which asks whether they pay."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True)
def compiled_grid(lengths, lead_starts, lead_lengths, past_length, causal):
    longest, most_keys = lengths.max(), (lengths + lead_lengths).max()
    query_rows = np.zeros((len(lengths), longest), np.int64)
    key_rows = np.zeros((len(lengths), most_keys), np.int64)
    visible = np.ones((len(lengths), longest), np.int64)
    slots = np.empty(lengths.sum(), np.int64)
    positions = np.empty(lengths.sum(), np.int64)
    row = 0
    for segment in range(len(lengths)):
        lead = lead_lengths[segment]
        for key in range(lead):
            key_rows[segment, key] = lead_starts[segment] + key
        for column in range(lengths[segment]):
            query_rows[segment, column] = row
            key_rows[segment, lead + column] = past_length + row
            visible[segment, column] = lead + (column + 1 if causal else lengths[segment])
            slots[row] = segment * longest + column
            positions[row] = lead + column
            row += 1
    return query_rows, key_rows, visible, slots, positions


@njit(cache=True)
def compiled_best_of_each(raw, owners, num_documents):
    best = np.full(num_documents, -np.inf, np.float32)
    for index in range(len(raw)):
        best[owners[index]] = max(best[owners[index]], raw[index])
    return best


@njit(cache=True)
def compiled_top(scores, top_k):
    return np.argsort(-scores, kind="mergesort")[:top_k]
