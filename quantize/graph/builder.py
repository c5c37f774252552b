"""A small ONNX graph writer: nodes in memory, large weights streamed to an external data file.

Written rather than traced: no torch, one tensor in memory at a time, and the graph holds exactly
what reranking needs. Weights lie page-aligned in ``<model>.data`` so that ONNX Runtime maps them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from quantize.graph.functions import KERNELS, OPSETS, Functions
from quantize.rounding.rounding import Floats

PAGE_BYTES = 4096  # external tensors start on a page, or they cannot be memory-mapped
INLINE_BYTES = 4096  # smaller initializers live inside the .onnx file

Dimension = int | str
HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


class Graph:
    """An ONNX graph under construction; values are named by the strings that ``op`` returns."""

    def __init__(self, path: Path, *, is_plain: bool = False) -> None:
        """Open ``path`` for the graph and ``path`` + ".data" for its weights; see ``save``.

        :param is_plain: for execution providers without compiled operators: no nodes become
            functions, and none only pass a value on
        """
        self.path = path
        self.is_plain = is_plain
        self.data_path = path.with_name(path.name + ".data")
        self.scope = ""
        self._data = self.data_path.open("wb")
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._functions = Functions()
        self._names = count()
        self._half: dict[str, int] = {}  # the type of each value that is float16 or bfloat16
        self._casts: dict[tuple[str, int], str] = {}

    def input(self, name: str, dtype: int, shape: Sequence[Dimension]) -> str:
        """Declare a graph input; ``dtype`` is a ``TensorProto`` type."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        if dtype in HALVES:
            self._half[name] = dtype
        return name

    def output(self, name: str, value: str, shape: Sequence[Dimension]) -> None:
        """Expose ``value``, floating-point numbers, as the graph output ``name``."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output/{name}"))
        dtype = self.float_type(value)
        self._outputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))

    def constant(self, value: NDArray[Any] | float | Iterable[int]) -> str:
        """Embed a small array: a float as float32, integers as int64, arrays as they are."""
        if isinstance(value, float):
            array = np.float32(value)
        elif isinstance(value, np.ndarray | np.generic):
            array = np.asarray(value)
        else:
            array = np.asarray(list(value), np.int64)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = name
            self._initializers[name] = numpy_helper.from_array(np.asarray(array), name)
        return self._constants[key]

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """Add an initializer under its own name, streamed to the data file if it is large."""
        if name in self._initializers:
            raise ValueError(f"two weights are named {name}")
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        if dtype in HALVES:
            self._half[name] = dtype
        if array.nbytes <= INLINE_BYTES:
            self._initializers[name] = numpy_helper.from_array(array, name)
            return name
        self._data.seek(-self._data.tell() % PAGE_BYTES, 1)
        tensor = onnx.TensorProto(
            name=name,
            dims=array.shape,
            data_type=dtype,
            data_location=TensorProto.EXTERNAL,
        )
        location = {
            "location": self.data_path.name,
            "offset": self._data.tell(),
            "length": array.nbytes,
        }
        for key, value in location.items():
            tensor.external_data.add(key=key, value=str(value))
        self._data.write(np.ascontiguousarray(array).view(np.uint8).data)  # bfloat16 has no buffer
        self._initializers[name] = tensor
        return name

    def parameter(self, name: str, array: Floats, like: str) -> str:
        """Add float32 numbers as a weight of the type of another value."""
        return self.weight(name, in_type(array, self.float_type(like)))

    def float_type(self, value: str) -> int:
        """Return the type of floating-point numbers: that of ``TensorProto``."""
        return self._half.get(value, TensorProto.FLOAT)

    def cast(self, value: str, dtype: int) -> str:
        """Turn floating-point numbers into another type, once for all that read them in it."""
        if self.float_type(value) == dtype:
            return value
        if (value, dtype) not in self._casts:
            self._casts[value, dtype] = self.op("Cast", value, to=dtype)
        return self._casts[value, dtype]

    def op(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Append a node with one output and return the name of that output."""
        return self.ops(op_type, *inputs, domain=domain, count=1, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: str, count: int, domain: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node with ``count`` outputs and return their names."""
        name = self._node_name(op_type)
        outputs = [name if i == 0 else f"{name}:{i}" for i in range(count)]
        self._nodes.append(
            helper.make_node(op_type, list(inputs), outputs, name=name, domain=domain, **attributes)
        )
        # what reads half numbers gives them out, unless it gives out no floating-point numbers
        half = next((self._half[name] for name in inputs if name in self._half), None)
        half = attributes["to"] if op_type == "Cast" else half
        half = None if op_type == "Shape" else half
        if half in HALVES:
            self._half.update(dict.fromkeys(outputs, half))
        return outputs

    def _node_name(self, op_type: str) -> str:
        return f"{self.scope}/{op_type}_{next(self._names)}".lstrip("/")

    def append(self, node: onnx.NodeProto) -> None:
        """Append a node that was made elsewhere, under the names of its values there."""
        self._nodes.append(node)

    @property
    def num_nodes(self) -> int:
        """How many nodes there are so far: where a part that becomes a function begins."""
        return len(self._nodes)

    def outline(
        self,
        op_type: str,
        start: int,
        inputs: Sequence[str],
        outputs: Sequence[str],
        **attributes: Any,
    ) -> None:
        """Make the nodes from ``start`` on the stock body of one compiled operator.

        A session with the compiled kernels runs the operator; any other runs the body. A plain
        graph has the body alone.

        :param inputs: what the kernel reads, in its order; "" for what is left out
        :param outputs: values of those nodes that others read, in the kernel's order, or ""
        :param attributes: of the kernel; the body does without
        """
        if self.is_plain:
            return
        body, self._nodes[start:] = self._nodes[start:], []
        constants = {name: self._initializers[name] for name in self._constants.values()}
        overload = self._functions.add(op_type, body, inputs, outputs, constants)
        node = helper.make_node(
            op_type,
            list(inputs),
            list(outputs),
            name=self._node_name(op_type),
            domain=KERNELS,
            **{name: value for name, value in attributes.items() if value is not None},
        )
        node.overload = overload
        self._nodes.append(node)

    @property
    def weights(self) -> Collection[str]:
        """Names of the weights so far."""
        return self._initializers.keys() - set(self._constants.values())

    def save(self, *, extra_outputs: Sequence[str] = ()) -> None:
        """Write the graph beside its weights, without the nodes and inputs that nothing reads.

        The data file always exists, so that a bundle has the same files whatever the model's size.

        :param extra_outputs: values to put out too, floating-point numbers
        """
        self.close()
        if self.is_plain:
            outputs = [output.name for output in self._outputs]
            self._nodes = without_identities(self._nodes, outputs)
        extra = [
            helper.make_tensor_value_info(value, self.float_type(value), None)
            for value in extra_outputs
        ]
        self.path.write_bytes(self._model([*self._outputs, *extra]).SerializeToString())

    def _model(self, outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        wanted = {output.name for output in outputs}
        nodes = []
        for node in reversed(self._nodes):
            if not wanted.isdisjoint(node.output):
                nodes.append(node)
                wanted.update(reads(node))
        graph = helper.make_graph(
            nodes[::-1],
            "edgerank",
            [value for value in self._inputs if value.name in wanted],
            outputs,
            [tensor for name, tensor in self._initializers.items() if name in wanted],
        )
        called = {(node.op_type, node.overload) for node in nodes if node.domain == KERNELS}
        return helper.make_model(
            graph,
            functions=self._functions.those(called),
            opset_imports=[*OPSETS, helper.make_opsetid(KERNELS, 1)],
            ir_version=11,
            producer_name="edgerank",
        )

    def close(self) -> None:
        """Release the data file."""
        self._data.close()


def in_type(array: Floats, dtype: int) -> NDArray[Any]:
    """Turn float32 numbers into another type of ``TensorProto``; infinite is what exceeds it."""
    with np.errstate(over="ignore"):
        return array.astype(helper.tensor_dtype_to_np_dtype(dtype))


def without_identities(
    nodes: Sequence[onnx.NodeProto], outputs: Collection[str]
) -> list[onnx.NodeProto]:
    """Leave out the nodes that only pass a value on, if another node computes it.

    ONNX Runtime has no kernel for them on CUDA before 1.26, and no need for one after.

    :param outputs: of the graph, which keep their names
    """
    computed = {name for node in nodes for name in node.output}
    names: dict[str, str] = {}

    def final(name: str) -> str:
        while name in names:
            name = names[name]
        return name

    kept = []
    for node in nodes:
        if node.op_type == "Identity":
            value, name = final(node.input[0]), node.output[0]
            if name not in outputs:
                names[name] = value
                continue
            if value in computed and value not in outputs:
                names[value] = name
                continue
        kept.append(node)
    return [_renamed(node, final) for node in kept]


def _renamed(node: onnx.NodeProto, final: Callable[[str], str]) -> onnx.NodeProto:
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    renamed.input[:] = [final(name) for name in node.input]
    renamed.output[:] = [final(name) for name in node.output]
    for attribute in renamed.attribute:
        for place, inner in enumerate(attribute.g.node):
            attribute.g.node[place].CopyFrom(_renamed(inner, final))
    return renamed


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node reads, also within its branches."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from reads(inner)
