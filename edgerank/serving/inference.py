"""One request from texts to scores: limits, tokens, the queue, the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from opentelemetry.trace import Span, get_tracer

from edgerank.documents import LongDocuments, Pair
from edgerank.errors import InputError
from edgerank.rules import Prepared
from edgerank.scoring import Scores
from edgerank.serving.calls import CALL
from edgerank.serving.errors import TooLate
from edgerank.serving.jobs import Job
from edgerank.serving.metrics import Metrics
from edgerank.serving.models import Model, Models
from edgerank.serving.scheduler import Scheduler

BYTES_PER_TOKEN = 4  # of English; only for the estimate that holds room in the queue
LONG_BYTES = 1 << 18  # requests with more text are tokenised in a thread of their own
TRACER = get_tracer(__name__)  # does nothing unless the server traces
NUM_TOKENIZERS = 2  # threads, so that the text of a long request does not hold up short ones


@dataclass(frozen=True)
class Limits:
    """What one request may ask for."""

    max_documents: int = 4096
    max_document_bytes: int = 1 << 18  # of UTF-8; also for queries and instructions
    max_query_tokens: int = 1024
    max_message_bytes: int = 1 << 26
    max_calls: int = 1024  # at once; those beyond are refused before anything is read of them


@dataclass(frozen=True)
class Options:
    """How to score; the fields are those of ``Reranker.rank``."""

    model: str = ""
    instruction: str | None = None
    normalize: bool = False
    long_documents: LongDocuments | None = None  # as the bundle says


@dataclass(frozen=True)
class Scored:
    """Scores in the order of the pairs, and what they took."""

    scores: Scores
    model: Model
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

    async def score(self, pairs: Sequence[Pair], options: Options, query_field: str) -> Scored:
        """Score pairs; give up when cancelled.

        :param query_field: what errors call the query
        :raises InputError: a text or an option is unusable or over a limit
        :raises Refused: the request cannot be served, or not now
        """
        call = CALL.get()
        model = self.models.get(options.model)
        num_bytes = self._check(pairs, options, query_field)
        call.model = model.name
        call.num_documents += len(pairs)
        if time.monotonic() >= call.deadline:
            raise TooLate("the deadline has passed")
        pool = self._long_texts if num_bytes > LONG_BYTES else self._short_texts
        began = time.monotonic()
        with self._scheduler.reserve(_estimate(pairs, options, model)) as reservation:
            with _span("tokenize", model):
                prepared = await asyncio.get_running_loop().run_in_executor(
                    pool, self._prepare, pairs, options, model, query_field
                )
            tokenize_s = time.monotonic() - began
            job = Job(call.client, model.reranker, prepared.groups, prepared.output, call.deadline)
            future = self._scheduler.submit(job, reservation)
        with _span("inference", model) as span:
            computed = await asyncio.wrap_future(future)
            span.set_attributes(
                {
                    "edgerank.documents": len(pairs),
                    "edgerank.tokens": job.num_tokens,
                    "edgerank.queue_s": computed.queue_s,
                    "edgerank.inference_s": computed.inference_s,
                }
            )
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

    def _check(self, pairs: Sequence[Pair], options: Options, query_field: str) -> int:
        """Hold texts against the limits that need no tokens; return their bytes."""
        num_bytes = 0
        for query in dict.fromkeys(pair.query for pair in pairs):
            num_bytes += self._check_size(query, query_field)
        if options.instruction is not None:
            num_bytes += self._check_size(options.instruction, "options.instruction")
        return num_bytes + sum(
            self._check_size(pair.text, pair.field, pair.index) for pair in pairs
        )

    def _check_size(self, text: str, field: str, index: int | None = None) -> int:
        size = len(text.encode())
        if size > self.limits.max_document_bytes:
            raise InputError(
                field,
                f"it has {size} bytes and the limit is {self.limits.max_document_bytes}",
                index,
            )
        return size

    def _prepare(
        self, pairs: Sequence[Pair], options: Options, model: Model, query_field: str
    ) -> Prepared[Scores]:
        prepared = model.reranker.prepare(
            pairs,
            instruction=options.instruction,
            normalize=options.normalize,
            long_documents=options.long_documents,
        )
        limit = self.limits.max_query_tokens
        for num_tokens in prepared.query_tokens.values():
            if num_tokens > limit:
                raise InputError(
                    query_field, f"it has {num_tokens} tokens and the limit is {limit}"
                )
        return prepared


def _span(name: str, model: Model) -> AbstractContextManager[Span]:
    attributes = {"edgerank.model": model.name, "edgerank.request_id": CALL.get().request_id}
    return TRACER.start_as_current_span(name, attributes=attributes, record_exception=False)


def _estimate(pairs: Sequence[Pair], options: Options, model: Model) -> int:
    """Guess the tokens of pairs; a document that is cut has the model's length at most."""
    sizes = (len(pair.text) // BYTES_PER_TOKEN + 1 for pair in pairs)
    truncation = model.reranker.bundle.manifest.truncation
    if truncation.treatment(options.long_documents) != "split":
        sizes = (min(size, model.max_length) for size in sizes)
    return sum(sizes)
