"""Turns the texts of a request into scores: limits, tokens, the queue, the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from opentelemetry.trace import Span, get_tracer

from edgerank.documents import LongDocuments, Pair
from edgerank.errors import InputError
from edgerank.prompt import TextKind
from edgerank.ranking import Scores
from edgerank.rules import Prepared, Vectors
from edgerank.serving.budget import Reservation
from edgerank.serving.calls import CALL
from edgerank.serving.errors import TooLate
from edgerank.serving.jobs import Computed, Job
from edgerank.serving.limits import Limits, TextSizes
from edgerank.serving.metrics import Metrics
from edgerank.serving.models import LoadedModel, Models
from edgerank.serving.parts import Part, join, split
from edgerank.serving.scheduler import Scheduler
from edgerank.serving.stores import Stores
from edgerank.store.features import Query

BYTES_PER_TOKEN = 4  # of English; for the estimate of a reservation in the queue
LONG_BYTES = 1 << 18  # requests with more text are tokenised in the second thread
TRACER = get_tracer(__name__)  # does nothing unless the server traces
NUM_TOKENIZERS = 2  # threads, so that short requests need not wait for long ones

R = TypeVar("R")


@dataclass(frozen=True)
class ScoringOptions:
    """The model, and the options of ``Reranker.rank``."""

    model: str = ""
    instruction: str | None = None
    normalize: bool = False
    long_documents: LongDocuments | None = None  # None: the bundle's
    max_document_tokens: int | None = None  # longer documents are cut


@dataclass(frozen=True)
class Work:
    """Usage and timings of an answer."""

    model: LoadedModel
    num_tokens: int
    tokenize_s: float
    queue_s: float
    inference_s: float


@dataclass(frozen=True)
class Scored(Work):
    """Scores in the order of the pairs, with usage and timings."""

    scores: Scores


@dataclass(frozen=True)
class EncodedTexts(Work):
    """Vectors in the order of the texts, with usage and timings."""

    vectors: Vectors


class Inference:
    """Scores the pairs of a call, sharing the engine with other calls."""

    def __init__(
        self,
        models: Models,
        scheduler: Scheduler,
        limits: Limits,
        metrics: Metrics,
        stores: Stores | None = None,
    ) -> None:
        self.models = models
        self.stores = stores or Stores({})
        self.limits = limits
        self._scheduler = scheduler
        self._metrics = metrics
        self._short_texts = ThreadPoolExecutor(1, "tokenize")
        self._long_texts = ThreadPoolExecutor(1, "tokenize-long")
        self._compare = ThreadPoolExecutor(1, "compare")

    async def score(self, pairs: Sequence[Pair], options: ScoringOptions) -> Scored:
        """Score pairs; stops when it is cancelled.

        :raises InputError: a text or an option is unusable or over a limit
        :raises Refused: the request cannot be served, or not now
        """
        model = self.models.get(options.model)
        sizes = self.limits.check_texts(pairs, options.instruction)
        scores, work = await self._compute(
            model,
            lambda: self._prepare(pairs, options, model),
            num_texts=len(pairs),
            num_bytes=sizes.total,
            estimate=_estimate(pairs, sizes, options, model),
        )
        return Scored(**vars(work), scores=scores)

    async def score_stored(
        self, query: str, ids: Sequence[str], options: ScoringOptions, store_name: str
    ) -> Scored:
        """Score documents of a store; stops when it is cancelled.

        :param query: checked
        :param store_name: empty for the first
        :raises InputError: an id is not there, or a text or an option is unusable or over a limit
        :raises Refused: the request cannot be served, or not now
        """
        found = self.stores.get(store_name, options.model)
        for option in ("long_documents", "max_document_tokens"):
            if getattr(options, option) is not None:
                raise InputError(option, "documents of a store are whole; leave it out")
        pair = Pair(query, "", 0)
        sizes = self.limits.check_texts([pair], options.instruction)
        found.store.check_ids(ids)

        def prepare() -> Prepared[Query]:
            prepared = found.store.prepare_query(query, options.instruction)
            self.limits.check_queries([pair], prepared.query_tokens)
            return prepared

        encoded, work = await self._compute(
            found.model,
            prepare,
            num_texts=len(ids),
            num_bytes=sizes.total,
            estimate=sizes.total // BYTES_PER_TOKEN + 1,
        )
        scores = await asyncio.get_running_loop().run_in_executor(
            self._compare, found.store.score_query, encoded, ids, options.normalize
        )
        return Scored(**vars(work), scores=scores)

    async def encode(self, texts: Sequence[str], kind: TextKind, model_name: str) -> EncodedTexts:
        """Encode texts by an embedding bundle, as ``Reranker.encode`` does.

        :param model_name: empty for the first
        :raises InputError: a text is unusable or over a limit, or the bundle is of another kind
        :raises Refused: the request cannot be served, or not now
        """
        model = self.models.get(model_name)
        if model.reranker.bundle.manifest.scoring.rule != "cosine":
            raise InputError("model", f"{model.name} gives no vector of a text; it scores pairs")
        sizes = self.limits.check_each("texts", texts)
        most = model.reranker.max_length
        vectors, work = await self._compute(
            model,
            lambda: model.reranker.prepare_texts(texts, kind=kind),
            num_texts=len(texts),
            num_bytes=sum(sizes),
            estimate=sum(min(size // BYTES_PER_TOKEN + 1, most) for size in sizes),
        )
        return EncodedTexts(**vars(work), vectors=vectors)

    async def _compute(
        self,
        model: LoadedModel,
        prepare: Callable[[], Prepared[R]],
        *,
        num_texts: int,
        num_bytes: int,
        estimate: int,
    ) -> tuple[R, Work]:
        """Tokenize, wait in the queue, and have the engine compute.

        :param estimate: number of tokens to reserve in the queue until they are counted
        """
        call = CALL.get()
        call.model = model.name
        call.num_documents += num_texts
        if time.monotonic() >= call.deadline:
            raise TooLate("the deadline has passed")
        pool = self._long_texts if num_bytes > LONG_BYTES else self._short_texts
        began = time.monotonic()
        with self._scheduler.reserve(estimate) as reservation:
            with _span("tokenize", model):
                prepared = await asyncio.get_running_loop().run_in_executor(pool, prepare)
            tokenize_s = time.monotonic() - began
            job = Job(call.client, model.rerankers, prepared.groups, prepared.output, call.deadline)
            parts = split(job)
            futures = self._submit(parts, reservation)
        computed = join(parts, await _results(futures, job, model, num_texts))
        call.num_tokens += job.num_tokens
        self._metrics.count_scored(model.name, num_texts, job.num_tokens)
        self._metrics.observe_stages(tokenize_s, computed.queue_s, computed.inference_s)
        work = Work(model, job.num_tokens, tokenize_s, computed.queue_s, computed.inference_s)
        return prepared.reduce(computed.results), work

    def _submit(self, parts: Sequence[Part], reservation: Reservation) -> list[Future[Computed]]:
        """:raises TooLate: the deadline cannot be met"""
        futures: list[Future[Computed]] = []
        try:
            for part in parts:
                futures.append(self._scheduler.submit(part.job, reservation))
        except TooLate:
            _give_up(futures)
            raise
        return futures

    def close(self) -> None:
        """End the threads."""
        self._short_texts.shutdown(cancel_futures=True)
        self._long_texts.shutdown(cancel_futures=True)
        self._compare.shutdown(cancel_futures=True)

    def _prepare(
        self, pairs: Sequence[Pair], options: ScoringOptions, model: LoadedModel
    ) -> Prepared[Scores]:
        prepared = model.reranker.prepare(
            pairs,
            instruction=options.instruction,
            normalize=options.normalize,
            long_documents=options.long_documents,
            max_document_tokens=options.max_document_tokens,
        )
        self.limits.check_queries(pairs, prepared.query_tokens)
        return prepared


async def _results(
    futures: Sequence[Future[Computed]], job: Job, model: LoadedModel, num_documents: int
) -> list[Computed]:
    """Wait for the parts of a job; if one fails, or this is cancelled, give up the others."""
    with _span("inference", model) as span:
        try:
            computed = await asyncio.gather(*map(asyncio.wrap_future, futures))
        finally:
            _give_up(futures)  # those that are done stay so
        span.set_attributes(
            {
                "edgerank.documents": num_documents,
                "edgerank.tokens": job.num_tokens,
                "edgerank.queue_s": max(one.queue_s for one in computed),
                "edgerank.inference_s": max(one.inference_s for one in computed),
            }
        )
        return computed


def _give_up(futures: Sequence[Future[Computed]]) -> None:
    for future in futures:
        future.cancel()


def _span(name: str, model: LoadedModel) -> AbstractContextManager[Span]:
    attributes = {"edgerank.model": model.name, "edgerank.request_id": CALL.get().request_id}
    return TRACER.start_as_current_span(name, attributes=attributes, record_exception=False)


def _estimate(
    pairs: Sequence[Pair], sizes: TextSizes, options: ScoringOptions, model: LoadedModel
) -> int:
    """Estimate the tokens of pairs from their bytes, at most the model's length each."""
    truncation = model.reranker.bundle.manifest.truncation
    is_cut = truncation.treatment(options.long_documents) != "split"
    queries = {query: size + sizes.instruction for query, size in sizes.queries.items()}
    if truncation.rule == "longest":  # each sequence has the query
        texts = [
            queries[pair.query] + size for pair, size in zip(pairs, sizes.documents, strict=True)
        ]
    else:
        texts = [*queries.values(), *sizes.documents]
    tokens = [size // BYTES_PER_TOKEN + 1 for size in texts]
    return sum(min(count, model.reranker.max_length) for count in tokens) if is_cut else sum(tokens)
