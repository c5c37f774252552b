"""Clients from PyPI, unchanged: each function ranks documents with one and gives (index, score).

Runs in the clients' environment: python -m tests.clients.programs NAME
"""

from __future__ import annotations

import json
import subprocess

from tests.clients.ask import Ask, run

Ranks = list[tuple[int, float]]


def cohere_v2(ask: Ask) -> Ranks:
    import cohere

    client = cohere.ClientV2(ask.token, base_url=ask.url)
    response = client.rerank(
        model=ask.model, query=ask.query, documents=ask.documents, max_tokens_per_doc=4096
    )
    assert response.meta.api_version.version == "2"
    return [(result.index, result.relevance_score) for result in response.results]


def cohere_v1(ask: Ask) -> Ranks:
    import cohere

    client = cohere.Client(ask.token, base_url=ask.url)
    documents = [{"text": document} for document in ask.documents]
    response = client.rerank(
        model=ask.model, query=ask.query, documents=documents, return_documents=True
    )
    for result in response.results:
        assert result.document.text == ask.documents[result.index]
    return [(result.index, result.relevance_score) for result in response.results]


def voyageai(ask: Ask) -> Ranks:
    import voyageai

    client = voyageai.Client(ask.token, base_url=f"{ask.url}/v1")
    response = client.rerank(ask.query, ask.documents, model=ask.model, top_k=len(ask.documents))
    assert response.total_tokens > 0
    return [(result.index, result.relevance_score) for result in response.results]


def llama_index_tei(ask: Ask) -> Ranks:
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference

    return _llama_index(
        TextEmbeddingInference(
            top_n=len(ask.documents), base_url=ask.url, auth_token=f"Bearer {ask.token}"
        ),
        ask,
    )


def llama_index_cohere(ask: Ask) -> Ranks:
    from llama_index.postprocessor.cohere_rerank import CohereRerank

    return _llama_index(
        CohereRerank(
            top_n=len(ask.documents), model=ask.model, api_key=ask.token, base_url=ask.url
        ),
        ask,
    )


def llama_index_jina(ask: Ask) -> Ranks:
    from llama_index.postprocessor.jinaai_rerank import JinaRerank

    return _llama_index(
        JinaRerank(
            top_n=len(ask.documents),
            model=ask.model,
            api_key=ask.token,
            base_url=f"{ask.url}/v1",
        ),
        ask,
    )


def langchain_cohere(ask: Ask) -> Ranks:
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    compressor = CohereRerank(
        model=ask.model, cohere_api_key=ask.token, base_url=ask.url, top_n=len(ask.documents)
    )
    documents = [
        Document(text, metadata={"index": index}) for index, text in enumerate(ask.documents)
    ]
    ranked = compressor.compress_documents(documents, ask.query)
    return [(each.metadata["index"], each.metadata["relevance_score"]) for each in ranked]


def litellm_cohere(ask: Ask) -> Ranks:
    return _litellm("cohere", ask, f"{ask.url}/v2/rerank")


def litellm_hosted_vllm(ask: Ask) -> Ranks:
    return _litellm("hosted_vllm", ask, f"{ask.url}/v1")


def litellm_huggingface(ask: Ask) -> Ranks:
    return _litellm("huggingface", ask, ask.url)


def litellm_infinity(ask: Ask) -> Ranks:
    # it expects documents to come back as plain strings, unlike the others
    return _litellm("infinity", ask, f"{ask.url}/v1", return_documents=False)


def litellm_jina_ai(ask: Ask) -> Ranks:
    return _litellm("jina_ai", ask, f"{ask.url}/v1/rerank")


def litellm_voyage(ask: Ask) -> Ranks:
    return _litellm("voyage", ask, ask.url)


def haystack_tei(ask: Ask) -> Ranks:
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker

    return _haystack(
        HuggingFaceTEIRanker(
            url=ask.url, top_k=len(ask.documents), token=Secret.from_token(ask.token)
        ),
        ask,
    )


def haystack_jina(ask: Ask) -> Ranks:
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.jina import JinaRanker

    return _haystack(
        JinaRanker(
            model=ask.model,
            api_key=Secret.from_token(ask.token),
            base_url=f"{ask.url}/v1/rerank",
        ),
        ask,
    )


def haystack_vllm(ask: Ask) -> Ranks:
    from haystack.utils import Secret
    from haystack_integrations.components.rankers.vllm import VLLMRanker

    return _haystack(
        VLLMRanker(
            model=ask.model, api_key=Secret.from_token(ask.token), api_base_url=f"{ask.url}/v1"
        ),
        ask,
    )


def rerankers_cohere(ask: Ask) -> Ranks:
    return _rerankers("cohere", f"{ask.url}/v1/rerank", ask)


def rerankers_jina(ask: Ask) -> Ranks:
    return _rerankers("jina", f"{ask.url}/v1/rerank", ask)


def rerankers_tei(ask: Ask) -> Ranks:
    return _rerankers("text-embeddings-inference", f"{ask.url}/rerank", ask)


def rerankers_voyage(ask: Ask) -> Ranks:
    return _rerankers("voyage", f"{ask.url}/v1/rerank", ask)


def curl(ask: Ask) -> Ranks:
    body = {"model": ask.model, "query": ask.query, "documents": ask.documents}
    command = ["curl", "--silent", "--show-error", "--fail-with-body", f"{ask.url}/v1/rerank"]
    command += ["--header", f"Authorization: Bearer {ask.token}"]
    command += ["--header", "Content-Type: application/json", "--data-binary", "@-"]
    done = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True)
    if done.returncode != 0:
        raise subprocess.SubprocessError(done.stdout)
    results = json.loads(done.stdout)["results"]
    return [(result["index"], result["relevance_score"]) for result in results]


def openai_embeddings(ask: Ask) -> list[list[float]]:
    import openai

    client = openai.OpenAI(api_key=ask.token, base_url=f"{ask.url}/v1", max_retries=0)
    response = client.embeddings.create(model=ask.model, input=ask.documents)
    return [item.embedding for item in response.data]


def _llama_index(postprocessor, ask: Ask) -> Ranks:
    from llama_index.core.schema import NodeWithScore, TextNode

    nodes = [
        NodeWithScore(node=TextNode(id_=str(index), text=text))
        for index, text in enumerate(ask.documents)
    ]
    ranked = postprocessor.postprocess_nodes(nodes, query_str=ask.query)
    return [(int(each.node.node_id), each.score) for each in ranked]


def _litellm(provider: str, ask: Ask, api_base: str, *, return_documents: bool = True) -> Ranks:
    import litellm

    response = litellm.rerank(
        f"{provider}/{ask.model}",
        ask.query,
        ask.documents,
        top_n=len(ask.documents),
        api_base=api_base,
        api_key=ask.token,
        return_documents=return_documents,
    )
    return [(result["index"], result["relevance_score"]) for result in response.results]


def _haystack(ranker, ask: Ask) -> Ranks:
    from haystack import Document

    documents = [Document(id=str(index), content=text) for index, text in enumerate(ask.documents)]
    ranked = ranker.run(query=ask.query, documents=documents)["documents"]
    return [(int(each.id), each.score) for each in ranked]


def _rerankers(provider: str, url: str, ask: Ask) -> Ranks:
    from rerankers.models.api_rankers import APIRanker

    ranked = APIRanker(ask.model, ask.token, provider, url=url).rank(ask.query, ask.documents)
    return [(each.document.doc_id, each.score) for each in ranked]


if __name__ == "__main__":
    run(globals())
