"""mxbai-rerank, the models' own package.

On a CPU it computes in float32 whatever the dtype that it is asked for and the checkpoint has:
``mxbai_rerank.utils.TorchModule.to`` turns bfloat16 into it. Hence its default is "fp32", and
"bf16" goes round that.
"""

from __future__ import annotations

from pathlib import Path

import worker


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    import torch
    from mxbai_rerank import MxbaiRerankV2

    torch.set_num_threads(threads)
    reranker = MxbaiRerankV2(str(checkpoint), device="cpu")
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[setting]
    if setting == "bf16":
        reranker.model.to(dtype)
    if reranker.model.dtype != dtype:
        raise worker.CannotRunError(f"the package computes in {reranker.model.dtype}")

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
