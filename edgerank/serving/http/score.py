"""POST /score and /v1/score of vLLM: pairs of texts, scored in their order."""

from __future__ import annotations

import time
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from edgerank.documents import Pair, validate_pairs
from edgerank.errors import InputError
from edgerank.serving.calls import CALL
from edgerank.serving.http.endpoint import Answer, Shape, timing_headers
from edgerank.serving.http.errors import ErrorForm, advise, common
from edgerank.serving.http.rerank import Usage
from edgerank.serving.inference import Inference, ScoringOptions
from edgerank.wording import Wording

NAMES = (  # of queries and documents, as versions of vLLM call them
    ("text_1", "text_2"),
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
)


OneOrMore = str | list[str] | None


class ScoreRequest(msgspec.Struct, frozen=True):
    """A query for all documents, or as many queries as documents."""

    text_1: Annotated[OneOrMore, Meta(description="The query, or one for each text of text_2.")] = (
        None
    )
    text_2: Annotated[OneOrMore, Meta(description="The documents.")] = None
    queries: Annotated[OneOrMore, Meta(description="The same as text_1.")] = None
    documents: Annotated[OneOrMore, Meta(description="The same as text_2.")] = None
    items: Annotated[OneOrMore, Meta(description="The same as text_2.")] = None
    data_1: Annotated[OneOrMore, Meta(description="The same as text_1.")] = None
    data_2: Annotated[OneOrMore, Meta(description="The same as text_2.")] = None
    model: Annotated[
        str | None, Meta(description="A name of /v1/models; the first model by default.")
    ] = None
    instruction: Annotated[
        str | None, Meta(description="What relevance means, for models that take one.")
    ] = None
    use_activation: Annotated[
        bool | None, Meta(description="False: scores as the model gives them.")
    ] = None


class PairScore(msgspec.Struct, frozen=True):
    """The score of a pair."""

    index: int
    score: float
    object: Literal["score"] = "score"


class ScoreResponse(msgspec.Struct, frozen=True):
    """The scores, in the order of the pairs."""

    id: str
    created: int  # seconds since 1970
    model: str
    data: list[PairScore]
    usage: Usage
    object: Literal["list"] = "list"


async def answer(inference: Inference, request: ScoreRequest) -> Answer:
    """Score pairs."""
    pairs = _pairs(request, inference)
    options = ScoringOptions(
        request.model or "",
        request.instruction or None,
        normalize=request.use_activation is not False,
    )
    scored = await inference.score(pairs, options)
    data = [PairScore(index, score) for index, score in enumerate(scored.scores.tolist())]
    usage = Usage(scored.num_tokens, scored.num_tokens)
    response = ScoreResponse(
        CALL.get().request_id, int(time.time()), scored.model.name, data, usage
    )
    return Answer(response, timing_headers(scored))


ERRORS = ErrorForm(Wording({"pairs.query": "text_1", "pairs.document": "text_2"}, advise), common)


def shape(path: str) -> Shape[ScoreRequest]:
    """Describe the method at a path."""
    return Shape(path, ScoreRequest, ScoreResponse, answer, ERRORS)


def _pairs(request: ScoreRequest, inference: Inference) -> list[Pair]:
    """Pair the texts.

    :raises InputError: there are none, or their numbers do not fit, or one is unusable
    """
    for names in NAMES:
        queries, documents = (getattr(request, name) for name in names)
        if queries is not None and documents is not None:
            break
    else:
        raise InputError("text_1", "it is missing; text_1 and text_2 go together")
    queries, documents = ([x] if isinstance(x, str) else x for x in (queries, documents))
    inference.limits.check_count(names[1], len(documents))
    if not documents:
        raise InputError(names[1], "there are none; at least one is needed")
    if len(queries) not in (1, len(documents)):
        counts = f"there are {len(queries)} for {len(documents)} in {names[1]}"
        raise InputError(names[0], f"{counts}; give one for all or one for each")
    if len(queries) == 1:
        queries = queries * len(documents)
    return validate_pairs(zip(queries, documents, strict=True))
