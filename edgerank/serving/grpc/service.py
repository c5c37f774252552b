"""edgerank.v1.Reranker: messages into pairs and options, scores into messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

from edgerank._proto import rerank_pb2 as pb
from edgerank.documents import LongDocuments, Pair
from edgerank.errors import InputError
from edgerank.ranking import top
from edgerank.serving.calls import CALL
from edgerank.serving.errors import Overloaded
from edgerank.serving.inference import Inference, Options, Scored
from edgerank.serving.models import Model

STREAM_DOCUMENTS = 64  # scored together, at most
STREAM_WINDOWS = 4  # of so many documents, on their way at once for one stream

Answers = asyncio.Queue[pb.RerankStreamResponse | Exception | None]

LONG_DOCUMENTS: dict[int, LongDocuments | None] = {
    pb.LONG_DOCUMENTS_UNSPECIFIED: None,
    pb.LONG_DOCUMENTS_TRUNCATE: "truncate",
    pb.LONG_DOCUMENTS_SPLIT: "split",
    pb.LONG_DOCUMENTS_REFUSE: "refuse",
}


class RerankerService:
    """The handlers; what they raise becomes a status in ``interceptor``."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.RerankResponse:
        """Rank documents."""
        options = _options(request.options)
        self._check_count("documents", len(request.documents))
        _check_query(request.query)
        pairs = _pairs(request.query, request.documents)
        scored = await self._inference.score(pairs, options, "query")
        return pb.RerankResponse(
            results=[
                pb.Result(
                    index=index,
                    score=scored.scores[index],
                    document=request.documents[index] if request.return_documents else None,
                )
                for index in top(scored.scores, request.top_k or None)
            ],
            usage=pb.Usage(tokens=scored.num_tokens),
            timings=_timings(scored),
            model=scored.model.name,
        )

    async def RerankStream(
        self, requests: AsyncIterator[pb.RerankStreamRequest], context: Any
    ) -> AsyncIterator[pb.RerankStreamResponse]:
        """Score documents as they come, a few windows at once."""
        # bounded: a client that does not read its results stops being read from
        answers: Answers = asyncio.Queue(STREAM_WINDOWS)
        reader = asyncio.create_task(self._read_stream(requests, answers))
        try:
            while (answer := await answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield answer
        finally:
            reader.cancel()

    async def ScorePairs(
        self, request: pb.ScorePairsRequest, context: Any
    ) -> pb.ScorePairsResponse:
        """Score pairs."""
        options = _options(request.options)
        self._check_count("pairs", len(request.pairs))
        pairs = []
        for index, pair in enumerate(request.pairs):
            if not pair.query.strip():
                raise InputError("pairs.query", "it is empty", index)
            pairs.append(Pair(pair.query, pair.document, index, "pairs.document"))
        scored = await self._inference.score(pairs, options, "pairs.query")
        return pb.ScorePairsResponse(
            scores=scored.scores.tolist(),
            usage=pb.Usage(tokens=scored.num_tokens),
            timings=_timings(scored),
            model=scored.model.name,
        )

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        """List the models."""
        return pb.ListModelsResponse(models=map(_described, self._inference.models.all()))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        """Describe a model."""
        return pb.GetModelResponse(model=_described(self._inference.models.get(request.name)))

    async def _read_stream(
        self,
        requests: AsyncIterator[pb.RerankStreamRequest],
        answers: Answers,
    ) -> None:
        """Score windows of documents; stop reading while enough are on their way."""
        free = asyncio.Semaphore(STREAM_WINDOWS)
        tasks: set[asyncio.Task[None]] = set()

        async def score(query: str, options: Options, first: int, documents: Sequence[str]) -> None:
            try:
                scored = await self._score_patiently(query, options, first, documents)
                await answers.put(_stream_response(scored, first))
            except Exception as error:
                await answers.put(error)
            finally:
                free.release()

        try:
            start: pb.RerankStreamStart | None = None
            first = 0
            async for request in requests:
                if start is None:
                    start, options = _start(request)
                    continue
                if request.WhichOneof("part") != "documents":
                    raise InputError("documents", "all requests but the first must have them")
                self._check_count("documents", len(request.documents.documents))
                for documents in _windows(request.documents.documents):
                    await free.acquire()
                    task = asyncio.create_task(score(start.query, options, first, documents))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
                    first += len(documents)
            if tasks:
                await asyncio.wait(tasks)
            await answers.put(None)
        except Exception as error:
            await answers.put(error)
        finally:
            for task in tasks:
                task.cancel()

    async def _score_patiently(
        self, query: str, options: Options, first: int, documents: Sequence[str]
    ) -> Scored:
        """Score a window; once a stream has begun, a full queue makes it wait."""
        while True:
            try:
                pairs = _pairs(query, documents, first)
                return await self._inference.score(pairs, options, "start.query")
            except Overloaded as error:
                if first == 0 or error.retry_after_s is None:
                    raise
                await asyncio.sleep(error.retry_after_s)

    def _check_count(self, field: str, count: int) -> None:
        limit = self._inference.limits.max_documents
        if count > limit:
            raise InputError(field, f"there are {count} and the limit is {limit}")


def _options(options: pb.Options) -> Options:
    if options.long_documents not in LONG_DOCUMENTS:
        raise InputError("options.long_documents", "its number is unknown")
    return Options(
        options.model,
        options.instruction or None,
        options.normalize,
        LONG_DOCUMENTS[options.long_documents],
    )


def _check_query(query: str, field: str = "query") -> None:
    if not query.strip():
        raise InputError(field, "it is empty")


def _start(request: pb.RerankStreamRequest) -> tuple[pb.RerankStreamStart, Options]:
    if request.WhichOneof("part") != "start":
        raise InputError("start", "the first request of a stream must have it")
    _check_query(request.start.query, "start.query")
    return request.start, _options(request.start.options)


def _pairs(query: str, documents: Sequence[str], first: int = 0) -> list[Pair]:
    return [Pair(query, text, index) for index, text in enumerate(documents, first)]


def _windows(documents: Sequence[str]) -> list[Sequence[str]]:
    return [
        documents[start : start + STREAM_DOCUMENTS]
        for start in range(0, len(documents), STREAM_DOCUMENTS)
    ]


def _stream_response(scored: Scored, first: int) -> pb.RerankStreamResponse:
    return pb.RerankStreamResponse(
        results=[
            pb.Result(index=index, score=score)
            for index, score in enumerate(scored.scores.tolist(), first)
        ],
        usage=pb.Usage(tokens=scored.num_tokens),
        timings=_timings(scored),
    )


def _timings(scored: Scored) -> pb.Timings:
    return pb.Timings(
        total_ns=int(CALL.get().elapsed_s * 1e9),
        tokenize_ns=int(scored.tokenize_s * 1e9),
        queue_ns=int(scored.queue_s * 1e9),
        inference_ns=int(scored.inference_s * 1e9),
    )


def _described(model: Model) -> pb.Model:
    manifest = model.reranker.bundle.manifest
    variant = model.reranker.variant.variant
    fidelity = variant.fidelity
    return pb.Model(
        name=model.name,
        source=manifest.source.model,
        family=manifest.family,
        precision=variant.precision,
        max_length=model.max_length,
        takes_instruction=manifest.prompt.instruction is not None,
        digest=model.digest,
        fidelity=None
        if fidelity is None
        else pb.Fidelity(
            pairs=fidelity.pairs,
            spread=fidelity.spread,
            mean_error=fidelity.mean_error,
            p99_error=fidelity.p99_error,
            max_error=fidelity.max_error,
            kendall_tau=fidelity.kendall_tau,
            top10_overlap=fidelity.top10_overlap,
        ),
    )
