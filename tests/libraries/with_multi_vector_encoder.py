"""Run by an environment that has sentence-transformers 6.2: save a checkpoint, and what it gives.

with_multi_vector_encoder.py BACKBONE CHECKPOINT ASKED RESULTS: BACKBONE is a directory, or "" if
CHECKPOINT is there and is only read. ASKED is JSON of {"transformer": arguments of Transformer,
"dense": [[width, uses a residual, activation], ...], "mask": arguments of MultiVectorMask,
"encoder": arguments of MultiVectorEncoder, "queries": [...], "documents": [...]}, RESULTS an .npz.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import torch
from sentence_transformers import MultiVectorEncoder
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask


def save(backbone: str, checkpoint: str, wanted: dict[str, Any]) -> None:
    """Build a model of modules and save it."""
    torch.manual_seed(0)
    transformer = Transformer(backbone, **wanted["transformer"])
    modules, width = [transformer], transformer.get_embedding_dimension()
    for out, has_residual, activation in wanted["dense"]:
        modules.append(
            Dense(
                width,
                out,
                bias=False,
                activation_function=getattr(torch.nn, activation)(),
                module_input_name="token_embeddings",
                use_residual=has_residual,
            )
        )
        width = out
    modules += [
        MultiVectorMask(**wanted["mask"]),
        Normalize(module_input_name="token_embeddings"),
    ]
    MultiVectorEncoder(modules=modules, device="cpu", **wanted["encoder"]).save(checkpoint)


def main(backbone: str, checkpoint: str, asked: str, results: str) -> None:
    wanted = json.loads(asked)
    if backbone:
        save(backbone, checkpoint, wanted)
    model = MultiVectorEncoder(checkpoint, device="cpu")
    found: dict[str, np.ndarray] = {}
    queries = model.encode_query(wanted["queries"], batch_size=3, convert_to_numpy=True)
    documents = model.encode_document(wanted["documents"], batch_size=3, convert_to_numpy=True)
    found["scores"] = model.similarity(queries, documents).numpy()
    for kind, texts, vectors in (
        ("query", wanted["queries"], queries),
        ("document", wanted["documents"], documents),
    ):
        for place, (text, rows) in enumerate(zip(texts, vectors, strict=True)):
            found[f"{kind}.{place}.vectors"] = rows
            ids = model.preprocess([text], prompt=model.prompts.get(kind), task=kind)["input_ids"]
            found[f"{kind}.{place}.ids"] = ids[0].numpy()
    np.savez(results, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
