"""optimum's ORTModelForSequenceClassification with its dynamic int8 quantization, in batches.

The loop over batches is the user's to write with this library: texts of like length together, which
its documentation does not ask for but no one would leave out.
"""

from __future__ import annotations

from pathlib import Path

import worker

BATCH_SIZE = 32


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig
    from transformers import AutoTokenizer

    model = ORTModelForSequenceClassification.from_pretrained(checkpoint, export=True)
    config = AutoQuantizationConfig.avx512_vnni(
        is_static=False, per_channel=setting == "int8-per-channel"
    )
    ORTQuantizer.from_pretrained(model).quantize(config, save_dir=work)
    AutoTokenizer.from_pretrained(checkpoint).save_pretrained(work)


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    name = "model_quantized.onnx"
    model = ORTModelForSequenceClassification.from_pretrained(
        work, file_name=name, session_options=options
    )
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

    return worker.Model(worker.as_pairs(score), sorted(work.glob(f"{name}*")))


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["optimum.onnxruntime"],
        distributions=["optimum", "optimum-onnx", "onnxruntime", "torch", "transformers"],
    )
