"""LlamaIndex: ``EdgerankPostprocessor``, a node postprocessor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle

from edgerank.errors import InputError
from edgerank.integrations.source import open_source

if TYPE_CHECKING:
    from edgerank.client import Client
    from edgerank.reranker import Reranker


class EdgerankPostprocessor(BaseNodePostprocessor):
    """Keeps the nodes that are most relevant to a query, best first, with scores in [0, 1].

    The text of a node includes its metadata, as for embeddings.
    """

    top_n: int | None = Field(default=None, ge=1, description="Nodes to keep; all by default.")
    options: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of rank, such as instruction."
    )

    _reranker: Any = PrivateAttr()

    def __init__(
        self,
        reranker: Reranker | Client | str | os.PathLike[str] | None = None,
        *,
        top_n: int | None = None,
        options: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Open the bundle.

        :param reranker: a reranker, a client or a bundle directory; the model in the package by
            default
        :param top_n: number of nodes to keep; all by default
        :param options: further arguments of ``rank``, such as ``instruction``
        :raises BundleError: the bundle is missing or unusable
        """
        super().__init__(top_n=top_n, options=options or {}, **others)
        self._reranker = open_source(reranker)

    @classmethod
    def class_name(cls) -> str:
        """Return the name of the class, which LlamaIndex stores."""
        return "EdgerankPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        """Rank nodes.

        :raises EdgerankError: as ``Reranker.rank`` and ``Client.rank`` do
        """
        if query_bundle is None:
            raise InputError("query_bundle", "it is missing; give query_str or query_bundle")
        if not nodes:
            return []
        texts = [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
        options = {"normalize": True, "return_documents": False, **self.options}
        hits = self._reranker.rank(query_bundle.query_str, texts, top_k=self.top_n, **options)
        return [NodeWithScore(node=nodes[hit.index].node, score=hit.score) for hit in hits]
