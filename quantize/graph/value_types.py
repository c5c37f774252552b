"""The type of every value of a graph, found from its operators' schemas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from quantize.errors import QuantizeError
from quantize.graph.functions import CONTRIB, OPSET
from quantize.graph.kernels import contrib_parameters

ONNX_TYPES = {
    f"tensor({name.lower()})": value
    for name, value in TensorProto.DataType.items()  # "tensor(float16)": FLOAT16
}


@dataclass(frozen=True)
class Parameter:
    """An input or output in an operator's schema."""

    name: str
    kind: str  # a type, such as "tensor(int64)", or the name of a parameter of types


@dataclass(frozen=True)
class Signature:
    """What an operator reads and gives out; the last of either may stand for several."""

    inputs: Sequence[Parameter]
    outputs: Sequence[Parameter]
    since: int  # version of the opset
    allowed: Mapping[str, Sequence[str]]  # types by the name of the parameter of types


@dataclass(frozen=True)
class TypedNode:
    """A node, and the types that its operator's parameters have there."""

    node: onnx.NodeProto
    since: int
    bound: Mapping[str, int]  # by the names of parameters of types, and of inputs


def typed_nodes(model: onnx.ModelProto) -> tuple[list[TypedNode], dict[str, int]]:
    """Find the types of all values.

    :return: the nodes, and types of ``TensorProto`` by the names of values
    :raises QuantizeError: an operator is unknown, or has branches
    """
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
    typed = []
    for node in graph.node:
        signature = _signature(node)
        bound: dict[str, int] = {}
        for name, parameter in _pairs(node.input, signature.inputs):
            if name:
                bound[parameter.kind] = bound[parameter.name] = types[name]
        given = _given_type(node)
        for name, parameter in _pairs(node.output, signature.outputs):
            kind = parameter.kind
            only = signature.allowed.get(kind, ())
            if kind in ONNX_TYPES:
                types[name] = ONNX_TYPES[kind]
            elif kind in bound:
                types[name] = bound[kind]
            elif given is not None or len(only) == 1:
                types[name] = bound[kind] = given or ONNX_TYPES[only[0]]
            else:
                raise QuantizeError(f"{node.name or node.op_type}: the type of {name} is not known")
        typed.append(TypedNode(node, signature.since, bound))
    return typed, types


def _pairs(
    names: Sequence[str], parameters: Sequence[Parameter]
) -> Iterator[tuple[str, Parameter]]:
    """Pair values with parameters, of which the last may be variadic."""
    for place, name in enumerate(names):
        yield name, parameters[min(place, len(parameters) - 1)]


def _given_type(node: onnx.NodeProto) -> int | None:
    """Return the type of the output that a node's attributes name."""
    attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type == "Cast":
        return int(attributes["to"])
    value = attributes.get("value")
    if isinstance(value, TensorProto):  # of Constant and ConstantOfShape
        return value.data_type
    return TensorProto.FLOAT if node.op_type == "ConstantOfShape" else None


def _signature(node: onnx.NodeProto) -> Signature:
    if any(attribute.HasField("g") for attribute in node.attribute):
        raise QuantizeError(f"{node.name or node.op_type}: an operator with branches")
    if node.domain == CONTRIB:
        parameters = contrib_parameters(node.op_type)
        if parameters is None:
            raise QuantizeError(f"{node.op_type}: no operator of {CONTRIB} that is known here")
        inputs, outputs = parameters
        return Signature(
            [Parameter(*each) for each in inputs], [Parameter(*each) for each in outputs], 1, {}
        )
    try:
        schema = onnx.defs.get_schema(node.op_type, OPSET, node.domain)
    except onnx.defs.SchemaError as error:
        raise QuantizeError(f"{node.op_type} of {node.domain!r}: {error}") from error
    return Signature(
        [Parameter(each.name, each.type_str) for each in schema.inputs],
        [Parameter(each.name, each.type_str) for each in schema.outputs],
        schema.since_version,
        {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints},
    )
