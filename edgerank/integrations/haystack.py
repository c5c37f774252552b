"""Haystack: ``EdgerankRanker``, a component that pipelines can save."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import Secret

from edgerank.integrations.source import open_source


@component
class EdgerankRanker:
    """Ranks documents by relevance to a query, best first, with scores in [0, 1].

    It takes a bundle directory or the address of a server, and not a ``Reranker``, so that a
    pipeline can be saved.
    """

    def __init__(
        self,
        bundle: str | None = None,
        *,
        server: str | None = None,
        token: Secret | None = None,
        tls: bool = False,
        top_k: int | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        """Configure the component; ``warm_up`` or the first ``run`` opens the bundle or server.

        :param bundle: directory of the bundle; the model in the package by default
        :param server: gRPC address of a server, HOST:PORT or unix:PATH, in place of a bundle
        :param token: bearer token for the server
        :param tls: whether to connect to the server with TLS
        :param top_k: number of documents to return; all by default
        :param options: further arguments of ``rank``, such as ``instruction``
        """
        self.bundle = bundle
        self.server = server
        self.token = token
        self.tls = tls
        self.top_k = top_k
        self.options = options
        self._reranker: Any = None

    def warm_up(self) -> None:
        """Open the bundle, or prepare the connection.

        :raises BundleError: the bundle is missing or unusable
        :raises InputError: an argument is unusable
        """
        if self._reranker is not None:
            return
        if self.server is None:
            self._reranker = open_source(self.bundle)
            return
        from edgerank.client import Client, TlsFiles

        token = None if self.token is None else self.token.resolve_value()
        self._reranker = Client(self.server, token=token, tls=TlsFiles() if self.tls else None)

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, documents: list[Document], top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Rank documents by their ``content``.

        :param top_k: number of documents to return; the component's by default
        :return: ``{"documents": [...]}``, best first, with their scores
        :raises EdgerankError: as ``Reranker.rank`` and ``Client.rank`` do
        """
        if not documents:
            return {"documents": []}
        self.warm_up()
        texts = [document.content or "" for document in documents]
        options = {"normalize": True, "return_documents": False, **(self.options or {})}
        wanted = self.top_k if top_k is None else top_k
        hits = self._reranker.rank(query, texts, top_k=wanted, **options)
        return {"documents": [replace(documents[hit.index], score=hit.score) for hit in hits]}

    def to_dict(self) -> dict[str, Any]:
        """Return the arguments, for a saved pipeline."""
        saved: dict[str, Any] = default_to_dict(
            self,
            bundle=self.bundle,
            server=self.server,
            token=None if self.token is None else self.token.to_dict(),
            tls=self.tls,
            top_k=self.top_k,
            options=self.options,
        )
        return saved

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> EdgerankRanker:
        """Make the component of a saved pipeline."""
        token = data["init_parameters"].get("token")
        if token is not None:
            data["init_parameters"]["token"] = Secret.from_dict(token)
        ranker: EdgerankRanker = default_from_dict(cls, data)
        return ranker
