"""Whether ONNX Runtime computes a whole graph on CUDA, without a GPU at hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
from onnx import TensorProto

from quantize.errors import QuantizeError
from quantize.graph.kernels import kernels_of
from quantize.graph.value_types import TypedNode, typed_nodes


def check_placement(path: Path) -> None:
    """Check that each node of a graph has a kernel for CUDA of its version and types.

    :raises QuantizeError: one has none, so that ONNX Runtime would compute it on the CPU
    """
    missing = missing_kernels(onnx.load(path, load_external_data=False))
    if missing:
        named = ", ".join(f"{what} ({count} times)" for what, count in missing.items())
        raise QuantizeError(
            f"{path}: ONNX Runtime has no CUDA kernel for {named}; write this model for the CPU"
        )


def missing_kernels(model: onnx.ModelProto) -> Counter[str]:
    """Count the nodes without a kernel for CUDA, by operator, version and types."""
    nodes, _ = typed_nodes(model)
    return Counter(
        _described(typed)
        for typed in nodes
        if not any(
            kernel.fits(typed.since, typed.bound)
            for kernel in kernels_of(typed.node.domain, typed.node.op_type)
        )
    )


def _described(typed: TypedNode) -> str:
    types = sorted({TensorProto.DataType.Name(each).lower() for each in typed.bound.values()})
    return f"{typed.node.op_type}-{typed.since} of {', '.join(types)}"
