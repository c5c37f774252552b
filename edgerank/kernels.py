"""Array kernels over ragged data, in NumPy.

Compiled by numba they would be several times as fast and still not worth it: they take 50 of the
20,000 and more microseconds of a micro-batch, and numba takes over half a second and 100 MB to
load (``benchmarks/kernels.py``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


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
        see ``quantize.blocks.Grid``; empty slots hold row 0, and see one key
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
