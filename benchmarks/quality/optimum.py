"""optimum's export and dynamic quantization of an embedding model, run by optimum."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTQuantizer
from optimum.onnxruntime.configuration import AutoQuantizationConfig
from transformers import AutoTokenizer

from benchmarks.quality.rescoring import Scorer

BATCH_SIZE = 32


def write_optimum(checkpoint: str, directory: Path) -> Path:
    """Export and quantize per tensor, which is its default: the path of the graph."""
    model = ORTModelForFeatureExtraction.from_pretrained(checkpoint, export=True)
    model.save_pretrained(directory)
    config = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=False)
    ORTQuantizer.from_pretrained(model).quantize(config, save_dir=directory)
    return directory / "model_quantized.onnx"


def optimum_scorer(graph: Path, checkpoint: str, max_length: int) -> Scorer:
    """Cosines of mean-pooled embeddings; each text of a call is embedded once, like with like."""
    model = ORTModelForFeatureExtraction.from_pretrained(graph.parent, file_name=graph.name)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)

    def embed(texts: list[str]) -> np.ndarray:
        batch = tokenizer(
            texts, padding=True, truncation=True, max_length=max_length, return_tensors="np"
        )
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        pooled = (states * mask).sum(axis=1) / mask.sum(axis=1)
        vectors: np.ndarray = pooled / np.linalg.norm(pooled, axis=1, keepdims=True)
        return vectors

    def score(pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        texts = sorted({text for pair in pairs for text in pair}, key=len)
        batches = [texts[first : first + BATCH_SIZE] for first in range(0, len(texts), BATCH_SIZE)]
        vectors = np.concatenate([embed(batch) for batch in batches])
        place = {text: index for index, text in enumerate(texts)}
        queries, documents = (
            vectors[[place[text] for text in side]] for side in zip(*pairs, strict=True)
        )
        cosines: np.ndarray = (queries * documents).sum(axis=1)
        return cosines

    return score
