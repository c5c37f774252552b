"""A LlamaIndex query engine whose nodes edgerank ranks: pip install llama-index-core"""

from llama_index.core import Document, Settings, SummaryIndex
from llama_index.core.llms import MockLLM

from edgerank.integrations.llama_index import EdgerankPostprocessor

TEXTS = [
    "Paris is the capital of France.",
    "Dunes are hills of sand that the wind has built.",
    "Dune is a novel by Frank Herbert. It appeared in 1965.",
]


def main() -> None:
    Settings.llm = MockLLM()  # your language model
    index = SummaryIndex.from_documents([Document(text=text) for text in TEXTS])
    engine = index.as_query_engine(
        response_mode="no_text",  # only the sources; leave it out for an answer
        node_postprocessors=[EdgerankPostprocessor(top_n=1)],
    )
    for node in engine.query("who wrote dune?").source_nodes:
        print(f"{node.score:.3f}  {node.text}")


if __name__ == "__main__":
    main()
