"""rerankers: ``EdgerankRanker``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rerankers.documents import Document
from rerankers.models.ranker import BaseRanker
from rerankers.results import RankedResults, Result
from rerankers.utils import prep_docs

from edgerank.integrations.source import open_source

if TYPE_CHECKING:
    from edgerank.client import Client
    from edgerank.reranker import Reranker


class EdgerankRanker(BaseRanker):
    """A ranker whose scores are in [0, 1]."""

    ranking_type = "pointwise"

    def __init__(
        self,
        reranker: Reranker | Client | str | os.PathLike[str] | None = None,
        verbose: int = 0,
        **options: Any,
    ) -> None:
        """Open the bundle.

        :param reranker: a reranker, a client or a bundle directory; the model in the package by
            default
        :param options: further arguments of ``rank``, such as ``instruction``
        :raises BundleError: the bundle is missing or unusable
        """
        self.verbose = verbose
        self._reranker: Any = open_source(reranker)
        self._options = {"normalize": True, "return_documents": False, **options}

    def score(self, query: str, doc: str) -> float:
        """Score one document, from 0 to 1.

        :raises EdgerankError: as ``Reranker.rank`` and ``Client.rank`` do
        """
        [hit] = self._reranker.rank(query, [doc], **self._options)
        return float(hit.score)

    def rank(
        self,
        query: str,
        docs: str | list[str] | Document | list[Document],
        doc_ids: list[str] | list[int] | None = None,
        metadata: list[dict[str, Any]] | None = None,
    ) -> RankedResults:
        """Rank documents, best first.

        :raises EdgerankError: as ``Reranker.rank`` and ``Client.rank`` do
        """
        documents = prep_docs([docs] if isinstance(docs, str) else docs, doc_ids, metadata)
        hits = self._reranker.rank(query, [each.text for each in documents], **self._options)
        results = [
            Result(document=documents[hit.index], score=hit.score, rank=place)
            for place, hit in enumerate(hits, 1)
        ]
        return RankedResults(results=results, query=query, has_scores=True)
