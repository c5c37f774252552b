"""GET /v1/models: the served models in OpenAI's format, with variants and kernels."""

from __future__ import annotations

from typing import Literal

import msgspec

from edgerank import __version__
from edgerank.cpu import cpu_name
from edgerank.manifest import Fidelity
from edgerank.serving.http.endpoint import Answer, Shape
from edgerank.serving.http.errors import ErrorForm, common
from edgerank.serving.inference import Inference
from edgerank.serving.models import LoadedModel
from edgerank.wording import Wording


class ModelEntry(msgspec.Struct, frozen=True):
    """A model that is served."""

    id: str  # the name for requests
    source: str
    family: str
    precision: str
    max_length: int  # tokens of a query and a document
    takes_instruction: bool
    encodes_texts: bool  # whether /v1/embeddings works with it
    digest: str  # sha256 of the bundle's manifest
    variant: str
    kernels: str
    kernels_reason: str
    fidelity: Fidelity | None  # of the variant's scores to those of float32
    object: Literal["model"] = "model"
    created: int = 0  # bundles have no date
    owned_by: str = "edgerank"


class Server(msgspec.Struct, frozen=True):
    """Facts about the server."""

    version: str
    cpu: str
    threads: int  # number of threads


class ModelList(msgspec.Struct, frozen=True):
    """The models, the default one first."""

    data: list[ModelEntry]
    server: Server
    object: Literal["list"] = "list"


async def answer(inference: Inference, request: None) -> Answer:
    """List the models."""
    entries = [_entry(model) for model in inference.models.all()]
    return Answer(
        ModelList(
            entries, Server(__version__, cpu_name(), inference.models.get("").reranker.threads)
        )
    )


def _entry(model: LoadedModel) -> ModelEntry:
    reranker = model.reranker
    manifest = reranker.bundle.manifest
    return ModelEntry(
        id=model.name,
        source=manifest.source.model,
        family=manifest.family,
        precision=reranker.variant.variant.precision,
        max_length=reranker.max_length,
        takes_instruction=manifest.prompt.instruction is not None,
        encodes_texts=manifest.scoring.rule == "cosine",
        digest=model.digest,
        variant=reranker.variant.name,
        kernels=reranker.kernels.name,
        kernels_reason=reranker.kernels.reason,
        fidelity=reranker.variant.variant.fidelity,
    )


ERRORS = ErrorForm(Wording({}, lambda _: ""), common)
MODELS = Shape("/v1/models", None, ModelList, answer, ERRORS)
