"""fastembed's TextCrossEncoder, by add_custom_model and a local path."""

from __future__ import annotations

import shutil
from pathlib import Path

import worker

NAME = "local/cross-encoder"
BATCH_SIZES = {"fp32": 64, "int8": 64, "int8-batch-8": 8}  # 64 is rerank_pairs's own


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    """Export with optimum, as the models of its catalogue were."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.exporters.onnx import main_export

    main_export(str(checkpoint), work, task="text-classification")
    if setting != "fp32":
        full = work / "full.onnx"
        (work / "model.onnx").rename(full)
        quantize_dynamic(full, work / "model.onnx", weight_type=QuantType.QInt8)
        full.unlink()
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(checkpoint / name, work / name)


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    sources = ModelSource(hf=NAME)  # it wants one, and does not look there
    TextCrossEncoder.add_custom_model(NAME, sources, model_file="model.onnx")
    model = TextCrossEncoder(NAME, threads=threads, specific_model_path=str(work))
    size = BATCH_SIZES[setting]
    score = worker.as_pairs(lambda pairs: list(model.rerank_pairs(pairs, batch_size=size)))
    return worker.Model(score, sorted(work.glob("model.onnx*")))


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["fastembed", "fastembed.rerank.cross_encoder"],
        distributions=["fastembed", "onnxruntime", "tokenizers", "numpy"],
    )
