"""Model-local functions: the stock bodies of compiled operators.

A node of the domain ``edgerank.kernels`` is both: a session that has registered the compiled
kernels runs the operator of its name, any other runs the function of its name and overload. Equal
bodies, such as those of a model's layers, are one function.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import onnx
from onnx import helper

OPSET = 23  # first with Attention, RMSNormalization and RotaryEmbedding
CONTRIB = "com.microsoft"
KERNELS = "edgerank.kernels"
OPSETS = (helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1))


class Functions:
    """The functions of a graph under construction."""

    def __init__(self) -> None:
        self._by_body: dict[bytes, onnx.FunctionProto] = {}

    def add(
        self,
        op_type: str,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[str],
        outputs: Sequence[str],
        constants: Mapping[str, onnx.TensorProto],
    ) -> str:
        """Make nodes a function and return its overload.

        :param inputs: values that the nodes may read, besides ``constants`` and each other's
        :param outputs: values of theirs that are read outside
        :raises ValueError: they read something else
        """
        names = {name: f"input_{place}" for place, name in enumerate(inputs) if name}
        names |= {name: f"output_{place}" for place, name in enumerate(outputs) if name}
        body: list[onnx.NodeProto] = []
        for node in nodes:
            for name in node.input:
                if not name or name in names:
                    continue
                if name not in constants:
                    raise ValueError(f"{op_type}: its body reads {name}, which is not an input")
                names[name] = f"value_{len(names)}"
                body.append(_constant(names[name], constants[name]))
            for name in node.output:
                names.setdefault(name, f"value_{len(names)}")
            body.append(_renamed(node, names))
        function = helper.make_function(
            KERNELS,
            op_type,
            [f"input_{place}" for place in range(len(inputs))],
            [f"output_{place}" for place in range(len(outputs))],
            body,
            OPSETS,
        )
        key = function.SerializeToString(deterministic=True)
        if key not in self._by_body:
            function.overload = str(sum(known.name == op_type for known in self._by_body.values()))
            self._by_body[key] = function
        return str(self._by_body[key].overload)

    def those(self, called: Collection[tuple[str, str]]) -> Iterable[onnx.FunctionProto]:
        """Return the functions of these names and overloads."""
        return [
            function
            for function in self._by_body.values()
            if (function.name, function.overload) in called
        ]


def _constant(name: str, tensor: onnx.TensorProto) -> onnx.NodeProto:
    value = onnx.TensorProto()
    value.CopyFrom(tensor)
    value.name = ""
    return helper.make_node("Constant", [], [name], value=value)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str]) -> onnx.NodeProto:
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    renamed.name = ""
    renamed.input[:] = [names[name] if name else "" for name in node.input]
    renamed.output[:] = [names[name] for name in node.output]
    return renamed
