"""Run by the environment that has pylate: save checkpoints, and what pylate makes of some texts.

The argument is a file of JSON: a list of {"backbone": a directory, "checkpoint": the directory to
save, "results": an .npz to save, "colbert": arguments of ColBERT, "dense": [[width, whether it has
a residual, activation], ...] or null, "queries": [...], "documents": [...]}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pylate import models, rank, scores
from sentence_transformers.models import Transformer


def save(asked: dict[str, Any]) -> None:
    """Make a model of a backbone, and save it."""
    torch.manual_seed(0)
    if not asked["dense"]:
        model = models.ColBERT(asked["backbone"], device="cpu", **asked["colbert"])
    else:
        modules = [Transformer(asked["backbone"])]
        width = modules[0].get_word_embedding_dimension()
        for out, use_residual, name in asked["dense"]:
            activation = getattr(torch.nn, name)()
            dense = models.Dense(
                width, out, activation_function=activation, use_residual=use_residual
            )
            modules.append(dense)
            width = out
        model = models.ColBERT(modules=modules, device="cpu", **asked["colbert"])
    model.save(asked["checkpoint"])


def read(asked: dict[str, Any]) -> dict[str, np.ndarray]:
    """Open the saved model and read texts with it."""
    model = models.ColBERT(asked["checkpoint"], device="cpu")
    found: dict[str, np.ndarray] = {}
    vectors = {}
    for kind, texts in (("query", asked["queries"]), ("document", asked["documents"])):
        is_query = kind == "query"
        vectors[kind] = model.encode(texts, is_query=is_query, batch_size=3)
        for place, (text, rows) in enumerate(zip(texts, vectors[kind], strict=True)):
            found[f"{kind}.{place}.vectors"] = rows
            prompt = model.prompts.get(model.default_prompt_name, "")
            ids = model.tokenize([prompt + text], is_query=is_query)["input_ids"][0]
            found[f"{kind}.{place}.ids"] = ids.numpy()
    queries, documents = vectors["query"], vectors["document"]
    found["scores"] = np.array(
        [[scores.colbert_scores(q[None], d[None]).item() for d in documents] for q in queries]
    )
    # the least of the largest cosines of a query's tokens
    found["least"] = np.array([[(q @ d.T).max(axis=1).min() for d in documents] for q in queries])
    found["ranked"] = np.zeros_like(found["scores"])
    places = list(range(len(documents)))
    ranked = rank.rerank([places] * len(queries), queries, [documents] * len(queries))
    for row, hits in zip(found["ranked"], ranked, strict=True):
        for hit in hits:
            row[hit["id"]] = hit["score"]
    return found


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        save(each)
        np.savez(each["results"], **read(each))
    print("null")  # noqa: T201
