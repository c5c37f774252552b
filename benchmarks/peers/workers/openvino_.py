"""OpenVINO, its models by optimum-intel and NNCF; run by the runtime alone.

Batches of like length are padded, as the runtime has no other. A decoder's query is computed once:
its state serves the documents through beam_idx, which repeats it for each.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
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


def decoder_prompt(checkpoint: Path) -> worker.Prompt | None:
    """Return what a decoder is asked, None for encoders."""
    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text())
    return worker.PROMPTS.get(config["model_type"])


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    # PyPI's torchvision does not load beside a CPU build of torch, and nothing here needs it
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    import nncf
    import openvino
    from optimum import intel

    decodes = decoder_prompt(checkpoint) is not None
    if decodes:
        kind = intel.OVModelForCausalLM
    elif worker.embeds(checkpoint):
        kind = intel.OVModelForFeatureExtraction
    else:
        kind = intel.OVModelForSequenceClassification
    exported = kind.from_pretrained(checkpoint, export=True, compile=False, load_in_8bit=False)
    model = exported.model
    if decodes:
        score_last(model)
    if setting in ("int8-weights", "int8-dynamic"):
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    elif setting == "int8":
        names = {name for port in model.inputs for name in port.names}
        data = nncf.Dataset(list(calibration(checkpoint, names)))
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


def calibration(checkpoint: Path, names: set[str]) -> Iterator[Inputs]:
    """Yield inputs of text at hand: paragraphs of the standard library's documentation."""
    import pydoc_data.topics

    topics = list(pydoc_data.topics.topics.values())
    texts = [part for topic in topics for part in topic.split("\n\n") if 200 < len(part) < 1000]
    prompt = decoder_prompt(checkpoint)
    tokenizer = read_tokenizer(checkpoint)
    step = len(texts) // CALIBRATION
    for text in texts[: step * CALIBRATION : step]:
        query, document = " ".join(text.split()[:8]), text
        if prompt is not None:
            prefix = worker.encode(tokenizer, prompt.query, query=query)
            tail = worker.encode(tokenizer, prompt.document, document=document)
            yield decoder_inputs([prefix + tail], 0, names)
        elif worker.embeds(checkpoint):
            yield encoder_inputs(tokenizer.encode_batch([document]), names)
        else:
            yield encoder_inputs(tokenizer.encode_batch([(query, document)]), names)


def read_tokenizer(checkpoint: Path) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    if decoder_prompt(checkpoint) is not None:
        tokenizer.no_truncation()
    else:
        longest = worker.max_length(checkpoint) if worker.embeds(checkpoint) else 512
        tokenizer.enable_truncation(longest)
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
    prompt = decoder_prompt(checkpoint)
    tokenizer = read_tokenizer(checkpoint)
    request = compiled.create_infer_request()
    files = [work / "model.xml", work / "model.bin"]

    def score_pairs(pairs: list[tuple[str, str]]) -> list[float]:
        return [float(row[0]) for row in in_batches(encoded(pairs))]

    def embed(texts: list[str]) -> Any:
        return in_batches(encoded(texts))

    def encoded(texts: Sequence[Any]) -> Sequence[Any]:
        encodings: Sequence[Any] = tokenizer.encode_batch(texts)
        return encodings

    def in_batches(encodings: Sequence[Any]) -> list[Any]:
        """Return each text's output: logits, or the mean of its hidden states."""
        outputs: list[Any] = [None] * len(encodings)
        for batch in batches(
            [len(encoding.ids) for encoding in encodings], BATCH_TOKENS["encoder"]
        ):
            inputs = encoder_inputs([encodings[index] for index in batch], names)
            output = request.infer(inputs)[0]
            if output.ndim == 3:
                output = worker.mean_pooled(output, inputs["attention_mask"])
            for index, row in zip(batch, output, strict=True):
                outputs[index] = row
        return outputs

    if prompt is not None:
        score = decoder(request, tokenizer, prompt, names)
        return worker.Model(worker.one_after_another(score), files)
    if worker.embeds(checkpoint):
        return worker.Model(worker.as_cosines(embed), files)
    return worker.Model(worker.as_pairs(score_pairs), files)


def decoder(
    request: Any, tokenizer: Any, prompt: worker.Prompt, names: set[str]
) -> Callable[[str, list[str]], list[float]]:
    import openvino

    yes, no = (worker.answer_id(tokenizer, answer) for answer in (prompt.yes, prompt.no))

    def score(query: str, documents: list[str]) -> list[float]:
        prefix = worker.encode(tokenizer, prompt.query, query=query)
        tails = [worker.encode(tokenizer, prompt.document, document=text) for text in documents]
        scores = [0.0] * len(tails)
        request.reset_state()
        request.infer(decoder_inputs([prefix], 0, names))
        states = request.query_state()
        kept = [openvino.Tensor(state.state.data.copy()) for state in states]
        for batch in batches([len(tail) for tail in tails], BATCH_TOKENS["decoder"]):
            for state, values in zip(states, kept, strict=True):
                state.state = values
            rows = [tails[index] for index in batch]
            logits = request.infer(decoder_inputs(rows, len(prefix), names))["logits"][:, -1]
            for index, row in zip(batch, logits, strict=True):
                scores[index] = float(row[yes]) - float(row[no])
        return scores

    return score


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["openvino", "tokenizers"],
        distributions=["openvino", "tokenizers", "numpy"],
    )
