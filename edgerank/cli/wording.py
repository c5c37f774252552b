"""Words of the command line: input errors in its terms, and numbers of things."""

from __future__ import annotations

from edgerank.errors import Remedy
from edgerank.wording import Wording

OPTIONS = (  # parameters in Python that are options of a command, by the same name
    "corpus",
    "extra",
    "family",
    "format",
    "input_format",
    "instruction",
    "keep_fp32",
    "kernels",
    "listen",
    "long_documents",
    "max_bad_rows",
    "max_length",
    "metrics",
    "model",
    "platform",
    "precision",
    "processes",
    "python",
    "queries",
    "shard_pairs",
    "store",
    "template",
    "threads",
    "timeout",
    "top_k",
    "trust",
    "wheel",
)


def counted(count: int, noun: str) -> str:
    """Name so many things: "1 shard", "2,000 shards", "2 queries"."""
    if count == 1:
        return f"1 {noun}"
    plural = f"{noun.removesuffix('y')}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count:,} {plural}"


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"


def _advise(remedy: Remedy) -> str:
    return f"use {_flag(remedy.option)} {' or '.join(remedy.values)}"


WORDING = Wording(
    {
        "query": "QUERY",
        "scripts": "--script",
        "target": "--server",
        "token": "--token-file",
        **{option: _flag(option) for option in OPTIONS},
    },
    _advise,
)
