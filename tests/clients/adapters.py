"""The adapters of ``edgerank.integrations`` in their frameworks, embedded and served.

Runs in the clients' environment: python -m tests.clients.adapters NAME
"""

from __future__ import annotations

import asyncio

from edgerank import Client, Reranker
from tests.clients.ask import Ask, run

Ranks = list[tuple[int, float]]


def source_of(ask: Ask) -> Reranker | Client | str:
    """A client where the call names a server; else an open model or a bundle's directory."""
    if ask.address:
        return Client(ask.address, token=ask.token or None)
    return ask.bundle or Reranker()


def langchain(ask: Ask) -> Ranks:
    from langchain_classic.retrievers import ContextualCompressionRetriever
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    from edgerank.integrations.langchain import EdgerankCompressor

    class Everything(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return [
                Document(text, id=str(index), metadata={"kept": index})
                for index, text in enumerate(ask.documents)
            ]

    options = {"model": ask.model} if ask.address else {}
    compressor = EdgerankCompressor(reranker=source_of(ask), options=options)
    retriever = ContextualCompressionRetriever(
        base_retriever=Everything(), base_compressor=compressor
    )
    ranked = retriever.invoke(ask.query)
    assert [each.id for each in asyncio.run(retriever.ainvoke(ask.query))] == [
        each.id for each in ranked
    ]
    assert all(each.metadata["kept"] == int(each.id) for each in ranked)
    best = EdgerankCompressor(reranker=compressor.reranker, top_n=1, options=options)
    assert [each.id for each in best.compress_documents(ranked, ask.query)] == [ranked[0].id]
    assert best.compress_documents([], ask.query) == []
    return [(int(each.id), each.metadata["relevance_score"]) for each in ranked]


def llama_index(ask: Ask) -> Ranks:
    from llama_index.core.schema import NodeWithScore, TextNode

    from edgerank.integrations.llama_index import EdgerankPostprocessor

    nodes = [
        NodeWithScore(node=TextNode(id_=str(index), text=text))
        for index, text in enumerate(ask.documents)
    ]
    source = source_of(ask)
    options = {"model": ask.model} if ask.address else {}
    postprocessor = EdgerankPostprocessor(source, options=options)
    ranked = postprocessor.postprocess_nodes(nodes, query_str=ask.query)
    best = EdgerankPostprocessor(source, top_n=1, options=options)
    found = asyncio.run(best.apostprocess_nodes(nodes, query_str=ask.query))
    assert [each.node.node_id for each in found] == [ranked[0].node.node_id]
    return [(int(each.node.node_id), each.score) for each in ranked]


def haystack(ask: Ask) -> Ranks:
    from haystack import Document, Pipeline
    from haystack.utils import Secret

    from edgerank.integrations.haystack import EdgerankRanker

    documents = [Document(id=str(i), content=text) for i, text in enumerate(ask.documents)]
    if ask.address:
        token = Secret.from_env_var("EDGERANK_TOKEN")
        options = {"model": ask.model}
        ranker = EdgerankRanker(server=ask.address, token=token, options=options)
    else:
        ranker = EdgerankRanker(ask.bundle or None)
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker)
    module = "edgerank.integrations.haystack"
    pipeline = Pipeline.loads(pipeline.dumps(), allowed_modules=[module])
    ranked = pipeline.run({"ranker": {"query": ask.query, "documents": documents}})
    asked = {"ranker": {"query": ask.query, "documents": documents, "top_k": 1}}
    best = pipeline.run(asked)["ranker"]["documents"]
    assert best == ranked["ranker"]["documents"][:1]
    return [(int(each.id), each.score) for each in ranked["ranker"]["documents"]]


def rerankers(ask: Ask) -> Ranks:
    from edgerank.integrations.rerankers import EdgerankRanker

    options = {"model": ask.model} if ask.address else {}
    ranker = EdgerankRanker(source_of(ask), **options)
    ranked = ranker.rank(ask.query, ask.documents, doc_ids=[f"d{i}" for i in range(4)])
    assert [each.rank for each in ranked] == [1, 2, 3, 4]
    first = ranked.top_k(1)[0]
    assert abs(ranker.score(ask.query, first.text) - first.score) < 1e-6
    return [(int(each.doc_id[1:]), each.score) for each in ranked]


def sentence_transformers(ask: Ask) -> Ranks:
    from edgerank.integrations.sentence_transformers import CrossEncoder

    encoder = CrossEncoder(source_of(ask))
    ranked = encoder.rank(ask.query, ask.documents, return_documents=True)
    assert all(each["text"] == ask.documents[each["corpus_id"]] for each in ranked)
    return [(each["corpus_id"], each["score"]) for each in ranked]


def page(ask: Ask) -> list[str]:
    """The names that the Python of docs/integrations.md leaves behind."""
    names: dict[str, object] = {"query": ask.query, "documents": ask.documents}
    exec(compile(ask.source, "docs/integrations.md", "exec"), names)
    return sorted(names)


def real_cross_encoder(ask: Ask) -> dict[str, object]:
    """What sentence-transformers' own class gives, and whose arguments have which names."""
    from inspect import signature

    from sentence_transformers import CrossEncoder

    from edgerank.integrations import sentence_transformers as ours

    encoder = CrossEncoder(ask.bundle, device="cpu")  # a checkpoint here
    pairs = [(ask.query, document) for document in ask.documents]
    return {
        "predict": encoder.predict(pairs).tolist(),
        "one": float(encoder.predict(pairs[0])),
        "rank": encoder.rank(ask.query, ask.documents, top_k=2, return_documents=True),
        "arguments": {
            name: [
                [p for p in signature(getattr(kind, name)).parameters if p != "kwargs"]
                for kind in (CrossEncoder, ours.CrossEncoder)
            ]
            for name in ("predict", "rank")
        },
    }


if __name__ == "__main__":
    run(globals())
