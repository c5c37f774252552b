"""edgerank itself. Settings are precisions, "-stock" of ONNX Runtime's operators."""

from __future__ import annotations

from pathlib import Path

import worker

STOCK = "-stock"


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    from quantize import quantize

    quantize(checkpoint, work / "bundle", precision=setting.removesuffix(STOCK))


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    from edgerank import Reranker

    kernels = "stock" if setting.endswith(STOCK) else None  # None: as users have it
    reranker = Reranker(work / "bundle", threads=threads, kernels=kernels)
    variant = reranker.variant.variant
    files = [reranker.bundle.directory / name for name in (variant.graph, *variant.weights)]
    used = {"kernels": reranker.kernels.name}
    return worker.Model(worker.as_pairs(reranker.score_pairs), files, used)


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["edgerank"],
        distributions=["edgerank", "onnxruntime", "numpy", "tokenizers"],
    )
