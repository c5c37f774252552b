"""Comparison by the compiled kernels (``edgerank/kernels/src/nearest.h``)."""

from __future__ import annotations

import ctypes
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerank.kernels import Kernels, load_library
from edgerank.store.backend import Backend, PooledComparison, Run, TokenComparison

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


def kernels_backend(kernels: Kernels) -> Backend:
    """Return the backend of compiled kernels."""
    return Backend("kernels", partial(_compare_tokens, kernels), partial(_compare_pooled, kernels))


def _compare_tokens(kernels: Kernels, comparison: TokenComparison) -> Run:
    rule, segment, query = comparison.rule, comparison.segment, comparison.query
    query_ids = query.token_ids.astype(np.int32)

    def run(first: int, last: int) -> None:
        task = NearestTask(
            vectors=_pointer(segment.vectors),
            scales=_pointer(segment.scales),
            token_ids=_pointer(segment.token_ids),
            starts=_pointer(comparison.starts),
            ends=_pointer(comparison.ends),
            query=_pointer(query.vectors),
            shares=_pointer(query.shares),
            query_ids=_pointer(query_ids) if rule.has_token_ids else None,
            width=query.vectors.shape[1],
            num_query=len(query.vectors),
            nearest_of_none=rule.nearest_of_none,
            saturation_base=rule.saturation[0],
            saturation_slope=rule.saturation[1],
            nearest=_pointer(comparison.nearest),
            exact=_pointer(comparison.exact),
        )
        _call(kernels, "edgerank_nearest", task, first, last)

    return run


def _compare_pooled(kernels: Kernels, comparison: PooledComparison) -> Run:
    segment, query = comparison.segment, comparison.query

    def run(first: int, last: int) -> None:
        task = PooledTask(
            vectors=_pointer(segment.pooled),
            scales=_pointer(segment.pooled_scales),
            places=_pointer(comparison.places),
            query=_pointer(query.pooled),
            width=len(query.pooled),
            products=_pointer(comparison.cosines),
        )
        _call(kernels, "edgerank_pooled", task, first, last)

    return run


def _pointer(array: NDArray[Any]) -> Any:
    """Return a pointer to a contiguous array, of its type: a field of another type refuses it."""
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.POINTER(np.ctypeslib.as_ctypes_type(array.dtype)))


def _call(kernels: Kernels, name: str, task: ctypes.Structure, first: int, last: int) -> None:
    """Call a function of the library, which lets go of Python's lock."""
    assert kernels.library is not None
    function = _function(kernels.library, name)
    if not function(kernels.name.encode(), ctypes.byref(task), first, last):
        raise MemoryError("there is no memory left to compare documents")


@cache
def _function(library: Path, name: str) -> Any:
    function = load_library(library)[name]
    function.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    return function
