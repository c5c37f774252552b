"""POST /rerank and GET /info of text-embeddings-inference; other servers' requests come here too.

A body with ``texts`` is one of text-embeddings-inference. One with ``documents`` is answered as
/v1/rerank is, documents included, as vLLM and llama.cpp do.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgerank import __version__
from edgerank.documents import make_pairs
from edgerank.errors import InputError
from edgerank.ranking import top
from edgerank.serving.calls import CALL
from edgerank.serving.http import rerank
from edgerank.serving.http.endpoint import Answer, Shape, timing_headers
from edgerank.serving.http.errors import ErrorForm, Failure
from edgerank.serving.inference import NUM_TOKENIZERS, Inference, Scored, ScoringOptions
from edgerank.wording import Wording


class TextsRequest(msgspec.Struct, frozen=True):
    """A query and the texts to rank, or a request of /v1/rerank."""

    query: Annotated[str, Meta(description="What the texts are to be relevant to.")]
    texts: Annotated[list[str] | None, Meta(description="The texts to rank.")] = None
    raw_scores: Annotated[bool, Meta(description="Scores as the model gives them.")] = False
    return_text: Annotated[bool, Meta(description="Return the texts too.")] = False
    truncate: Annotated[
        bool | None,
        Meta(description="Cut a text that is too long (true), or refuse it (false)."),
    ] = None
    truncation_direction: Annotated[
        Literal["right", "Right", "left", "Left"], Meta(description="Only right is supported.")
    ] = "right"
    documents: Annotated[
        str | list[rerank.JsonDocument] | None,
        Meta(description="In place of texts: this field and those below as for /v1/rerank."),
    ] = None
    model: str | None = None
    top_n: int | None = None
    top_k: int | None = None
    return_documents: rerank.Truth = True
    max_tokens_per_doc: int | None = None
    truncation: bool | None = None
    instruction: str | None = None
    use_activation: bool | None = None


class RankedText(msgspec.Struct, frozen=True, omit_defaults=True):
    """A text's place in the ranking."""

    index: int  # in the request
    score: float
    text: str | None = None


class Labels(msgspec.Struct, frozen=True):
    """The classes of a reranker, of which there is one."""

    id2label: dict[str, str]
    label2id: dict[str, int]


class ModelType(msgspec.Struct, frozen=True):
    """What a model does."""

    reranker: Labels


class Info(msgspec.Struct, frozen=True):
    """The first model, as text-embeddings-inference describes it."""

    model_id: str
    model_sha: str
    model_dtype: str
    model_type: ModelType
    max_concurrent_requests: int
    max_input_length: int
    max_batch_tokens: int
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    max_batch_requests: int | None = None
    sha: str | None = None
    docker_label: str | None = None


ERROR_TYPES = {  # by the names of reasons
    "invalid": "Validation",
    "too_large": "Validation",
    "overloaded": "Overloaded",
    "not_ready": "Unhealthy",
    "unauthenticated": "Unauthorized",
}


def _error(failure: Failure) -> object:
    error_type = ERROR_TYPES.get(failure.kind, "Backend")
    return {"error": failure.message, "error_type": error_type}


ERRORS = ErrorForm(Wording({"documents": "texts"}, lambda _: "set truncate"), _error, 422)


async def answer(inference: Inference, request: TextsRequest) -> Answer:
    """Rank texts, best first."""
    if request.texts is None and request.documents is not None:
        fields = {name: getattr(request, name) for name in _SHARED}
        return await rerank.rerank(inference, rerank.RerankRequest(**fields))
    if not request.texts:
        raise InputError("documents", "there are none; at least one is needed")
    inference.limits.check_count("documents", len(request.texts))
    if request.truncation_direction.lower() != "right":
        raise InputError("truncation_direction", "texts are cut on the right only")
    options = ScoringOptions(
        request.model or "",
        normalize=not request.raw_scores,
        long_documents=None
        if request.truncate is None
        else ("truncate" if request.truncate else "refuse"),
    )
    scored = await inference.score(make_pairs(request.query, request.texts), options)
    ranks = [
        RankedText(
            index,
            float(scored.scores[index]),
            request.texts[index] if request.return_text else None,
        )
        for index in top(scored.scores, None)
    ]
    return Answer(ranks, {**timing_headers(scored), **_compute_headers(scored, request)})


async def info(inference: Inference, request: None) -> Answer:
    """Describe the first model."""
    model = inference.models.get("")
    reranker = model.reranker
    manifest = reranker.bundle.manifest
    limits = inference.limits
    return Answer(
        Info(
            model_id=manifest.source.model,
            model_sha=model.digest,
            model_dtype=reranker.variant.variant.precision,
            model_type=ModelType(Labels({"0": "relevant"}, {"relevant": 0})),
            max_concurrent_requests=limits.max_calls,
            max_input_length=reranker.max_length,
            max_batch_tokens=reranker.max_batch_tokens,
            max_client_batch_size=limits.max_documents,
            auto_truncate=manifest.truncation.treatment(None) != "refuse",
            tokenization_workers=NUM_TOKENIZERS,
            version=__version__,
        )
    )


_SHARED = [
    name
    for name in rerank.RerankRequest.__struct_fields__
    if name in TextsRequest.__struct_fields__
]
RERANK = Shape("/rerank", TextsRequest, list[RankedText] | rerank.RerankResponse, answer, ERRORS)
INFO = Shape("/info", None, Info, info, ERRORS)


def _compute_headers(scored: Scored, request: TextsRequest) -> dict[str, str]:
    """Say what was computed and how long it took, as text-embeddings-inference does."""
    texts = request.texts or []
    milliseconds = {
        "x-total-time": CALL.get().elapsed_s,
        "x-tokenization-time": scored.tokenize_s,
        "x-queue-time": scored.queue_s,
        "x-inference-time": scored.inference_s,
    }
    return {
        "x-compute-type": "cpu",
        "x-compute-characters": str(len(request.query) * len(texts) + sum(map(len, texts))),
        "x-compute-tokens": str(scored.num_tokens),
        **{name: str(round(seconds * 1e3)) for name, seconds in milliseconds.items()},
    }
