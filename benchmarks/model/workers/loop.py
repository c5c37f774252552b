"""A plain loop over Reranker.score: loop.py INPUT.jsonl BUNDLE THREADS OUTPUT.jsonl"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(source: str, bundle: str, threads: str, target: str) -> None:
    from edgerank import Reranker

    reranker = Reranker(bundle, threads=int(threads))
    with open(source) as rows, Path(target).open("w") as scored:
        for row in map(json.loads, rows):
            scores = reranker.score(row["query"], row["documents"]).tolist()
            print(json.dumps({"id": row["id"], "scores": scores}), file=scored)


if __name__ == "__main__":
    main(*sys.argv[1:])
