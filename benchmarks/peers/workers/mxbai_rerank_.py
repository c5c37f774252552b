"""mxbai-rerank, the models' own package; "auto" takes the checkpoint's bfloat16, its default."""

from __future__ import annotations

from pathlib import Path

import worker

SETTINGS = ("bf16", "fp32")


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    import torch
    from mxbai_rerank import MxbaiRerankV2

    torch.set_num_threads(threads)
    dtype = {"bf16": "auto", "fp32": torch.float32}[setting]
    reranker = MxbaiRerankV2(str(checkpoint), device="cpu", torch_dtype=dtype)

    def score(query: str, documents: list[str]) -> list[float]:
        hits = reranker.rank(query, documents, top_k=len(documents), sort=False)
        return [hit.score for hit in hits]

    return worker.Model(worker.one_after_another(score), sorted(checkpoint.glob("*.safetensors")))


if __name__ == "__main__":
    worker.run(
        load,
        modules=["torch", "mxbai_rerank"],
        distributions=["mxbai-rerank", "torch", "transformers"],
    )
