"""Run by the environment of sentence-transformers 6.2: save checkpoints, and what they give.

The argument is a file of JSON: a list of {"backbone": a directory, or null if the checkpoint is
there, "checkpoint": a directory, "results": an .npz to save, "transformer": arguments of
Transformer, "dense": [[width, whether it has a residual, activation], ...], "mask": arguments of
MultiVectorMask, "encoder": arguments of MultiVectorEncoder, "queries": [...], "documents": [...]}.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask


def save(asked: dict[str, Any]) -> None:
    """Make a model of a backbone, and save it."""
    torch.manual_seed(0)
    transformer = Transformer(asked["backbone"], **asked["transformer"])
    modules, width = [transformer], transformer.get_embedding_dimension()
    for out, use_residual, name in asked["dense"]:
        dense = Dense(
            width,
            out,
            bias=False,
            activation_function=getattr(torch.nn, name)(),
            module_input_name="token_embeddings",
            use_residual=use_residual,
        )
        modules.append(dense)
        width = out
    modules.append(MultiVectorMask(**asked["mask"]))
    modules.append(Normalize(module_input_name="token_embeddings"))
    model = MultiVectorEncoder(modules=modules, device="cpu", **asked["encoder"])
    model.save(asked["checkpoint"])


def read(asked: dict[str, Any]) -> dict[str, np.ndarray]:
    """Open the saved model and read texts with it."""
    model = MultiVectorEncoder(asked["checkpoint"], device="cpu")
    found: dict[str, np.ndarray] = {}
    queries = model.encode_query(asked["queries"], batch_size=3, convert_to_numpy=True)
    documents = model.encode_document(asked["documents"], batch_size=3, convert_to_numpy=True)
    found["scores"] = model.similarity(queries, documents).numpy()
    for kind, texts, vectors in (
        ("query", asked["queries"], queries),
        ("document", asked["documents"], documents),
    ):
        names = [kind] if kind == "query" else ["document", "passage", "corpus"]
        prompt = next((model.prompts[name] for name in names if name in model.prompts), None)
        for place, (text, rows) in enumerate(zip(texts, vectors, strict=True)):
            found[f"{kind}.{place}.vectors"] = rows
            ids = model.preprocess([text], prompt=prompt, task=kind)["input_ids"][0]
            found[f"{kind}.{place}.ids"] = ids.numpy()
    return found


if __name__ == "__main__":
    for each in json.loads(Path(sys.argv[1]).read_text()):
        if each["backbone"]:
            save(each)
        np.savez(each["results"], **read(each))
    print("null")  # noqa: T201
