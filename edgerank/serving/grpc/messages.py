"""Messages of edgerank.v1: reads options, writes answers, and words errors."""

from __future__ import annotations

from collections.abc import Sequence

from edgerank._proto import rerank_pb2 as pb
from edgerank.documents import LongDocuments, Pair
from edgerank.errors import InputError, Remedy
from edgerank.manifest import Fidelity
from edgerank.serving.calls import CALL
from edgerank.serving.inference import Scored, ScoringOptions
from edgerank.serving.models import LoadedModel
from edgerank.wording import Wording

LONG_DOCUMENTS: dict[int, LongDocuments | None] = {
    pb.LONG_DOCUMENTS_UNSPECIFIED: None,
    pb.LONG_DOCUMENTS_TRUNCATE: "truncate",
    pb.LONG_DOCUMENTS_SPLIT: "split",
    pb.LONG_DOCUMENTS_REFUSE: "refuse",
}
OPTION_FIELDS = {
    "instruction": "options.instruction",
    "long_documents": "options.long_documents",
    "ids": "document_ids",
    "model": "options.model",
}


def _advise(remedy: Remedy) -> str:
    """Name an option of a message, and the values of its enumeration, for errors."""
    field = OPTION_FIELDS[remedy.option]
    return f"set {field} to " + " or ".join(
        f"{remedy.option}_{value}".upper() for value in remedy.values
    )


WORDING = Wording(OPTION_FIELDS, _advise)
STREAM_WORDING = Wording({**OPTION_FIELDS, "query": "start.query"}, _advise)


def options_of(message: pb.Options) -> ScoringOptions:
    """Read the options of a request.

    :raises InputError: one is unusable
    """
    if message.long_documents not in LONG_DOCUMENTS:
        raise InputError("long_documents", "its number is unknown")
    return ScoringOptions(
        message.model,
        message.instruction or None,
        message.normalize,
        LONG_DOCUMENTS[message.long_documents],
    )


def pairs_of(query: str, documents: Sequence[str], first: int = 0) -> list[Pair]:
    """Pair a query with documents, whose type protobuf has checked.

    :param first: the index of the first document
    """
    return [Pair(query, text, index) for index, text in enumerate(documents, first)]


def usage_of(scored: Scored) -> pb.Usage:
    """Return the usage of an answer."""
    return pb.Usage(tokens=scored.num_tokens)


def timings_of(scored: Scored) -> pb.Timings:
    """Return the timings of the current call."""
    return pb.Timings(
        total_ns=int(CALL.get().elapsed_s * 1e9),
        tokenize_ns=int(scored.tokenize_s * 1e9),
        queue_ns=int(scored.queue_s * 1e9),
        inference_ns=int(scored.inference_s * 1e9),
    )


def model_of(model: LoadedModel) -> pb.Model:
    """Describe a model."""
    manifest = model.reranker.bundle.manifest
    chosen = model.reranker.variant
    return pb.Model(
        name=model.name,
        source=manifest.source.model,
        family=manifest.family,
        precision=chosen.variant.precision,
        max_length=model.reranker.max_length,
        takes_instruction=manifest.prompt.instruction is not None,
        digest=model.digest,
        fidelity=_fidelity_of(chosen.variant.fidelity),
        variant=chosen.name,
        variant_reason=chosen.reason,
        kernels=model.reranker.kernels.name,
        kernels_reason=model.reranker.kernels.reason,
    )


def _fidelity_of(fidelity: Fidelity | None) -> pb.Fidelity | None:
    if fidelity is None:
        return None
    return pb.Fidelity(
        pairs=fidelity.pairs,
        spread=fidelity.spread,
        mean_error=fidelity.mean_error,
        p99_error=fidelity.p99_error,
        max_error=fidelity.max_error,
        kendall_tau=fidelity.kendall_tau,
        top10_overlap=fidelity.top10_overlap,
    )
