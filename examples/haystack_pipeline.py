"""A Haystack pipeline of BM25 and edgerank: pip install haystack-ai"""

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from edgerank.integrations.haystack import EdgerankRanker

TEXTS = [
    "Dune, dune, dune: hills of sand that the wind has built.",
    "Dune is a novel that Frank Herbert wrote. It appeared in 1965.",
    "Paris is the capital of France.",
]


def main() -> None:
    store = InMemoryDocumentStore()
    store.write_documents([Document(content=text) for text in TEXTS])
    pipeline = Pipeline()
    pipeline.add_component("retriever", InMemoryBM25Retriever(store, top_k=3))
    pipeline.add_component("ranker", EdgerankRanker(top_k=1))
    pipeline.connect("retriever", "ranker")
    query = "who wrote dune?"
    found = pipeline.run({"retriever": {"query": query}, "ranker": {"query": query}})
    for document in found["ranker"]["documents"]:
        print(f"{document.score:.3f}  {document.content}")


if __name__ == "__main__":
    main()
