"""Whether ONNX Runtime computes a whole graph on CUDA, found without a GPU at hand.

A node runs on the CPU for one of two reasons. CUDA may have no kernel of its version and types. Or
ONNX Runtime keeps it there by design: what computes with sizes, which kernels read on the CPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto

from edgerank.providers import SHAPE_OPERATORS
from quantize.errors import QuantizeError
from quantize.graph.builder import HALVES
from quantize.graph.kernels import kernels_of
from quantize.graph.value_types import TypedNode, typed_nodes

# inputs that kernels for CUDA read on the CPU, by place
HOST_INPUTS = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Expand": (1,),
    "OneHot": (1, 2),
    "Pad": (1, 2, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
}
HOST_OUTPUTS = ("Shape", "Size")  # that give sizes out on the CPU
SMALL = 100  # numbers of an initializer that ONNX Runtime copies wherever they are needed


def check_placement(path: Path) -> None:
    """Check that CUDA computes all of a graph but arithmetic of sizes.

    :raises QuantizeError: ONNX Runtime would compute more of it on the CPU
    """
    model = onnx.load(path, load_external_data=False)
    missing = missing_kernels(model)
    if missing:
        named = ", ".join(f"{what} ({count} times)" for what, count in missing.items())
        raise QuantizeError(
            f"{path}: ONNX Runtime has no CUDA kernel for {named}; write this model for the CPU"
        )
    others = {node.op_type for node in host_nodes(model)} - SHAPE_OPERATORS
    if others:
        raise QuantizeError(
            f"{path}: ONNX Runtime would keep {', '.join(sorted(others))} on the CPU; write this"
            " model for the CPU"
        )


def host_nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that ONNX Runtime keeps on the CPU though CUDA has kernels for them.

    They read sizes and nothing that is computed on the GPU (``GetCpuPreferredNodes``).
    """
    _, types = typed_nodes(model)
    there = {value.name for value in model.graph.input}
    there |= {tensor.name for tensor in model.graph.initializer if prod(tensor.dims) <= SMALL}
    sizes: set[str] = set()  # on the CPU
    for node in model.graph.node:
        if node.op_type in HOST_OUTPUTS:
            sizes.update(node.output)
            continue
        inputs = [(place, name) for place, name in enumerate(node.input) if name]
        read = [place for place, name in inputs if name in sizes]
        if (
            read
            and all(name in sizes or name in there for _, name in inputs)
            and not any(types[name] in HALVES for _, name in inputs)
            and set(read).isdisjoint(HOST_INPUTS.get(node.op_type, ()))
        ):
            sizes.update(node.output)
            yield node


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
