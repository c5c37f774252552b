"""Rewrites an exported ONNX graph, for the inputs and the rounding of the other graphs.

The exported graph remains padded: inputs on the flat token axis are first gathered into the grid
[B, L], one sequence a row. Its linear layers and embeddings are then written by the same
``Precision`` as those of the architectures; every other node stays as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgerank.session import open_session
from quantize.errors import QuantizeError
from quantize.graph.builder import Graph, reads
from quantize.graph.layers import LEAST_GELU, linear
from quantize.graph.parameters import Matrix
from quantize.graph.precision import Precision
from quantize.graph.substitutes import equal
from quantize.rounding.rounding import Floats

MIN_WIDTH = 16  # narrower matrices, such as the classifier's one row, are left as they are
MIN_TABLE_ROWS = 1024  # smaller tables, such as token types' and most positions', are too
CHANGED_OPERATORS = ("GroupNormalization",)  # have another meaning in our opset
OPTIONAL_INPUTS = {"token_type_ids": "token_types", "position_ids": "positions"}
REQUIRED_INPUTS = ("input_ids", "attention_mask")


@dataclass(frozen=True)
class ExportedGraph:
    """An exported graph with its constants folded."""

    directory: Path  # of the tensors' data
    nodes: Sequence[onnx.NodeProto]
    inputs: Sequence[str]  # int64 [B, L] each
    tensors: Mapping[str, onnx.TensorProto]  # initializers
    parameters: Mapping[str, str]  # by name: the name of the weight in the checkpoint

    def array(self, name: str) -> NDArray[Any]:
        """Load an initializer."""
        return numpy_helper.to_array(self.tensors[name], base_dir=str(self.directory))

    def matrix(self, node: onnx.NodeProto) -> Floats | None:
        """Return the weight [N, K] of a linear layer; None if the node has none to round."""
        if node.op_type not in ("MatMul", "Gemm") or not self._is_wide(node.input[1]):
            return None
        attributes = _attributes(node)
        transposed = attributes.pop("transB", 0)
        if any(attributes.get(key, plain) != plain for key, plain in PLAIN_GEMM.items()):
            return None
        weight = self.array(node.input[1])
        return weight if transposed else weight.T

    def is_table(self, node: onnx.NodeProto) -> bool:
        """Whether a node looks up rows in a table [V, H] that is to be rounded."""
        if node.op_type != "Gather" or not self._is_wide(node.input[0]):
            return False
        if _attributes(node).get("axis", 0):
            return False
        return bool(self.tensors[node.input[0]].dims[0] >= MIN_TABLE_ROWS)

    def name(self, tensor: str) -> str:
        """Name a matrix as its module is named in the checkpoint."""
        return self.parameters.get(tensor, f"{tensor}/matrix").removesuffix(".weight")

    def _is_wide(self, name: str) -> bool:
        tensor = self.tensors.get(name)
        return (
            tensor is not None
            and tensor.data_type == TensorProto.FLOAT
            and len(tensor.dims) == 2
            and min(tensor.dims) >= MIN_WIDTH
        )


PLAIN_GEMM = {"transA": 0, "alpha": 1.0, "beta": 1.0}


def fold(path: Path, scratch: Path) -> ExportedGraph:
    """Read an exported graph, its constants folded by ONNX Runtime.

    :raises QuantizeError: it is not the graph of a cross-encoder, or cannot be read
    """
    original = onnx.load(path, load_external_data=False).graph
    parameters = {tensor.name: tensor.name for tensor in original.initializer}
    for node in original.node:
        if node.op_type in ("Transpose", "Identity", "Cast") and node.input[0] in parameters:
            parameters[node.output[0]] = parameters[node.input[0]]
    folded = scratch / "folded.onnx"
    try:
        # a fused Gemm would read a reshaped copy of what several matrices read
        open_session(path, save_to=folded, without=["MatMulAddFusion"])
    except Exception as error:  # onnxruntime's own errors share no base class
        raise QuantizeError(f"{path}: ONNX Runtime cannot load the export: {error}") from error
    graph = onnx.load(folded, load_external_data=False).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value.name for value in graph.input]
    foreign = {*inputs} - {*REQUIRED_INPUTS, *OPTIONAL_INPUTS}
    if foreign or [value.name for value in graph.output] != ["logits"]:
        raise QuantizeError(
            f"{path}: the export is not that of a cross-encoder: it reads {', '.join(inputs)} and"
            f" puts out {', '.join(value.name for value in graph.output)}"
        )
    changed = [node.op_type for node in graph.node if node.op_type in CHANGED_OPERATORS]
    if changed:
        raise QuantizeError(
            f"{path}: the export has an operator that is not supported: {changed[0]}"
        )
    return ExportedGraph(scratch, list(graph.node), inputs, tensors, parameters)


def write_rewritten(
    exported: ExportedGraph,
    path: Path,
    precision: Precision,
    pad_token_id: int,
    *,
    is_plain: bool = False,
) -> Graph:
    """Write an exported graph that is fed micro-batches and puts out ``scores`` float32 [B].

    :param pad_token_id: what the reference fills empty slots with
    :param is_plain: as ``Graph`` has it
    """
    g = _SharingGraph(path, is_plain=is_plain)
    try:
        _write_inputs(g, exported.inputs, pad_token_id)
        g.scope = "exported"
        gelus = {node.output[0] for node in exported.nodes if node.op_type == "Gelu"}
        tables = {node.input[0] for node in exported.nodes if exported.is_table(node)}
        for node in exported.nodes:
            if (weight := exported.matrix(node)) is not None:
                x, tensor, *bias = node.input
                name = exported.name(tensor) + ("'" if tensor in tables else "")
                least = LEAST_GELU if x in gelus else None
                y = linear(g, precision, x, x, Matrix(name, weight), least=least)
                y = g.cast(y, TensorProto.FLOAT)  # as the other nodes are exported
                for addend in bias:
                    y = g.op("Add", y, _written(g, exported, addend))
                _alias(g, y, node.output[0])
            elif exported.is_table(node):
                tensor, ids = node.input
                y = precision.embedding(g, exported.name(tensor), exported.array(tensor), ids)
                y = g.cast(y, TensorProto.FLOAT)
                _alias(g, y, node.output[0])
            else:
                for value in reads(node):
                    _written(g, exported, value)
                if node.op_type == "Equal" and g.is_plain:
                    _alias(g, equal(g, *node.input), node.output[0])
                else:
                    g.append(node)
        g.output("scores", g.op("Squeeze", "logits", g.constant([1])), ["scored"])
        g.save()
    finally:
        g.close()
    return g


class _SharingGraph(Graph):
    """A graph whose layers may share a weight: the same again under the same name is no error."""

    def __init__(self, path: Path, *, is_plain: bool) -> None:
        super().__init__(path, is_plain=is_plain)
        self._digests: dict[str, bytes] = {}

    def weight(self, name: str, array: NDArray[Any]) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).digest()
        if self._digests.setdefault(name, digest) != digest:
            raise ValueError(f"two weights are named {name}")
        return name if name in self.weights else super().weight(name, array)


def _write_inputs(g: Graph, names: Sequence[str], pad_token_id: int) -> None:
    """Gather the inputs of the flat axis into those of the export, int64 [B, L] each."""
    g.scope = "grid"
    query_rows = g.input("query_rows", TensorProto.INT64, ["sequences", "length"])
    visible = g.input("visible", TensorProto.INT64, ["sequences", "length"])
    length = g.op("Squeeze", g.op("Shape", query_rows, start=1, end=2))
    slots = g.op("Range", g.constant(np.int64(0)), length, g.constant(np.int64(1)))
    # all tokens of a sequence see all of it, and its first slot always holds one
    lengths = g.op("Gather", visible, g.constant([0]), axis=1)
    is_token = g.op("Less", slots, lengths)
    ids = g.op("Gather", g.input("token_ids", TensorProto.INT64, ["tokens"]), query_rows)
    _alias(g, g.op("Where", is_token, ids, g.constant(np.int64(pad_token_id))), "input_ids")
    _alias(g, g.op("Cast", is_token, to=TensorProto.INT64), "attention_mask")
    for name, ours in OPTIONAL_INPUTS.items():
        if name in names:
            flat = g.input(ours, TensorProto.INT64, ["tokens"])
            _alias(g, g.op("Gather", flat, query_rows), name)


def _alias(g: Graph, value: str, name: str) -> None:
    """Give a value the name that the exported nodes know it by; ONNX Runtime removes the node."""
    g.append(helper.make_node("Identity", [value], [name], name=f"alias/{name}"))


def _written(g: Graph, exported: ExportedGraph, value: str) -> str:
    """Write the value under its own name if it is an initializer."""
    return g.weight(value, exported.array(value)) if value in exported.tensors else value


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
