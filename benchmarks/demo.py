"""The demo: the model in the package ranks the docstrings of Python's standard library."""

from __future__ import annotations

import importlib
import inspect
import statistics
import time

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgerank import Reranker

MODULES = """bisect calendar collections csv datetime functools glob gzip heapq html itertools json
math os os.path pathlib random re shutil socket statistics string subprocess tempfile textwrap
threading time urllib.parse uuid zipfile"""
QUERIES = (
    "delete a folder and everything in it",
    "how do I find the middle value of some numbers?",
    "wrap long lines of text",
    "run another program and read what it prints",
)
SHOWN = 3
ROUNDS = 3


def standard_library() -> list[str]:
    """Describe every documented function and class of some modules: "name: first paragraph"."""
    documents = {}
    for module_name in MODULES.split():
        module = importlib.import_module(module_name)
        for name, member in sorted(vars(module).items()):
            if name.startswith("_") or not (inspect.isroutine(member) or inspect.isclass(member)):
                continue
            paragraph = " ".join((inspect.getdoc(member) or "").split("\n\n")[0].split())
            if len(paragraph) > 20:
                documents[paragraph] = f"{module_name}.{name}: {paragraph}"
    return list(documents.values())


def main() -> None:
    console = Console(highlight=False)
    documents = standard_library()
    start = time.perf_counter()
    reranker = Reranker()
    opened = time.perf_counter() - start
    console.print(
        f"{len(documents)} documents: docstrings of Python's standard library."
        f" The model: {reranker.bundle.size / 1e6:.1f} MB, opened in {opened:.2f} s\n"
    )
    for query in QUERIES:
        table = Table(title=query, title_justify="left", expand=True)
        table.add_column("score", no_wrap=True)
        table.add_column("document", no_wrap=True, overflow="ellipsis", ratio=1)
        for hit in reranker.rank(query, documents, top_k=SHOWN):
            table.add_row(f"{hit.score:.3f}", Text(documents[hit.index]))
        console.print(table)
    seconds = []
    for query in QUERIES * ROUNDS:
        start = time.perf_counter()
        reranker.score(query, documents)
        seconds.append(time.perf_counter() - start)
    console.print(
        f"one query, {len(documents)} documents: {statistics.median(seconds) * 1e3:.0f} ms"
    )


if __name__ == "__main__":
    main()
