"""POST /v1/rerank and /v2/rerank, for clients of Cohere, Jina, Voyage, vLLM, Infinity and others.

A request may use any of their names for an option, and a response has all of their fields, so that
each client finds its own. Scores are in [0, 1] unless raw ones are asked for. Fields that no
one here reads are ignored, as these servers do.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from edgerank.documents import LongDocuments, check_integer, check_query, make_pairs
from edgerank.errors import InputError
from edgerank.ranking import top
from edgerank.serving.calls import CALL
from edgerank.serving.http.endpoint import Answer, Shape, timing_headers
from edgerank.serving.http.errors import ErrorForm, advise, common
from edgerank.serving.inference import Inference, Scored, ScoringOptions
from edgerank.wording import Wording

Truth = bool | Literal["true", "false", "True", "False"]  # some clients send words
JsonDocument = str | dict[str, Any]


class RerankRequest(msgspec.Struct, frozen=True):
    """A query and the documents to rank."""

    query: Annotated[str, Meta(description="What the documents are to be relevant to.")]
    documents: Annotated[
        str | list[JsonDocument] | UnsetType,
        Meta(description="An object reads as its title, its text, and each other field."),
    ] = UNSET
    document_ids: Annotated[
        list[str] | None,
        Meta(description="Instead of documents: ids of documents in a store of the server."),
    ] = None
    store: Annotated[
        str | None, Meta(description="Name of the store; the server's first by default.")
    ] = None
    model: Annotated[
        str | None, Meta(description="A name of /v1/models; the first model by default.")
    ] = None
    top_n: Annotated[
        int | None, Meta(description="How many results to return; all by default, and for 0.")
    ] = None
    top_k: Annotated[int | None, Meta(description="The same as top_n.")] = None
    return_documents: Annotated[Truth, Meta(description="Return the documents' texts too.")] = False
    max_tokens_per_doc: Annotated[
        int | None, Meta(description="Cut documents to so many tokens first.")
    ] = None
    truncation: Annotated[
        bool | None,
        Meta(description="Cut a document that is too long (true), or refuse it (false)."),
    ] = None
    long_documents: Annotated[
        LongDocuments | None,
        Meta(description="What to do with a document that is too long; as the bundle says."),
    ] = None
    instruction: Annotated[
        str | None, Meta(description="What relevance means, for models that take one.")
    ] = None
    raw_scores: Annotated[bool, Meta(description="Scores as the model gives them.")] = False
    use_activation: Annotated[bool | None, Meta(description="False: the same as raw_scores.")] = (
        None
    )


class DocumentText(msgspec.Struct, frozen=True):
    """A document in a response."""

    text: str


class RankedDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document's place in the ranking."""

    index: int  # in the request
    relevance_score: float
    document: DocumentText | None = None


class VoyageDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """A document's place in the ranking, as Voyage's clients read it."""

    index: int
    relevance_score: float
    document: str | None = None


class Usage(msgspec.Struct, frozen=True):
    """What was computed."""

    prompt_tokens: int
    total_tokens: int


class ApiVersion(msgspec.Struct, frozen=True):
    """Of Cohere's API."""

    version: str
    is_experimental: bool = False


class BilledUnits(msgspec.Struct, frozen=True):
    """Nothing is billed here; clients of Cohere expect it."""

    search_units: int = 1


class TokenCounts(msgspec.Struct, frozen=True):
    """Tokens, as Cohere counts them."""

    input_tokens: int
    output_tokens: int = 0


class ResponseMeta(msgspec.Struct, frozen=True):
    """What Cohere's clients read of a response."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: TokenCounts


class RerankResponse(msgspec.Struct, frozen=True):
    """The documents, the most relevant first."""

    id: str
    model: str
    results: list[RankedDocument]
    usage: Usage
    meta: ResponseMeta
    object: Literal["list"] = "list"
    data: Annotated[
        list[VoyageDocument] | UnsetType,
        Meta(description="The same once more where the request has Voyage's top_k or truncation."),
    ] = UNSET


ERRORS = ErrorForm(Wording({"ids": "document_ids"}, advise), common)


def shape(path: str, version: str) -> Shape[RerankRequest]:
    """Describe the method at a path, of a version of Cohere's API."""

    async def answer(inference: Inference, request: RerankRequest) -> Answer:
        return await rerank(inference, request, version)

    return Shape(path, RerankRequest, RerankResponse, answer, ERRORS)


async def rerank(inference: Inference, request: RerankRequest, version: str = "2") -> Answer:
    """Rank documents."""
    scored, texts = await _scored(inference, request)
    shown = texts if str(request.return_documents).lower() == "true" else None
    results = [
        RankedDocument(
            index,
            float(scored.scores[index]),
            DocumentText(shown[index]) if shown is not None else None,
        )
        for index in top(scored.scores, _limit(request))
    ]
    response = _response(scored, results, version)
    if request.top_k is not None or request.truncation is not None:
        response = msgspec.structs.replace(response, data=[_voyage(result) for result in results])
    return Answer(response, timing_headers(scored))


async def _scored(inference: Inference, request: RerankRequest) -> tuple[Scored, list[str] | None]:
    """Score the documents of a request, or those of a store: the texts are None then."""
    ids, documents = request.document_ids, request.documents
    if ids is not None:
        if documents is not UNSET:
            raise InputError("document_ids", "there are documents too; give one of both")
        inference.limits.check_count("document_ids", len(ids))
        query = check_query(request.query)
        options = _options(request)
        return await inference.score_stored(query, ids, options, request.store or ""), None
    if isinstance(documents, UnsetType):
        raise InputError("documents", "it is missing")
    documents = [documents] if isinstance(documents, str) else documents
    if not documents:
        raise InputError("documents", "there are none; at least one is needed")
    inference.limits.check_count("documents", len(documents))
    pairs = make_pairs(request.query, documents)
    return await inference.score(pairs, _options(request)), [pair.text for pair in pairs]


def _voyage(result: RankedDocument) -> VoyageDocument:
    text = None if result.document is None else result.document.text
    return VoyageDocument(result.index, result.relevance_score, text)


def _options(request: RerankRequest) -> ScoringOptions:
    long_documents = request.long_documents
    if long_documents is None and request.truncation is not None:
        long_documents = "truncate" if request.truncation else "refuse"
    if request.max_tokens_per_doc:
        check_integer("max_tokens_per_doc", request.max_tokens_per_doc, 1)
    return ScoringOptions(
        request.model or "",
        request.instruction or None,
        normalize=not request.raw_scores and request.use_activation is not False,
        long_documents=long_documents,
        max_document_tokens=request.max_tokens_per_doc or None,
    )


def _limit(request: RerankRequest) -> int | None:
    """Return how many results are wanted, None for all."""
    for name in ("top_n", "top_k"):
        given = getattr(request, name)
        if given:
            check_integer(name, given, 1)
            return int(given)
    return None


def _response(scored: Scored, results: list[RankedDocument], version: str) -> RerankResponse:
    tokens = scored.num_tokens
    return RerankResponse(
        CALL.get().request_id,
        scored.model.name,
        results,
        Usage(tokens, tokens),
        ResponseMeta(ApiVersion(version), BilledUnits(), TokenCounts(tokens)),
    )
