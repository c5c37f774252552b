"""Compiled operators, each in a graph of its own that is run with any kernels."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgerank.kernels import STOCK, available, choose_kernels
from edgerank.session import open_session
from quantize.graph.builder import Graph
from quantize.graph.functions import KERNELS, OPSETS

# all but those whose attention rounds to bfloat16 on purpose (test_bfloat16.py)
INSTRUCTION_SETS = tuple(name for name in available() if name != "avx512_bf16")
needs_kernels = pytest.mark.skipif(not INSTRUCTION_SETS, reason="the kernels are not built")
each_instruction_set = pytest.mark.parametrize(
    "kernels", INSTRUCTION_SETS or [pytest.param("none", marks=needs_kernels)]
)
# stock operators too, where the expectation is not taken from them
all_kernels = pytest.mark.parametrize("kernels", (STOCK, *INSTRUCTION_SETS))

Feeds = Mapping[str, np.ndarray]
Write = Callable[[Graph], Mapping[str, str]]  # writes a graph, returns its outputs by name


def rows_input(g: Graph, name: str, width: int) -> str:
    """Declare float32 [T, width]."""
    return g.input(name, TensorProto.FLOAT, ["tokens", width])


def open_graph(write: Write, kernels: str, threads: int = 2) -> ort.InferenceSession:
    """Write a graph and open it; weights are in memory by the time this returns."""
    with tempfile.TemporaryDirectory() as directory:
        graph = Graph(Path(directory) / "model.onnx")
        outputs = write(graph)
        graph.scope = ""
        for name, value in outputs.items():
            graph.output(name, value, ["tokens", f"width of {name}"])
        graph.save()
        return open_session(graph.path, threads=threads, kernels=choose_kernels(kernels))


def run(session: ort.InferenceSession, feeds: Feeds) -> dict[str, np.ndarray]:
    """Run a session on those feeds that it takes; return its outputs by name."""
    names = [output.name for output in session.get_outputs()]
    taken = {value.name: feeds[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(names, taken), strict=True))


def compute(write: Write, kernels: str, feeds: Feeds) -> dict[str, np.ndarray]:
    """Write a graph and run it once."""
    return run(open_graph(write, kernels), feeds)


def model_of_node(
    op_type: str,
    inputs: Sequence[str],
    constants: Feeds,
    fed: Feeds,
    num_outputs: int = 1,
    **attributes: int,
) -> bytes:
    """Serialize a graph of one operator, without the function that bundles have beside it.

    :param inputs: of the operator, in its order
    :param fed: values of the types of those that the graph is fed, in any shape
    """
    outputs = [f"output_{i}" for i in range(num_outputs)]
    taken = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in fed.items()}
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op_type, inputs, outputs, domain=KERNELS, **attributes)],
            "one operator",
            [helper.make_tensor_value_info(name, dtype, None) for name, dtype in taken.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
        ),
        opset_imports=[*OPSETS, helper.make_opsetid(KERNELS, 1)],
        ir_version=11,
    )
    return bytes(model.SerializeToString())
