"""POST /v1/embeddings of OpenAI, for embedding bundles."""

from __future__ import annotations

import base64
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from edgerank.errors import InputError
from edgerank.prompt import TextKind
from edgerank.serving.http.endpoint import Answer, Shape, timing_headers
from edgerank.serving.http.errors import ErrorForm, common
from edgerank.serving.http.rerank import Usage
from edgerank.serving.inference import Inference
from edgerank.wording import Wording


class EmbeddingsRequest(msgspec.Struct, frozen=True):
    """Texts to encode."""

    input: Annotated[str | list[str], Meta(description="The texts to encode.")]
    model: Annotated[
        str | None, Meta(description="A name of /v1/models; the first model by default.")
    ] = None
    encoding_format: Annotated[
        Literal["float", "base64"],
        Meta(description="Numbers, or float32 (little-endian) in base 64."),
    ] = "float"
    dimensions: Annotated[
        int | None, Meta(description="Must be what the model's vectors have.")
    ] = None
    input_type: Annotated[
        TextKind, Meta(description="Models read queries and documents differently.")
    ] = "document"


class Embedding(msgspec.Struct, frozen=True):
    """The vector of a text."""

    index: int
    embedding: list[float] | str  # or float32, little-endian, in base 64
    object: Literal["embedding"] = "embedding"


class EmbeddingsResponse(msgspec.Struct, frozen=True):
    """The vectors, in the order of the texts."""

    data: list[Embedding]
    model: str
    usage: Usage
    object: Literal["list"] = "list"


async def answer(inference: Inference, request: EmbeddingsRequest) -> Answer:
    """Encode texts into unit vectors."""
    texts = [request.input] if isinstance(request.input, str) else request.input
    if not texts:
        raise InputError("texts", "there are none; at least one is needed")
    inference.limits.check_count("texts", len(texts))
    encoded = await inference.encode(texts, request.input_type, request.model or "")
    vectors = np.asarray(encoded.vectors, np.float32)
    if request.dimensions not in (None, vectors.shape[1]):
        raise InputError("dimensions", f"the model's vectors have {vectors.shape[1]}")
    form = _floats if request.encoding_format == "float" else _base64
    data = [Embedding(index, form(vector)) for index, vector in enumerate(vectors)]
    usage = Usage(encoded.num_tokens, encoded.num_tokens)
    return Answer(EmbeddingsResponse(data, encoded.model.name, usage), timing_headers(encoded))


def _floats(vector: NDArray[np.float32]) -> list[float]:
    return [float(value) for value in vector]


def _base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


ERRORS = ErrorForm(Wording({"texts": "input"}, lambda _: "shorten it"), common)
EMBEDDINGS = Shape("/v1/embeddings", EmbeddingsRequest, EmbeddingsResponse, answer, ERRORS)
