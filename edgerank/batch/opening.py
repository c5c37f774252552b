"""How a job's model is opened, in any process."""

from __future__ import annotations

import os
from dataclasses import dataclass

import onnxruntime

import edgerank
from edgerank.batch.job import Asking, Scorer
from edgerank.reranker import Reranker


@dataclass(frozen=True)
class Opening:
    """Parameters of ``Reranker``."""

    bundle: str | os.PathLike[str]
    threads: int | None = None
    variant: str | None = None
    kernels: str | None = None
    max_length: int | None = None
    max_batch_tokens: int | None = None
    trust: str | os.PathLike[str] | None = None

    def open(self) -> Reranker:
        """Open the model, with the errors of ``Reranker``."""
        return Reranker(
            self.bundle,
            threads=self.threads,
            variant=self.variant,
            kernels=self.kernels,
            max_length=self.max_length,
            max_batch_tokens=self.max_batch_tokens,
            trust=self.trust,
        )


def describe_scorer(reranker: Reranker, asking: Asking) -> Scorer:
    """Say all that scores depend on besides the texts."""
    bundle = reranker.bundle
    return Scorer(
        model=bundle.manifest.source.model,
        bundle=bundle.digest,
        variant=reranker.variant.name,
        kernels=reranker.kernels.name,
        threads=None if reranker.kernels.are_compiled else reranker.threads,
        max_length=reranker.max_length,
        max_batch_tokens=reranker.max_batch_tokens,
        asking=asking,
        edgerank=edgerank.__version__,
        onnxruntime=onnxruntime.__version__,
    )
