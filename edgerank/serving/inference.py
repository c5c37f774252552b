"""One request from texts to scores: limits, tokens, the queue, the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from opentelemetry.trace import Span, get_tracer

from edgerank.documents import LongDocuments, Pair
from edgerank.ranking import Scores
from edgerank.rules import Prepared
from edgerank.serving.calls import CALL
from edgerank.serving.errors import TooLate
from edgerank.serving.jobs import Computed, Job
from edgerank.serving.limits import Limits, TextSizes
from edgerank.serving.metrics import Metrics
from edgerank.serving.models import LoadedModel, Models
from edgerank.serving.scheduler import Scheduler

BYTES_PER_TOKEN = 4  # of English; only for the estimate that holds room in the queue
LONG_BYTES = 1 << 18  # requests with more text are tokenised in a thread of their own
TRACER = get_tracer(__name__)  # does nothing unless the server traces
NUM_TOKENIZERS = 2  # threads, so that the text of a long request does not hold up short ones


@dataclass(frozen=True)
class ScoringOptions:
    """How to score: with which model, and the options of ``Reranker.rank``."""

    model: str = ""
    instruction: str | None = None
    normalize: bool = False
    long_documents: LongDocuments | None = None  # as the bundle says


@dataclass(frozen=True)
class Scored:
    """Scores in the order of the pairs, and what they took."""

    scores: Scores
    model: LoadedModel
    num_tokens: int
    tokenize_s: float
    queue_s: float
    inference_s: float


class Inference:
    """Scores the pairs of a call, in turns with all other calls."""

    def __init__(
        self, models: Models, scheduler: Scheduler, limits: Limits, metrics: Metrics
    ) -> None:
        self.models = models
        self.limits = limits
        self._scheduler = scheduler
        self._metrics = metrics
        self._short_texts = ThreadPoolExecutor(1, "tokenize")
        self._long_texts = ThreadPoolExecutor(1, "tokenize-long")

    async def score(self, pairs: Sequence[Pair], options: ScoringOptions) -> Scored:
        """Score pairs; give up when cancelled.

        :raises InputError: a text or an option is unusable or over a limit
        :raises Refused: the request cannot be served, or not now
        """
        call = CALL.get()
        model = self.models.get(options.model)
        sizes = self.limits.check_texts(pairs, options.instruction)
        call.model = model.name
        call.num_documents += len(pairs)
        if time.monotonic() >= call.deadline:
            raise TooLate("the deadline has passed")
        pool = self._long_texts if sizes.total > LONG_BYTES else self._short_texts
        began = time.monotonic()
        with self._scheduler.reserve(_estimate(pairs, sizes, options, model)) as reservation:
            with _span("tokenize", model):
                prepared = await asyncio.get_running_loop().run_in_executor(
                    pool, self._prepare, pairs, options, model
                )
            tokenize_s = time.monotonic() - began
            job = Job(call.client, model.reranker, prepared.groups, prepared.output, call.deadline)
            future = self._scheduler.submit(job, reservation)
        computed = await _result(future, job, model, len(pairs))
        call.num_tokens += job.num_tokens
        self._metrics.count_scored(model.name, len(pairs), job.num_tokens)
        self._metrics.observe_stages(tokenize_s, computed.queue_s, computed.inference_s)
        return Scored(
            prepared.reduce(computed.results),
            model,
            job.num_tokens,
            tokenize_s,
            computed.queue_s,
            computed.inference_s,
        )

    def close(self) -> None:
        """End the threads."""
        self._short_texts.shutdown(cancel_futures=True)
        self._long_texts.shutdown(cancel_futures=True)

    def _prepare(
        self, pairs: Sequence[Pair], options: ScoringOptions, model: LoadedModel
    ) -> Prepared[Scores]:
        prepared = model.reranker.prepare(
            pairs,
            instruction=options.instruction,
            normalize=options.normalize,
            long_documents=options.long_documents,
        )
        self.limits.check_queries(pairs, prepared.query_tokens)
        return prepared


async def _result(
    future: Future[Computed], job: Job, model: LoadedModel, num_documents: int
) -> Computed:
    with _span("inference", model) as span:
        computed = await asyncio.wrap_future(future)
        span.set_attributes(
            {
                "edgerank.documents": num_documents,
                "edgerank.tokens": job.num_tokens,
                "edgerank.queue_s": computed.queue_s,
                "edgerank.inference_s": computed.inference_s,
            }
        )
        return computed


def _span(name: str, model: LoadedModel) -> AbstractContextManager[Span]:
    attributes = {"edgerank.model": model.name, "edgerank.request_id": CALL.get().request_id}
    return TRACER.start_as_current_span(name, attributes=attributes, record_exception=False)


def _estimate(
    pairs: Sequence[Pair], sizes: TextSizes, options: ScoringOptions, model: LoadedModel
) -> int:
    """Guess the tokens of pairs by their bytes; what is cut has the model's length at most."""
    truncation = model.reranker.bundle.manifest.truncation
    is_cut = truncation.treatment(options.long_documents) != "split"
    queries = {query: size + sizes.instruction for query, size in sizes.queries.items()}
    if truncation.rule == "longest":  # the query is read again with each document
        texts = [
            queries[pair.query] + size for pair, size in zip(pairs, sizes.documents, strict=True)
        ]
    else:
        texts = [*queries.values(), *sizes.documents]
    tokens = [size // BYTES_PER_TOKEN + 1 for size in texts]
    return sum(min(count, model.reranker.max_length) for count in tokens) if is_cut else sum(tokens)
