"""Runs micro-batches through a graph, and puts their results in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgerank.errors import BundleError, EdgerankError
from edgerank.kernels import DOMAIN, STOCK, VARIABLE, Kernels
from edgerank.manifest import CPU_PROVIDER
from edgerank.packing import Batch
from edgerank.providers import GPU_PROVIDERS, device_problem
from edgerank.session import Session

Array = NDArray[np.float32]
Results = (
    Array | list[Array]
)  # by score id: [n, ...], or a list with an array for each score id if they are ragged


@dataclass(frozen=True)
class Output:
    """An output of a graph."""

    name: str
    per: Literal["sequence", "token"] = "sequence"  # a row for each sequence, or for each token


class Engine:
    """Runs micro-batches; safe to share between threads."""

    def __init__(
        self,
        graph: Path,
        outputs: Sequence[str],
        *,
        threads: int,
        provider: str = CPU_PROVIDER,
        device: int = 0,
        kernels: Kernels | None = None,
    ) -> None:
        """Open a session on a graph.

        :param outputs: outputs that the graph must have
        :param threads: threads that one operator may use
        :param provider: execution provider, which must run every operator
        :param device: number of the GPU, for a provider that computes on one
        :param kernels: what computes on the CPU; ``choose_kernels()`` by default
        :raises BundleError: ONNX Runtime cannot load the graph, or it is not of a reranker
        :raises ProviderError: the library of kernels does not fit the installed ONNX Runtime, or
            the provider cannot be loaded, lacks operators or has too little memory
        """
        try:
            self._session = Session(
                graph, threads=threads, provider=provider, device=device, kernels=kernels
            )
        except EdgerankError:
            raise
        except Exception as error:  # onnxruntime's own errors share no base class
            problem = device_problem(error, device) if provider in GPU_PROVIDERS else None
            if problem is not None:
                raise problem from error
            advice = f"; {VARIABLE}={STOCK} does without compiled kernels"
            reason = str(error) + (advice if DOMAIN in str(error) else "")
            raise BundleError(f"{graph}: ONNX Runtime cannot load it: {reason}") from error
        known = {*self._session.pasts, *(field.name for field in fields(Batch))}
        is_known = known.issuperset(self._session.inputs)
        if not is_known or not {*outputs}.issubset(self._session.outputs):
            raise BundleError(
                f"{graph}: not the graph that the manifest describes; copy the bundle again"
            )

    @property
    def is_causal(self) -> bool:
        """Whether the graph is a decoder with a cache."""
        return bool(self._session.pasts)

    def run(
        self, batches: Iterable[Batch], outputs: Sequence[str]
    ) -> Iterator[tuple[Batch, list[Array]]]:
        """Run micro-batches in order; yield each with ``outputs`` of the graph.

        :raises EdgerankError: the engine is closed, or the GPU fails
        """
        return self._session.run(batches, outputs)

    def close(self) -> None:
        """Free the graph's memory."""
        self._session.close()


class Gatherer:
    """Collects results of micro-batches by their score ids."""

    def __init__(self, output: Output, num_scores: int) -> None:
        self._is_ragged = output.per == "token"
        self._num_scores = num_scores
        self._results: Results | None = None

    def add(self, batch: Batch, raw: Array) -> None:
        """Keep a micro-batch's results: [B, ...] of sequences, or [T, ...] of tokens."""
        if self._results is None:
            self._results = self._make_room(raw)
        if isinstance(self._results, list):
            ends = np.cumsum(batch.lengths)
            for score_id, end, length in zip(batch.score_ids, ends, batch.lengths, strict=True):
                self._results[score_id] = raw[end - length : end]
        else:
            scored = batch.score_ids >= 0
            self._results[batch.score_ids[scored]] = raw[scored]

    @property
    def results(self) -> Results:
        """The results by score id."""
        if self._results is not None:
            return self._results
        return [] if self._is_ragged else np.zeros(0, np.float32)

    def _make_room(self, raw: Array) -> Results:
        if self._is_ragged:
            return [raw[:0]] * self._num_scores
        return np.zeros((self._num_scores, *raw.shape[1:]), np.float32)


def gather(results: Iterable[tuple[Batch, Array]], output: Output, num_scores: int) -> Results:
    """Collect the results of all micro-batches by their score ids."""
    gatherer = Gatherer(output, num_scores)
    for batch, raw in results:
        gatherer.add(batch, raw)
    return gatherer.results
