"""A peer for tests of the benchmarks' harness: it speaks the workers' protocol, or breaks it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import worker


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    if setting == "unable":
        raise worker.CannotRunError("no model of this kind\nand more that nobody needs")
    (work / "converted").write_text(setting)


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    print("a library that prints what nobody asked for")  # noqa: T201
    if setting == "crash at load":
        raise RuntimeError("the file is damaged")

    def score(query: str, documents: list[str]) -> list[float]:
        if setting == "crash at work" and query == "go":
            print("out of memory", file=sys.stderr)  # noqa: T201
            os._exit(9)
        if setting == "error" and query == "go":
            raise ValueError("too long")
        if setting == "short" and query == "go":
            return [0.0]
        time.sleep(60 if setting == "hang" and query == "go" else 0.01)
        return [len(text) for text in documents]

    return worker.Model(worker.one_after_another(score), [work / "converted"])


if __name__ == "__main__":
    worker.run(load, prepare, modules=["json"], distributions=["pytest"])
