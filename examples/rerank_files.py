"""Rank the text files of a directory: python examples/rerank_files.py QUERY DIRECTORY

Each file is one document. A long file is scored in parts and gets the best of their scores.
"""

import sys
from pathlib import Path

from edgerank import Reranker


def main(query: str, directory: str) -> None:
    paths = sorted(path for path in Path(directory).rglob("*") if path.suffix in (".md", ".txt"))
    documents = [
        {"title": path.stem, "text": path.read_text("utf-8", errors="replace")} for path in paths
    ]
    with Reranker() as reranker:
        for hit in reranker.rank(query, documents, top_k=5, long_documents="split"):
            print(f"{hit.score:.3f}  {paths[hit.index]}")


if __name__ == "__main__":
    main(*sys.argv[1:])
