"""Emulates half precision on a CPU: float32 operators with rounded results.

ONNX Runtime's CPU provider computes few operators in float16 and none in bfloat16. Its kernels for
CUDA add up in float32 and round their results. The graph that is made here from one in half
precision does the same, and reads the same file of weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx
from onnx import TensorProto, helper

from quantize.graph.builder import HALVES
from quantize.graph.value_types import typed_nodes

LARGEST = "largest"  # output: the largest magnitude that was rounded, float32 []
# return their input unchanged
MOVES = frozenset(
    (
        "Concat", "Expand", "Gather", "GatherElements", "Identity", "Reshape", "Slice", "Split",
        "Squeeze", "Transpose", "Unsqueeze",
    )
)  # fmt: skip


@dataclass
class _Emulated:
    """A graph under construction."""

    types: Mapping[str, int]  # of the original's values
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    peaks: list[str] = field(default_factory=list)  # float32 [] each
    floats: dict[str, str] = field(default_factory=dict)  # weights in half precision, as float32
    masks: set[str] = field(default_factory=set)  # values that masks add to logits

    def op(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        name = f"emulated/{output}"
        node = helper.make_node(op_type, inputs, [output], name=name, **attributes)
        self.nodes.append(node)
        return output

    def add(self, node: onnx.NodeProto) -> None:
        """Add a node of the original."""
        reads = [self.floats.get(name, name) for name in node.input]
        if node.op_type == "Where" or (
            node.op_type in ("Add", "Cast") and not self.masks.isdisjoint(node.input)
        ):
            self.masks.update(node.output)
        if node.op_type == "Cast" and self.types[node.input[0]] in HALVES:
            self.op("Identity", reads, node.output[0])  # it is float32 already
            return
        if node.op_type == "Cast" and self.types[node.output[0]] in HALVES:
            self._round(reads[0], node.output[0])
            return
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = reads
        self.nodes.append(copy)
        if node.op_type in MOVES:
            return
        for place, name in enumerate(node.output):
            if self.types[name] in HALVES:
                copy.output[place] = f"{name}/exact"
                self._round(f"{name}/exact", name)

    def _round(self, exact: str, name: str) -> None:
        half = self.op("Cast", [exact], f"{name}/half", to=self.types[name])
        self.op("Cast", [half], name, to=TensorProto.FLOAT)
        if name not in self.masks:
            size = self.op("Abs", [exact], f"{name}/size")
            self.peaks.append(self.op("ReduceMax", [size], f"{name}/peak", keepdims=0))


def emulated(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a graph that computes in float32 what another computes in half precision.

    Its inputs and outputs are float32 where the other's are in half precision, and it has the
    output ``LARGEST`` besides.
    """
    nodes, types = typed_nodes(model)
    made = _Emulated(types)
    for tensor in model.graph.initializer:
        if tensor.data_type in HALVES:
            name = f"{tensor.name}/float"
            made.floats[tensor.name] = made.op("Cast", [tensor.name], name, to=TensorProto.FLOAT)
    for typed in nodes:
        made.add(typed.node)
    made.op("Max", made.peaks, LARGEST)
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    graph.output.append(helper.make_tensor_value_info(LARGEST, TensorProto.FLOAT, []))
    del graph.node[:]
    graph.node.extend(made.nodes)
    return copy
