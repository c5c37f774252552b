"""optimum's dynamic int8 quantization of a cross-encoder or an embedding model, in batches.

The loop over batches is the user's to write with this library: texts of like length together, which
its documentation does not ask for but no one would leave out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import worker

BATCH_SIZE = 32


def model_class(checkpoint: Path) -> Any:
    from optimum.onnxruntime import ORTModelForFeatureExtraction, ORTModelForSequenceClassification

    embeds = worker.embeds(checkpoint)
    return ORTModelForFeatureExtraction if embeds else ORTModelForSequenceClassification


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer

    model = model_class(checkpoint).from_pretrained(checkpoint, export=True)
    config = AutoQuantizationConfig.avx512_vnni(
        is_static=False, per_channel=setting == "int8-per-channel"
    )
    ORTQuantizer.from_pretrained(model).quantize(config, save_dir=work)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(work)


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    import onnxruntime
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    name = "model_quantized.onnx"
    model = model_class(checkpoint).from_pretrained(work, file_name=name, session_options=options)
    tokenizer = AutoTokenizer.from_pretrained(work)

    def score(pairs: list[tuple[str, str]]) -> list[float]:
        order = sorted(range(len(pairs)), key=lambda index: sum(map(len, pairs[index])))
        scores = [0.0] * len(pairs)
        for first in range(0, len(order), BATCH_SIZE):
            places = order[first : first + BATCH_SIZE]
            batch = tokenizer(
                [pairs[place][0] for place in places],
                [pairs[place][1] for place in places],
                padding=True,
                truncation=True,
                return_tensors="np",
            )
            for place, logit in zip(places, model(**batch).logits[:, 0], strict=True):
                scores[place] = float(logit)
        return scores

    def embed(texts: Sequence[str]) -> Any:
        import numpy as np

        length, vectors = worker.max_length(checkpoint), []
        for first in range(0, len(texts), BATCH_SIZE):
            batch = tokenizer(
                list(texts[first : first + BATCH_SIZE]),
                padding=True,
                truncation=True,
                max_length=length,
                return_tensors="np",
            )
            states = model(**batch).last_hidden_state
            vectors.append(worker.mean_pooled(states, batch["attention_mask"]))
        return np.concatenate(vectors)

    scored = worker.as_cosines(embed) if worker.embeds(checkpoint) else worker.as_pairs(score)
    return worker.Model(scored, sorted(work.glob(f"{name}*")))


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["optimum.onnxruntime"],
        distributions=["optimum", "optimum-onnx", "onnxruntime", "torch", "transformers"],
    )
