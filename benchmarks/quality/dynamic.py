"""ONNX Runtime's own dynamic quantization, for comparison: a bundle made from a float32 bundle."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from edgerank.bundle import Bundle, describe_files, read_bundle, write_manifest
from edgerank.files import atomic_directory
from edgerank.manifest import CPU_PROVIDER, Needs, Variant


def dynamic_bundle(fp32_bundle: Path, target: Path) -> Path:
    """Quantize every MatMul per tensor, as ``quantize_dynamic`` does unless told otherwise.

    What is there already is kept: the bundle's path, in any case. DeBERTa's runs with stock
    operators alone, as shapes that the compiled ones need are dropped.
    """
    if not target.exists():
        with atomic_directory(target, lambda _: False) as directory:
            _write(read_bundle(fp32_bundle), directory)
    return target


def _write(source: Bundle, target: Path) -> None:
    name = "model.dynamic.onnx"
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole.onnx"  # the quantizer wants the weights in the file
        onnx.save(_without_shapes(onnx.load(source.graph_path(source.manifest.variants[0]))), whole)
        quantize_dynamic(
            whole,
            target / name,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul", "Gather"],
            extra_options={
                "MatMulConstBOnly": True,
                "DefaultTensorType": onnx.TensorProto.FLOAT,  # behind operators without shapes
            },
        )
    shutil.copyfile(source.tokenizer_path, target / "tokenizer.json")
    variant = Variant(
        name="dynamic",
        precision="int8",
        provider=CPU_PROVIDER,
        recipe="ONNX Runtime's quantize_dynamic",
        graph=name,
        weights=(),
        needs=Needs(),
        fidelity=None,
        kept=None,
    )
    manifest = msgspec.structs.replace(
        source.manifest, variants=(variant,), files=describe_files(target)
    )
    write_manifest(target, manifest)


def _without_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    del model.graph.value_info[:]
    return model
