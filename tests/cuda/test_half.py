"""Where ONNX Runtime's own provider for CUDA puts the operators of graphs in half precision."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from quantize import quantize
from quantize.graph.placement import host_nodes
from tests.cuda.test_provider import libraries, python, run  # noqa: F401  # the first are fixtures
from tests.reference.test_half import SAVERS

PRECISIONS = ("fp16", "bf16")
PROGRAM = r"""
import json, sys
from pathlib import Path
from edgerank.session import open_session

told = {}
for path in sys.argv[1:]:
    session = open_session(Path(path), provider="CUDAExecutionProvider")
    told[path] = places = {}
    for part in session.get_provider_graph_assignment_info():
        places.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
print(json.dumps(told))
"""


@pytest.mark.parametrize("name", SAVERS)
def test_cuda_computes_all_but_what_is_found_to_be_kept_on_the_cpu(
    python,  # noqa: F811
    libraries,  # noqa: F811
    tmp_path: Path,
    name: str,
):
    SAVERS[name](tmp_path / "checkpoint")
    quantize(tmp_path / "checkpoint", tmp_path / "bundle", precision=PRECISIONS)
    paths = [tmp_path / "bundle" / f"model.cuda-{precision}.onnx" for precision in PRECISIONS]
    told = json.loads(run(python, libraries, PROGRAM, *paths))
    for path in paths:
        places = told[str(path)]
        assert "Attention" in places["CUDAExecutionProvider"] or name == "optimum"
        expected = {node.op_type for node in host_nodes(onnx.load(path, load_external_data=False))}
        # constants that are folded, and casts that ONNX Runtime adds, come and go
        assert {*places.get("CPUExecutionProvider", [])} <= expected | {"Cast", "Shape"}
