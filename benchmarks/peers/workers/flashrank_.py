"""flashrank's Ranker, which finds a model of one of its names in the directory that it is given.

It takes no threads: what it opens its session with is given them here. Its score is a sigmoid,
undone here to compare logits.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
from pathlib import Path

import worker

NAME, FILE = "ms-marco-MiniLM-L-12-v2", "flashrank-MiniLM-L-12-v2_Q.onnx"  # of its catalogue


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    """Export with optimum and lay the files out as in the archives that it downloads."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from optimum.exporters.onnx import main_export

    target = work / NAME
    main_export(str(checkpoint), target, task="text-classification")
    full = target / "model.onnx"
    if setting == "int8":
        quantize_dynamic(full, target / FILE, weight_type=QuantType.QInt8)
        full.unlink()
    else:
        full.rename(target / FILE)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        shutil.copyfile(checkpoint / name, target / name)
    options = json.loads((target / "tokenizer_config.json").read_text())
    tokens = {key: options[key] for key in options if key.endswith("_token")}
    (target / "special_tokens_map.json").write_text(json.dumps(tokens))
    (target / "vocab.txt").unlink(missing_ok=True)  # newer tokenizers have no such attribute


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    import onnxruntime
    from flashrank import Ranker, RerankRequest

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = functools.partial(onnxruntime.InferenceSession, sess_options=options)
    onnxruntime.InferenceSession = session
    ranker = Ranker(model_name=NAME, cache_dir=str(work), log_level="WARNING")

    def score(query: str, documents: list[str]) -> list[float]:
        passages = [{"id": index, "text": text} for index, text in enumerate(documents)]
        hits = ranker.rerank(RerankRequest(query=query, passages=passages))
        by_place = {hit["id"]: float(hit["score"]) for hit in hits}
        return [math.log(p / (1 - p)) for p in (by_place[i] for i in range(len(documents)))]

    return worker.Model(worker.one_after_another(score), sorted((work / NAME).glob("*.onnx*")))


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["flashrank"],
        distributions=["flashrank", "onnxruntime", "tokenizers", "numpy"],
    )
