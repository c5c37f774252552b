"""Who is compared: each peer's pinned environment, its settings, and what it can run."""

from __future__ import annotations

from dataclasses import dataclass

# families of workloads
DECODER, BERT, DEBERTA, MODERNBERT = "decoder", "bert", "deberta", "modernbert"
ENCODERS = (BERT, DEBERTA, MODERNBERT)
TORCH = ("torch==2.13.0", "transformers==4.57.6")


@dataclass(frozen=True)
class Setting:
    """One way to run a peer."""

    name: str
    families: tuple[str, ...]
    note: str  # whose default it is, or where the documentation recommends it
    is_quick: bool = True  # else in the full set alone


@dataclass(frozen=True)
class Environment:
    """A virtual environment."""

    name: str
    requirements: tuple[str, ...]  # of pip; "-e ." is this repository


@dataclass(frozen=True)
class Peer:
    """A peer: its worker is workers/<script>.py, run by its own environment's Python."""

    name: str
    script: str
    environment: Environment
    settings: tuple[Setting, ...]
    absent: str  # why it, or a setting of it, does not run the other families
    converter: Environment | None = None  # what converts its models, where that is another


def _pinned(name: str) -> Environment:
    return Environment(name, (f"-r benchmarks/peers/requirements/{name}.txt",))


OPTIMUM = _pinned("optimum")
BATCHED = "documents in batches behind the shared query"
ONE_BY_ONE = "one document a call, as Llama() sets it up"
NOT_IN_CATALOGUE = "its catalogue has no model of this family"
BASELINE = "edgerank", "int8"  # what ratios are to
REFERENCES = {  # float32 on torch: what scores are compared with
    DECODER: ("mxbai-rerank", "fp32"),
    BERT: ("sentence-transformers", "torch"),
    DEBERTA: ("sentence-transformers", "torch"),
    MODERNBERT: ("sentence-transformers", "torch"),
}

PEERS = (
    Peer(
        "edgerank",
        "edgerank_",
        Environment("edgerank", ("-e .",)),
        (
            Setting("int8", (DECODER, *ENCODERS), "default"),
            Setting("int8-stock", (DECODER, *ENCODERS), "ONNX Runtime's operators alone"),
            Setting("int8-fine", (DECODER, *ENCODERS), "more exact, twice as large"),
            Setting("int4", (DECODER, *ENCODERS), "for boxes short of memory", is_quick=False),
        ),
        "",
        converter=Environment("edgerank-converter", ("-e .[quantize]",)),
    ),
    Peer(
        "mxbai-rerank",
        "mxbai_rerank_",
        Environment("mxbai-rerank", (*TORCH, "mxbai-rerank==0.1.6")),
        (
            Setting("fp32", (DECODER,), "default: bfloat16 becomes it on a CPU; the reference"),
            Setting("bf16", (DECODER,), "the checkpoint's dtype, which the package avoids here"),
        ),
        "its MxbaiRerankV1 is sentence-transformers' CrossEncoder, which is here",
    ),
    Peer(
        "sentence-transformers",
        "sentence_transformers_",
        Environment("sentence-transformers", (*TORCH, "sentence-transformers[onnx]==5.7.0")),
        (
            Setting("torch", ENCODERS, "default; the reference"),
            Setting("onnx", ENCODERS, "backend='onnx', recommended for CPU"),
            Setting("onnx-int8", ENCODERS, "export_dynamic_quantized_onnx_model, recommended"),
        ),
        "a decoder of this family is no sequence classifier; its own package runs it",
    ),
    Peer(
        "sentence-transformers-openvino",
        "sentence_transformers_",
        Environment(
            "sentence-transformers-openvino",
            ("--no-deps", "-r benchmarks/peers/requirements/sentence-transformers-openvino.txt"),
        ),
        (
            Setting("openvino", ENCODERS, "backend='openvino', recommended for CPU", False),
            Setting("openvino-int8", ENCODERS, "its static int8 export", False),
        ),
        "a decoder of this family is no sequence classifier; its own package runs it",
    ),
    Peer(
        "optimum",
        "optimum_",
        OPTIMUM,
        (
            Setting("int8", ENCODERS, "AutoQuantizationConfig.avx512_vnni, its default scales"),
            Setting("int8-per-channel", ENCODERS, "per_channel=True", is_quick=False),
        ),
        "ORTModelForSequenceClassification wants a classifier, which this family has not;"
        " ORTModelForCausalLM, whose graph ends in a whole vocabulary's logits, is not set up here",
    ),
    Peer(
        "openvino",
        "openvino_",
        _pinned("openvino"),
        (
            Setting("int8", ENCODERS, "NNCF's post-training quantization, recommended"),
            Setting("int8-dynamic", (DECODER, *ENCODERS), "int8 weights, dynamic quantization"),
            Setting(
                "int8-weights", (DECODER, *ENCODERS), "default from 1e9 weights on", is_quick=False
            ),
            Setting("fp32-f32", (DECODER, *ENCODERS), "float32 in float32", is_quick=False),
            Setting("fp32", (DECODER, *ENCODERS), "default below 1e9 weights", is_quick=False),
        ),
        "for decoders, whose keys and values are state, its documentation compresses weights"
        " instead: int8-dynamic",
        converter=_pinned("openvino-converter"),
    ),
    Peer(
        "llama.cpp",
        "llama_cpp_",
        _pinned("llama.cpp"),
        (
            Setting("q8_0", (DECODER, BERT), BATCHED),
            Setting("q4_0", (DECODER, BERT), BATCHED),
            Setting("q8_0-default", (DECODER, BERT), ONE_BY_ONE, is_quick=False),
            Setting("q4_0-default", (DECODER, BERT), ONE_BY_ONE, is_quick=False),
        ),
        "llama.cpp has no architecture deberta-v2; classifiers on ModernBERT are not set up here",
        converter=_pinned("llama.cpp-converter"),
    ),
    Peer(
        "fastembed",
        "fastembed_",
        _pinned("fastembed"),
        (
            Setting("fp32", (BERT,), "default", is_quick=False),
            Setting(
                "int8", (BERT,), "ONNX Runtime's dynamic int8, as in its catalogue", is_quick=False
            ),
            Setting("int8-batch-8", (BERT,), "ONNX Runtime's dynamic int8, in batches of 8"),
        ),
        NOT_IN_CATALOGUE,
        converter=OPTIMUM,
    ),
    Peer(
        "flashrank",
        "flashrank_",
        _pinned("flashrank"),
        (
            Setting("int8", (BERT,), "default"),
            Setting("fp32", (BERT,), "as its TinyBERT is", is_quick=False),
        ),
        NOT_IN_CATALOGUE,
        converter=OPTIMUM,
    ),
)
