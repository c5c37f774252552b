"""The benchmarks by group. NAME is ``benchmarks/<group>/<name>.py`` and its function ``measure``.

``measure`` has click's options, and returns or yields rows; the first line of its module's
docstring is the question that it answers.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

GROUPS = {
    "micro": ("compiled", "operators", "attention", "numba"),
    "model": (
        "batch",
        "engine",
        "kernels",
        "neighbour",
        "opening",
        "pack",
        "quantizing",
        "architectures",
        "published-speed",
        "ray",
        "slices",
        "store",
        "store-memory",
        "store-peers",
        "transforms",
        "cuda",
    ),
    "quality": (
        "precisions",
        "relevance-prompt",
        "recipe",
        "bfloat16",
        "outliers",
        "long-documents",
        "size-curve",
        "stored",
        "store-bits",
        "published",
    ),
    "serving": ("throughput", "load", "fairness", "capacity"),
    "peers": ("peers", "scaling"),
}
TITLES = {
    "micro": "operators and kernels by themselves",
    "model": "whole models: speed, memory and start-up",
    "quality": "ranking quality and agreement of scores",
    "serving": "the server under load",
    "peers": "edgerank beside other engines",
}


def names() -> Iterator[tuple[str, str]]:
    """Yield group and name of every benchmark, in order."""
    for group, members in GROUPS.items():
        for name in members:
            yield group, name


def source(group: str, name: str) -> Path:
    return Path(__file__).parent / group / f"{name.replace('-', '_')}.py"


def question(group: str, name: str) -> str:
    """Read a benchmark's question without importing what it needs."""
    docstring = ast.get_docstring(ast.parse(source(group, name).read_bytes()))
    return (docstring or "").splitlines()[0]


def load(group: str, name: str) -> ModuleType:
    return import_module(f"benchmarks.{group}.{source(group, name).stem}")
