"""OpenVINO, its models by optimum-intel and NNCF; run by the runtime alone.

Batches of like length are padded, as the runtime has no other. A decoder's query is computed once:
its state serves the documents through beam_idx, which repeats it for each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import worker

F32 = {"INFERENCE_PRECISION_HINT": "f32"}
OPTIONS = {  # beyond optimum-intel's own
    "int8-dynamic": {**F32, "DYNAMIC_QUANTIZATION_GROUP_SIZE": "128"},
    "fp32-f32": F32,
}
BATCH_TOKENS = {"decoder": 1024, "encoder": 1024}
Inputs = dict[str, Any]


def is_decoder(checkpoint: Path) -> bool:
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return bool(config["model_type"] == "qwen2")


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    # PyPI's torchvision does not load beside a CPU build of torch, and nothing here needs it
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    import nncf
    import openvino
    from optimum.intel import OVModelForCausalLM, OVModelForSequenceClassification

    decodes = is_decoder(checkpoint)
    kind = OVModelForCausalLM if decodes else OVModelForSequenceClassification
    exported = kind.from_pretrained(checkpoint, export=True, compile=False, load_in_8bit=False)
    model = exported.model
    if decodes:
        score_last(model)
    if setting in ("int8-weights", "int8-dynamic"):
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    elif setting == "int8":
        names = {name for port in model.inputs for name in port.names}
        data = nncf.Dataset(list(calibration(checkpoint, names, decodes)))
        model = nncf.quantize(
            model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION
        )
    openvino.save_model(model, work / "model.xml", compress_to_fp16=not setting.startswith("fp32"))


def score_last(model: Any) -> None:
    """Keep the last position alone before the head, as openvino-genai does."""
    from openvino import opset13

    (head,) = (port.get_node() for port in model.outputs if "logits" in port.names)
    product = head.input_value(0).get_node()
    while product.get_type_name() != "MatMul":
        product = product.input_value(0).get_node()
    last = opset13.gather(product.input_value(0), opset13.constant([-1]), opset13.constant(1))
    product.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


CALIBRATION = 64


def calibration(checkpoint: Path, names: set[str], decodes: bool) -> Iterator[Inputs]:
    """Yield inputs of text at hand: paragraphs of the standard library's documentation."""
    import pydoc_data.topics

    topics = list(pydoc_data.topics.topics.values())
    texts = [part for topic in topics for part in topic.split("\n\n") if 200 < len(part) < 1000]
    tokenizer = read_tokenizer(checkpoint, decodes)
    step = len(texts) // CALIBRATION
    for text in texts[: step * CALIBRATION : step]:
        query, document = " ".join(text.split()[:8]), text
        if decodes:
            prefix = worker.encode(tokenizer, worker.QUERY, query=query)
            tail = worker.encode(tokenizer, worker.DOCUMENT, document=document)
            yield decoder_inputs([prefix + tail], 0, names)
        else:
            yield encoder_inputs(tokenizer.encode_batch([(query, document)]), names)


def read_tokenizer(checkpoint: Path, decodes: bool) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation() if decodes else tokenizer.enable_truncation(512)
    return tokenizer


def decoder_inputs(rows: Sequence[Sequence[int]], past: int, names: set[str]) -> Inputs:
    """Pad on the left, between what is past and the rows, so that the last token is the last."""
    import numpy as np

    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.ones((len(rows), past + longest), np.int64)
    positions = np.zeros_like(ids)
    for place, row in enumerate(rows):
        pad = longest - len(row)
        ids[place, pad:] = row
        mask[place, past : past + pad] = 0
        positions[place, pad:] = np.arange(past, past + len(row))
    inputs: Inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    inputs["beam_idx"] = np.zeros(len(rows), np.int32)  # all go on from the first row's state
    return {name: values for name, values in inputs.items() if name in names}


def encoder_inputs(encodings: Sequence[Any], names: set[str]) -> Inputs:
    import numpy as np

    longest = max(len(encoding.ids) for encoding in encodings)
    inputs = {name: np.zeros((len(encodings), longest), np.int64) for name in names}
    for place, encoding in enumerate(encodings):
        count = len(encoding.ids)
        inputs["input_ids"][place, :count] = encoding.ids
        inputs["attention_mask"][place, :count] = 1
        if "token_type_ids" in names:
            inputs["token_type_ids"][place, :count] = encoding.type_ids
    return inputs


def batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Put rows of like length together, up to so many tokens with their padding."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and lengths[index] * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    import openvino

    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    options |= OPTIONS.get(setting, {})
    compiled = openvino.Core().compile_model(work / "model.xml", "CPU", options)
    names = {name for port in compiled.inputs for name in port.names}
    decodes = is_decoder(checkpoint)
    tokenizer = read_tokenizer(checkpoint, decodes)
    request = compiled.create_infer_request()
    most = BATCH_TOKENS["decoder" if decodes else "encoder"]

    def score(query: str, documents: list[str]) -> list[float]:
        yes, no = (tokenizer.token_to_id(answer) for answer in "10")
        prefix = worker.encode(tokenizer, worker.QUERY, query=query)
        tails = [worker.encode(tokenizer, worker.DOCUMENT, document=text) for text in documents]
        scores = [0.0] * len(tails)
        request.reset_state()
        request.infer(decoder_inputs([prefix], 0, names))
        states = request.query_state()
        kept = [openvino.Tensor(state.state.data.copy()) for state in states]
        for batch in batches([len(tail) for tail in tails], most):
            for state, values in zip(states, kept, strict=True):
                state.state = values
            rows = [tails[index] for index in batch]
            logits = request.infer(decoder_inputs(rows, len(prefix), names))["logits"][:, -1]
            for index, row in zip(batch, logits, strict=True):
                scores[index] = float(row[yes]) - float(row[no])
        return scores

    def score_pairs(pairs: list[tuple[str, str]]) -> list[float]:
        encodings = tokenizer.encode_batch(pairs)
        scores = [0.0] * len(pairs)
        for batch in batches([len(encoding.ids) for encoding in encodings], most):
            inputs = encoder_inputs([encodings[index] for index in batch], names)
            for index, row in zip(batch, request.infer(inputs)[0], strict=True):
                scores[index] = float(row[0])
        return scores

    files = [work / "model.xml", work / "model.bin"]
    if decodes:
        return worker.Model(worker.one_after_another(score), files)
    return worker.Model(worker.as_pairs(score_pairs), files)


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["openvino", "tokenizers"],
        distributions=["openvino", "tokenizers", "numpy"],
    )
