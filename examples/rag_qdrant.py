"""Retrieval for a language model, with Qdrant in this process: pip install qdrant-client

A vector search finds candidates, edgerank ranks them, and the best go into the prompt.
"""

import numpy as np
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, PointStruct, VectorParams

from edgerank import Reranker

QUESTION = "Who wrote the novel Dune?"
TEXTS = [
    "Dune is a novel of 1965. Its author, Frank Herbert, worked on it for six years.",
    "Dunes are hills of sand that the wind has built. The highest are in the Sahara.",
    "The film Dune by Denis Villeneuve came to the cinemas in 2021.",
    "Paris is the capital of France.",
    "Frank Herbert was born in Tacoma in 1920.",
]
CANDIDATES = 4  # of the vector search
KEPT = 2  # of the reranker


def main() -> None:
    reranker = Reranker()

    def embed(texts: list[str], kind: str) -> np.ndarray:
        """Return a vector for each text: the mean of its tokens' vectors, of length 1."""
        means = np.stack([tokens.mean(axis=0) for tokens in reranker.encode(texts, kind=kind)])
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    vectors = embed(TEXTS, "document")
    store = QdrantClient(":memory:")  # or path="directory", or the address of a server
    store.create_collection("texts", VectorParams(size=vectors.shape[1], distance=Distance.COSINE))
    store.upsert(
        "texts",
        [
            PointStruct(id=index, vector=vector.tolist(), payload={"text": text})
            for index, (text, vector) in enumerate(zip(TEXTS, vectors, strict=True))
        ],
    )
    vector = embed([QUESTION], "query")[0].tolist()
    found = store.query_points("texts", query=vector, limit=CANDIDATES).points
    candidates = [point.payload["text"] for point in found]
    hits = reranker.rank(QUESTION, candidates, top_k=KEPT)
    sources = "\n".join(f"[{n}] {hit.document}" for n, hit in enumerate(hits, 1))
    print(f"Answer from these sources, and name them.\n\n{sources}\n\nQuestion: {QUESTION}")


if __name__ == "__main__":
    main()
