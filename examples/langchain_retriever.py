"""A LangChain retriever whose results edgerank ranks: pip install langchain-classic"""

import numpy as np
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore

from edgerank import Reranker
from edgerank.integrations.langchain import EdgerankCompressor

TEXTS = [
    "Dune is a novel by Frank Herbert. It appeared in 1965.",
    "Dunes are hills of sand that the wind has built.",
    "Paris is the capital of France.",
]


class TokenMeans(Embeddings):
    """Vectors of the model in the package; any other embedding model does as well."""

    def __init__(self, reranker: Reranker) -> None:
        self.reranker = reranker

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [np.mean(tokens, axis=0).tolist() for tokens in self.reranker.encode(texts)]

    def embed_query(self, text: str) -> list[float]:
        return np.mean(self.reranker.encode([text], kind="query")[0], axis=0).tolist()


def main() -> None:
    reranker = Reranker()
    store = InMemoryVectorStore.from_texts(TEXTS, TokenMeans(reranker))
    retriever = ContextualCompressionRetriever(
        base_retriever=store.as_retriever(search_kwargs={"k": 3}),
        base_compressor=EdgerankCompressor(reranker=reranker, top_n=1),
    )
    for document in retriever.invoke("who wrote dune?"):
        print(f"{document.metadata['relevance_score']:.3f}  {document.page_content}")


if __name__ == "__main__":
    main()
