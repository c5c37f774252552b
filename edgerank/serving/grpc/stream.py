"""RerankStream: scores documents while they arrive, in bounded memory.

A reader cuts the documents into windows and scores a few windows at once, each in a separate
task, which puts its response into a queue. The queue is bounded too: if a client does not read its
results, the server stops reading its documents.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from edgerank._proto import rerank_pb2 as pb
from edgerank.documents import check_query
from edgerank.errors import InputError
from edgerank.serving.errors import NoRoom
from edgerank.serving.grpc.messages import options_of, pairs_of, timings_of, usage_of
from edgerank.serving.inference import Inference, Scored, ScoringOptions

WINDOW_DOCUMENTS = 64  # most documents that are scored together
MAX_WINDOWS = 4  # most windows of a stream that are scored at once

Responses = asyncio.Queue[pb.RerankStreamResponse | Exception | None]  # None at the end
Requests = AsyncIterator[pb.RerankStreamRequest]


class DocumentStream:
    """The windows of one call that are being scored."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._responses: Responses = asyncio.Queue(MAX_WINDOWS)
        self._free = asyncio.Semaphore(MAX_WINDOWS)
        self._tasks: set[asyncio.Task[None]] = set()

    async def responses(self, requests: Requests) -> AsyncIterator[pb.RerankStreamResponse]:
        """Yield a response for each window, in the order in which they are scored.

        :raises InputError: a request is unusable
        :raises Refused: a window cannot be scored
        """
        reader = asyncio.create_task(self._read(requests))
        try:
            while (response := await self._responses.get()) is not None:
                if isinstance(response, Exception):
                    raise response
                yield response
        finally:
            reader.cancel()

    async def _read(self, requests: Requests) -> None:
        """Start windows while documents arrive; stop reading while enough are being scored."""
        try:
            start: pb.RerankStreamStart | None = None
            first = 0
            async for request in requests:
                if start is None:
                    start, options = _start_of(request)
                    continue
                for documents in self._windows(request):
                    await self._free.acquire()
                    self._begin(start.query, options, first, documents)
                    first += len(documents)
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._responses.put(None)
        except Exception as error:
            await self._responses.put(error)
        finally:
            for task in self._tasks:
                task.cancel()

    def _windows(self, request: pb.RerankStreamRequest) -> list[Sequence[str]]:
        if request.WhichOneof("part") != "documents":
            raise InputError("documents", "all requests but the first must have them")
        documents = request.documents.documents
        self._inference.limits.check_count("documents", len(documents))
        return [
            documents[start : start + WINDOW_DOCUMENTS]
            for start in range(0, len(documents), WINDOW_DOCUMENTS)
        ]

    def _begin(
        self, query: str, options: ScoringOptions, first: int, documents: Sequence[str]
    ) -> None:
        task = asyncio.create_task(self._answer(query, options, first, documents))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(
        self, query: str, options: ScoringOptions, first: int, documents: Sequence[str]
    ) -> None:
        try:
            scored = await self._score_patiently(query, options, first, documents)
            await self._responses.put(_response_of(scored, first))
        except Exception as error:
            await self._responses.put(error)
        finally:
            self._free.release()

    async def _score_patiently(
        self, query: str, options: ScoringOptions, first: int, documents: Sequence[str]
    ) -> Scored:
        """Score a window; after the first one, wait if the queue is full."""
        pairs = pairs_of(query, documents, first)
        while True:
            try:
                return await self._inference.score(pairs, options)
            except NoRoom as error:
                if first == 0 or error.retry_after_s is None:
                    raise
                await asyncio.sleep(error.retry_after_s)


def _start_of(request: pb.RerankStreamRequest) -> tuple[pb.RerankStreamStart, ScoringOptions]:
    if request.WhichOneof("part") != "start":
        raise InputError("start", "the first request of a stream must have it")
    check_query(request.start.query)
    return request.start, options_of(request.start.options)


def _response_of(scored: Scored, first: int) -> pb.RerankStreamResponse:
    return pb.RerankStreamResponse(
        results=[
            pb.Result(index=index, score=score)
            for index, score in enumerate(scored.scores.tolist(), first)
        ],
        usage=usage_of(scored),
        timings=timings_of(scored),
    )
