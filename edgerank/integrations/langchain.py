"""LangChain: ``EdgerankCompressor``, a document compressor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import ConfigDict, Field, PrivateAttr

from edgerank.integrations.source import open_source


class EdgerankCompressor(BaseDocumentCompressor):
    """Keeps the documents that are most relevant to a query, best first.

    The score of a document, in [0, 1], is in its ``metadata["relevance_score"]``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    reranker: Any = None
    """A Reranker, a Client, or a bundle directory; the model in the package by default."""
    top_n: int | None = Field(default=None, ge=1)
    """Number of documents to keep; all by default."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of ``rank``, such as ``instruction``."""

    _reranker: Any = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Open the bundle."""
        self._reranker = open_source(self.reranker)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> Sequence[Document]:
        """Rank documents, best first; the best ``top_n`` are returned.

        :raises EdgerankError: as ``Reranker.rank`` and ``Client.rank`` do
        """
        if not documents:
            return []
        texts = [document.page_content for document in documents]
        options = {"normalize": True, "return_documents": False, **self.options}
        hits = self._reranker.rank(query, texts, top_k=self.top_n, **options)
        return [
            documents[hit.index].model_copy(
                update={"metadata": {**documents[hit.index].metadata, "relevance_score": hit.score}}
            )
            for hit in hits
        ]
