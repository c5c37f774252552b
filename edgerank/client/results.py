"""Results of clients: hits and scores, with usage and timings of the server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgerank.ranking import Hit, Scores


@dataclass(frozen=True)
class Usage:
    """The work of the server for a request."""

    tokens: int  # number of computed tokens; tokens that texts share count once


@dataclass(frozen=True)
class Timings:
    """The server's time for a request, in seconds."""

    total_s: float  # from the arrival of the request to the response
    tokenize_s: float  # tokenizing, including the wait for a thread
    queue_s: float  # waiting for the engine while it computes other requests
    inference_s: float  # micro-batches with a part of the request


class Ranking(list[Hit]):
    """A list of hits, best first.

    ``usage`` and ``timings`` describe the server's work, ``model`` is the name of the model, and
    ``request_id`` identifies the request in the server's log.
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

    It also has the attributes of ``Ranking``: ``usage``, ``timings``, ``model`` and ``request_id``.
    Copies and slices keep them. The results of computations are plain arrays.
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
        return np.asarray(array)[()]  # a scalar if there are no dimensions

    def __reduce__(self) -> Any:
        parts = (np.asarray(self), self.usage, self.timings, self.model, self.request_id)
        return ScoreArray, parts


@dataclass(frozen=True)
class ServedModel:
    """A model that the server offers."""

    name: str
    source: str  # the checkpoint of the bundle
    family: str
    precision: str
    max_length: int  # most tokens of query and document together
    takes_instruction: bool
    digest: str  # sha256 of the bundle's manifest
    variant: str  # name of the bundle's variant that runs
    variant_reason: str  # why it was chosen
    kernels: str  # "stock", or the instruction set of the compiled kernels
    kernels_reason: str  # why they were chosen
