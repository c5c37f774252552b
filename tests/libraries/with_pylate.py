"""Run by an environment that has pylate: save a checkpoint, and what pylate makes of some texts.

with_pylate.py BACKBONE CHECKPOINT ASKED RESULTS: ASKED is JSON of {"colbert": arguments of ColBERT,
"dense": [[width, uses a residual, activation], ...] or null, "queries": [...], "documents": [...]},
RESULTS an .npz.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from pylate import models, rank, scores
from sentence_transformers.models import Transformer


def main(backbone: str, checkpoint: str, asked: str, results: str) -> None:
    wanted = json.loads(asked)
    torch.manual_seed(0)
    modules = None
    if wanted["dense"]:
        transformer = Transformer(backbone)
        modules, width = [transformer], transformer.get_word_embedding_dimension()
        for out, has_residual, activation in wanted["dense"]:
            act = getattr(torch.nn, activation)()
            modules.append(
                models.Dense(
                    width, out, bias=True, activation_function=act, use_residual=has_residual
                )
            )
            width = out
    model = models.ColBERT(
        None if modules else backbone, modules=modules, device="cpu", **wanted["colbert"]
    )
    model.save(checkpoint)
    model = models.ColBERT(checkpoint, device="cpu")
    found: dict[str, np.ndarray] = {}
    queries, documents = (
        model.encode(wanted[kind], is_query=is_query, batch_size=3)
        for kind, is_query in (("queries", True), ("documents", False))
    )
    pairs = [[scores.colbert_scores(q[None], d[None]).item() for d in documents] for q in queries]
    found["scores"] = np.array(pairs)
    places = list(range(len(documents)))
    ranked = rank.rerank([places] * len(queries), queries, [documents] * len(queries))
    found["ranked"] = np.array([[hit["id"] for hit in hits] for hits in ranked])
    ranked_scores = np.zeros_like(found["scores"])
    for row, hits in zip(ranked_scores, ranked, strict=True):
        for hit in hits:
            row[hit["id"]] = hit["score"]
    found["ranked_scores"] = ranked_scores
    for kind, texts, is_query, vectors in (
        ("query", wanted["queries"], True, queries),
        ("document", wanted["documents"], False, documents),
    ):
        for place, (text, rows) in enumerate(zip(texts, vectors, strict=True)):
            found[f"{kind}.{place}.vectors"] = rows
            ids = model.tokenize([text], is_query=is_query)["input_ids"][0]
            found[f"{kind}.{place}.ids"] = ids.numpy()
    np.savez(results, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
