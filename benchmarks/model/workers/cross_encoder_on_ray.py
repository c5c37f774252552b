"""sentence-transformers' CrossEncoder in Ray Data, as Ray's documentation has batch inference.

cross_encoder_on_ray.py INPUT.jsonl CHECKPOINT THREADS OUTPUT
"""

from __future__ import annotations

import sys
from typing import Any

BATCH_ROWS = 8  # queries with their documents; the pairs go in batches of 32, its default


class Scorer:
    def __init__(self, checkpoint: str, threads: int) -> None:
        import torch
        from sentence_transformers import CrossEncoder

        torch.set_num_threads(threads)
        self.model = CrossEncoder(checkpoint, device="cpu")

    def __call__(self, batch: Any) -> Any:
        pairs = [
            (query, document)
            for query, documents in zip(batch["query"], batch["documents"], strict=True)
            for document in documents
        ]
        scores = iter(self.model.predict(pairs, show_progress_bar=False).tolist())
        batch["scores"] = [[next(scores) for _ in row] for row in batch["documents"]]
        return batch[["id", "scores"]]


def main(source: str, checkpoint: str, threads: str, target: str) -> None:
    import ray

    # one CPU more than the actor has, or nothing would be read
    ray.init(num_cpus=int(threads) + 1, include_dashboard=False, log_to_driver=False)
    rows = ray.data.read_json(source).repartition(target_num_rows_per_block=BATCH_ROWS)
    rows.map_batches(
        Scorer,
        fn_constructor_args=(checkpoint, int(threads)),
        batch_size=None,
        batch_format="pandas",
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=int(threads),
    ).write_json(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
