"""edgerank itself. Settings are precisions."""

from __future__ import annotations

from pathlib import Path

import worker


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    from quantize import quantize

    quantize(checkpoint, work / "bundle", precision=setting)


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    from edgerank import Reranker

    reranker = Reranker(work / "bundle", threads=threads)
    variant = reranker.variant.variant
    files = [reranker.bundle.directory / name for name in (variant.graph, *variant.weights)]
    return worker.Model(worker.as_pairs(reranker.score_pairs), files)


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["edgerank"],
        distributions=["edgerank", "onnxruntime", "numpy", "tokenizers"],
    )
