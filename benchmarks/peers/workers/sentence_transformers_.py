"""sentence-transformers on torch, on ONNX Runtime in float32 and int8, on OpenVINO.

A CrossEncoder or, where the checkpoint is an embedding model, a SentenceTransformer.

The int8 export is that of its own ``export_dynamic_quantized_onnx_model``, for the instruction
set that this CPU has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import worker


def quantized_for() -> str:
    """Name the configuration that the documentation gives for this CPU."""
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512_vnni" in flags:
        return "avx512_vnni"
    if "avx512f" in flags:
        return "avx512"
    return "avx2" if "avx2" in flags else "arm64"


def model_class(checkpoint: Path) -> Any:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    return SentenceTransformer if worker.embeds(checkpoint) else CrossEncoder


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    if setting.startswith("torch"):
        return
    if setting == "openvino-int8":
        raise worker.CannotRunError("its int8 export calibrates on a dataset of the model hub")
    from sentence_transformers import export_dynamic_quantized_onnx_model

    kind = model_class(checkpoint)
    if setting == "openvino":
        model = kind(str(checkpoint), backend="openvino", model_kwargs={"export": True})
        model.save_pretrained(str(work))
        return
    model = kind(str(checkpoint), backend="onnx", model_kwargs={"export": True})
    model.save_pretrained(str(work))
    if setting == "onnx-int8":
        export_dynamic_quantized_onnx_model(model, quantized_for(), str(work))


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    import torch

    kind = model_class(checkpoint)
    torch.set_num_threads(threads)
    if setting.startswith("torch"):
        files = sorted(checkpoint.glob("*.safetensors"))
        options = {"torch_dtype": "bfloat16"} if setting == "torch-bf16" else {}
        model = kind(str(checkpoint), device="cpu", model_kwargs=options)
    elif setting == "openvino":
        files = sorted((work / "openvino").iterdir())
        options = {"ov_config": {"INFERENCE_NUM_THREADS": threads}}
        model = kind(str(work), device="cpu", backend="openvino", model_kwargs=options)
    else:
        import onnxruntime

        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = threads
        pattern = "model_q*.onnx" if setting == "onnx-int8" else "model.onnx"
        (graph,) = (work / "onnx").glob(pattern)
        files = sorted(graph.parent.glob(f"{graph.name}*"))
        model = kind(
            str(work),
            device="cpu",
            backend="onnx",
            model_kwargs={
                "file_name": f"onnx/{graph.name}",
                "provider": "CPUExecutionProvider",
                "session_options": session_options,
            },
        )
    score = (
        worker.as_cosines(model.encode)
        if worker.embeds(checkpoint)
        else worker.as_pairs(model.predict)
    )
    return worker.Model(score, files)


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["torch", "sentence_transformers"],
        distributions=[
            *("sentence-transformers", "torch", "transformers", "onnxruntime", "openvino"),
        ],
    )
