"""The handlers of edgerank.v1.Reranker."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from edgerank._proto import rerank_pb2 as pb
from edgerank.documents import Pair, check_query
from edgerank.errors import InputError
from edgerank.ranking import top
from edgerank.serving.grpc.messages import model_of, options_of, pairs_of, timings_of, usage_of
from edgerank.serving.grpc.stream import DocumentStream
from edgerank.serving.inference import Inference, Scored


class RerankerService:
    """The handlers; ``interceptor`` turns their errors into statuses."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.RerankResponse:
        """Rank documents."""
        scored = await self._scored(request)
        return pb.RerankResponse(
            results=[
                pb.Result(
                    index=index,
                    score=scored.scores[index],
                    document=request.documents[index]
                    if request.return_documents and request.documents
                    else None,
                )
                for index in top(scored.scores, request.top_k or None)
            ],
            usage=usage_of(scored),
            timings=timings_of(scored),
            model=scored.model.name,
        )

    async def _scored(self, request: pb.RerankRequest) -> Scored:
        """Score the documents of a request, or those of a store that it names."""
        options = options_of(request.options)
        check_query(request.query)
        if not (request.document_ids or request.store):
            self._inference.limits.check_count("documents", len(request.documents))
            pairs = pairs_of(request.query, request.documents)
            return await self._inference.score(pairs, options)
        if request.documents:
            raise InputError("document_ids", "there are documents too; give one of both")
        ids = list(request.document_ids)
        self._inference.limits.check_count("document_ids", len(ids))
        return await self._inference.score_stored(request.query, ids, options, request.store)

    async def RerankStream(
        self, requests: AsyncIterator[pb.RerankStreamRequest], context: Any
    ) -> AsyncIterator[pb.RerankStreamResponse]:
        """Score documents as they come."""
        async for response in DocumentStream(self._inference).responses(requests):
            yield response

    async def ScorePairs(
        self, request: pb.ScorePairsRequest, context: Any
    ) -> pb.ScorePairsResponse:
        """Score pairs."""
        options = options_of(request.options)
        self._inference.limits.check_count("pairs", len(request.pairs))
        pairs = [
            Pair(
                check_query(pair.query, "pairs.query", index),
                pair.document,
                index,
                "pairs.document",
            )
            for index, pair in enumerate(request.pairs)
        ]
        scored = await self._inference.score(pairs, options)
        return pb.ScorePairsResponse(
            scores=scored.scores.tolist(),
            usage=usage_of(scored),
            timings=timings_of(scored),
            model=scored.model.name,
        )

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        """List the models."""
        return pb.ListModelsResponse(models=map(model_of, self._inference.models.all()))

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        """Describe a model."""
        return pb.GetModelResponse(model=model_of(self._inference.models.get(request.name)))
