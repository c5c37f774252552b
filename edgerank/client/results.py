"""What clients return: hits and scores, with what the server says about computing them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgerank.ranking import Hit, Scores


@dataclass(frozen=True)
class Usage:
    """What the server computed for a request."""

    tokens: int  # what texts share counts once, what was cut does not count


@dataclass(frozen=True)
class Timings:
    """Where the server's time for a request went, in seconds."""

    total_s: float  # from the first look at the request to the response
    tokenize_s: float  # text into tokens, with the wait for a thread
    queue_s: float  # waiting for the engine, which other requests use too
    inference_s: float  # in micro-batches that the request had a part in


class Ranking(list[Hit]):
    """A list of hits, best first.

    ``usage`` and ``timings`` are the server's, ``model`` is the name of the model that scored, and
    ``request_id`` names the request in the server's log.
    """

    def __init__(
        self, hits: Iterable[Hit], usage: Usage, timings: Timings, model: str, request_id: str
    ) -> None:
        super().__init__(hits)
        self.usage = usage
        self.timings = timings
        self.model = model
        self.request_id = request_id


class ScoreArray(Scores):
    """A NumPy array of scores: float32 [n], in the order of the input.

    Beside what every array has, it has the attributes of ``Ranking``: ``usage``, ``timings``,
    ``model`` and ``request_id``. Copies and parts keep them; what is computed is a plain array.
    """

    usage: Usage
    timings: Timings
    model: str
    request_id: str

    def __new__(
        cls, scores: ArrayLike, usage: Usage, timings: Timings, model: str, request_id: str
    ) -> ScoreArray:
        array = np.asarray(scores, np.float32).view(cls)
        array.usage = usage
        array.timings = timings
        array.model = model
        array.request_id = request_id
        return array

    def __array_finalize__(self, source: NDArray[Any] | None) -> None:
        if isinstance(source, ScoreArray):
            vars(self).update(vars(source))

    def __array_wrap__(
        self, array: NDArray[Any], context: Any = None, return_scalar: bool = False
    ) -> Any:
        return np.asarray(array)[()]  # a scalar where there are no dimensions

    def __reduce__(self) -> Any:
        parts = (np.asarray(self), self.usage, self.timings, self.model, self.request_id)
        return ScoreArray, parts


@dataclass(frozen=True)
class ServedModel:
    """A model of the server."""

    name: str
    source: str  # the checkpoint that it was made from
    family: str
    precision: str
    max_length: int  # tokens of query and document together
    takes_instruction: bool
    digest: str  # sha256 of the bundle's manifest
    variant: str  # which of the bundle's graphs runs
    variant_reason: str  # why that one
    kernels: str  # what computes it: "stock", or the instruction set of compiled kernels
    kernels_reason: str  # why those
