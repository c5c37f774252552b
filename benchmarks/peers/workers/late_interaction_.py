"""Libraries that compare token vectors, over those that edgerank stored.

The directory has vectors.npy, float32 [T, D] end to end, ends.npy, where documents end, and
queries.npz, float32 [n, D] by number. Documents are all of them, in their order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import worker


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    import numpy as np

    vectors, ends = np.load(work / "vectors.npy"), np.load(work / "ends.npy")
    documents = np.split(vectors, ends[:-1])
    queries = dict(np.load(work / "queries.npz"))
    compare, files = LIBRARIES[setting](documents, threads, work)
    score = worker.one_after_another(lambda query, _: compare(queries[query]))
    return worker.Model(score, files or [work / "vectors.npy"])


def pylate(documents: list[Any], threads: int, work: Path) -> tuple[Any, list[Path]]:
    """``rank.rerank``, which fills documents up to the longest at every call."""
    import torch
    from pylate import rank

    torch.set_num_threads(threads)
    tensors, ids = [torch.from_numpy(each) for each in documents], list(range(len(documents)))

    def compare(query: Any) -> list[float]:
        [hits] = rank.rerank([ids], [torch.from_numpy(query)], [tensors])
        return in_order(((hit["id"], hit["score"]) for hit in hits), len(ids))

    return compare, []


def fast_plaid(documents: list[Any], threads: int, work: Path) -> tuple[Any, list[Path]]:
    """Its index of 4 bits, searched with its defaults."""
    import torch
    from fast_plaid.search import FastPlaid

    torch.set_num_threads(threads)
    index = FastPlaid(index=str(work / "fast-plaid"), device="cpu")
    index.create(documents_embeddings=[torch.from_numpy(each) for each in documents])

    def compare(query: Any) -> list[float]:
        asked = torch.from_numpy(query)[None]
        [hits] = index.search(asked, top_k=len(documents), show_progress=False)
        return in_order(hits, len(documents))

    kept = {path for path in (work / "fast-plaid").rglob("*") if path.is_file()}
    return compare, sorted(kept - {work / "fast-plaid/embeddings.npy"})  # it has those to rebuild


def maxsim_cpu(documents: list[Any], threads: int, work: Path) -> tuple[Any, list[Path]]:
    from maxsim_cpu import maxsim_scores_variable

    return lambda query: maxsim_scores_variable(query, documents), []


def qdrant(documents: list[Any], threads: int, work: Path) -> tuple[Any, list[Path]]:
    """Qdrant's client in memory, which fastembed's documentation hands its vectors to."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection(
        "passages",
        models.VectorParams(
            size=documents[0].shape[1],
            distance=models.Distance.DOT,
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
        ),
    )
    points = [models.PointStruct(id=i, vector=each.tolist()) for i, each in enumerate(documents)]
    client.upsert("passages", points)

    def compare(query: Any) -> list[float]:
        found = client.query_points("passages", query.tolist(), limit=len(documents)).points
        return in_order(((hit.id, hit.score) for hit in found), len(documents))

    return compare, []


def in_order(hits: Any, count: int) -> list[float]:
    """Return scores by number, 0 for what was not found."""
    scores = [0.0] * count
    for number, score in hits:
        scores[number] = score
    return scores


LIBRARIES = {
    "pylate": pylate,
    "fast-plaid": fast_plaid,
    "maxsim-cpu": maxsim_cpu,
    "qdrant-client": qdrant,
}

if __name__ == "__main__":
    worker.run(
        load,
        modules=["numpy"],
        distributions=[*LIBRARIES, "torch", "numpy"],
        first={"query": "0", "documents": []},
    )
