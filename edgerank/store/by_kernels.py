"""Comparison by the compiled kernels (``edgerank/kernels/src/nearest.h``)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerank.kernels import Kernels, load_library
from edgerank.packing import Ids
from edgerank.ranking import Scores
from edgerank.store.features import Query, StoreRule
from edgerank.store.segments import Segment

FLOATS = ctypes.POINTER(ctypes.c_float)
INT8S, INT16S = ctypes.POINTER(ctypes.c_int8), ctypes.POINTER(ctypes.c_int16)
INT32S, INT64S = ctypes.POINTER(ctypes.c_int32), ctypes.POINTER(ctypes.c_int64)


class NearestTask(ctypes.Structure):
    """The structure of that name in ``edgerank/kernels/src/kernels.h``."""

    _fields_ = [
        ("vectors", INT8S),
        ("scales", FLOATS),
        ("token_ids", INT32S),
        ("starts", INT64S),
        ("ends", INT64S),
        ("query", FLOATS),
        ("shares", FLOATS),
        ("query_ids", INT32S),
        ("width", ctypes.c_int64),
        ("num_query", ctypes.c_int64),
        ("nearest_of_none", ctypes.c_float),
        ("saturation_base", ctypes.c_float),
        ("saturation_slope", ctypes.c_float),
        ("nearest", FLOATS),
        ("exact", FLOATS),
    ]


class PooledTask(ctypes.Structure):
    """The structure of that name in ``edgerank/kernels/src/kernels.h``."""

    _fields_ = [
        ("vectors", INT16S),
        ("scales", FLOATS),
        ("places", INT64S),
        ("query", FLOATS),
        ("width", ctypes.c_int64),
        ("products", FLOATS),
    ]


def nearest(
    kernels: Kernels,
    rule: StoreRule,
    segment: Segment,
    starts: Ids,
    ends: Ids,
    query: Query,
    out_nearest: Scores,
    out_exact: Scores,
) -> Callable[[int, int], None]:
    """Return what fills the outputs: see `edgerank.store.comparing.Nearest`.

    :param kernels: compiled ones
    """
    vectors = np.ascontiguousarray(query.vectors)
    query_ids = query.token_ids.astype(np.int32)

    def run(first: int, last: int) -> None:
        task = NearestTask(
            vectors=_pointer(segment.vectors),
            scales=_pointer(segment.scales),
            token_ids=_pointer(segment.token_ids),
            starts=_pointer(starts),
            ends=_pointer(ends),
            query=_pointer(vectors),
            shares=_pointer(query.shares),
            query_ids=_pointer(query_ids) if rule.has_token_ids else None,
            width=vectors.shape[1],
            num_query=len(vectors),
            nearest_of_none=rule.nearest_of_none,
            saturation_base=rule.saturation[0],
            saturation_slope=rule.saturation[1],
            nearest=_pointer(out_nearest),
            exact=_pointer(out_exact),
        )
        _compare(kernels, "edgerank_nearest", task, first, last)

    return run


def pooled(
    kernels: Kernels, segment: Segment, places: Ids, query: Query, out: Scores
) -> Callable[[int, int], None]:
    """Return what fills the outputs: see `edgerank.store.comparing.Pooled`.

    :param kernels: compiled ones
    """

    def run(first: int, last: int) -> None:
        task = PooledTask(
            vectors=_pointer(segment.pooled),
            scales=_pointer(segment.pooled_scales),
            places=_pointer(places),
            query=_pointer(query.pooled),
            width=len(query.pooled),
            products=_pointer(out),
        )
        _compare(kernels, "edgerank_pooled", task, first, last)

    return run


def _pointer(array: NDArray[Any]) -> Any:
    """Return a pointer to a contiguous array, of its type: a field of another type refuses it."""
    assert array.flags.c_contiguous
    return array.ctypes.data_as(_pointer_type(array.dtype))


@cache
def _pointer_type(dtype: np.dtype[Any]) -> Any:
    return ctypes.POINTER(np.ctypeslib.as_ctypes_type(dtype))


def _compare(kernels: Kernels, name: str, task: ctypes.Structure, first: int, last: int) -> None:
    """Call a function of the library, which lets go of Python's lock."""
    assert kernels.library is not None
    function = getattr(load_library(kernels.library), name)
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    if not function(kernels.name.encode(), ctypes.byref(task), first, last):
        raise MemoryError("there is no memory left to compare documents")
