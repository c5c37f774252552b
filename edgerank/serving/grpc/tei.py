"""tei.v1: the wire format of text-embeddings-inference, over the same inference."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from edgerank import __version__
from edgerank._proto import tei_pb2 as pb
from edgerank.documents import check_query
from edgerank.errors import InputError
from edgerank.ranking import top
from edgerank.serving.calls import CALL
from edgerank.serving.grpc.messages import pairs_of
from edgerank.serving.inference import NUM_TOKENIZERS, Inference, Scored, ScoringOptions
from edgerank.wording import Wording

WORDING = Wording({"documents": "texts"}, lambda remedy: "set truncate")


class InfoService:
    """tei.v1.Info, of the first model."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def Info(self, request: pb.InfoRequest, context: Any) -> pb.InfoResponse:
        """Describe the model."""
        model = self._inference.models.get("")
        manifest = model.reranker.bundle.manifest
        limits = self._inference.limits
        return pb.InfoResponse(
            version=__version__,
            model_id=manifest.source.model,
            model_sha=model.digest,
            model_dtype=model.reranker.variant.variant.precision,
            model_type=pb.MODEL_TYPE_RERANKER,
            max_concurrent_requests=limits.max_calls,
            max_input_length=model.reranker.max_length,
            max_batch_tokens=model.reranker.max_batch_tokens,
            max_client_batch_size=limits.max_documents,
            tokenization_workers=NUM_TOKENIZERS,
        )


class RerankService:
    """tei.v1.Rerank, by the first model."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def Rerank(self, request: pb.RerankRequest, context: Any) -> pb.RerankResponse:
        """Rank texts."""
        return await self._rank(request, request.texts)

    async def RerankStream(
        self, requests: AsyncIterator[pb.RerankStreamRequest], context: Any
    ) -> pb.RerankResponse:
        """Rank texts that arrive one by one; the answer needs all of them."""
        limits = self._inference.limits
        first: pb.RerankStreamRequest | None = None
        texts: list[str] = []
        num_bytes = 0
        async for request in requests:
            first = first or request
            texts.append(request.text)
            num_bytes += request.ByteSize()
            limits.check_count("documents", len(texts))
            if num_bytes > limits.max_message_bytes:
                raise InputError(
                    "documents", f"all have over {limits.max_message_bytes} bytes, the limit"
                )
        return await self._rank(first or pb.RerankStreamRequest(), texts)

    async def _rank(
        self, request: pb.RerankRequest | pb.RerankStreamRequest, texts: Sequence[str]
    ) -> pb.RerankResponse:
        check_query(request.query)
        if not texts:
            raise InputError("documents", "there are none; at least one is needed")
        self._inference.limits.check_count("documents", len(texts))
        if request.truncation_direction != pb.TRUNCATION_DIRECTION_RIGHT:
            raise InputError("truncation_direction", "texts are cut on the right only")
        options = ScoringOptions(
            normalize=not request.raw_scores,
            long_documents="truncate" if request.truncate else "refuse",
        )
        scored = await self._inference.score(pairs_of(request.query, texts), options)
        return pb.RerankResponse(
            ranks=[
                pb.Rank(
                    index=index,
                    text=texts[index] if request.return_text else None,
                    score=scored.scores[index],
                )
                for index in top(scored.scores, None)
            ],
            metadata=_metadata_of(scored, request.query, texts),
        )


def _metadata_of(scored: Scored, query: str, texts: Sequence[str]) -> pb.Metadata:
    return pb.Metadata(
        compute_chars=len(query) * len(texts) + sum(map(len, texts)),
        compute_tokens=scored.num_tokens,
        total_time_ns=int(CALL.get().elapsed_s * 1e9),
        tokenization_time_ns=int(scored.tokenize_s * 1e9),
        queue_time_ns=int(scored.queue_s * 1e9),
        inference_time_ns=int(scored.inference_s * 1e9),
    )
