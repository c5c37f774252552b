"""The library fits onnxruntime: the installed release, and the oldest that edgerank supports.

``edgerank/kernels/src/onnxruntime_abi.h`` declares by hand what the library needs of ONNX Runtime.
A wrong place in the table of functions, or field of an operator, is a crash or other scores.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.kernels import available
from quantize.graph.panels import in_panels
from tests.support import ROOT
from tests.support.bundles import only_variant
from tests.support.operators import model_of_node, needs_kernels

pytestmark = needs_kernels

# `make test-onnxruntime` makes it
OLDEST = ROOT / ".venv" / "onnxruntime" / ("Scripts" if os.name == "nt" else "bin") / "python"

PROGRAM = r"""
import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime

from edgerank import Reranker
from edgerank.kernels import available, choose_kernels
from edgerank.session import open_session

documents = ["Paris is the capital of France. " * n for n in range(1, 20)]
scores, errors = {}, {}
for kernels in ("stock", *available()):
    reranker = Reranker(kernels=kernels, max_batch_tokens=64)
    scores[kernels] = reranker.score("what is the capital of France?", documents).tolist()
for kernels in available():
    session = open_session(Path(sys.argv[1]), kernels=choose_kernels(kernels))
    try:
        session.run(None, {"x": np.ones((2, 5), np.float32)})
    except Exception as error:
        errors[kernels] = str(error)
print(json.dumps({"version": onnxruntime.__version__, "scores": scores, "errors": errors}))
"""


def oldest_release() -> str:
    """The first part of the oldest version that pyproject.toml allows."""
    (version,) = re.findall(r'"onnxruntime>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    return version


@pytest.mark.parametrize("release", ["installed", "oldest"])
def test_scores_are_those_of_stock_operators_and_errors_are_told(release, tmp_path):
    python = Path(sys.executable) if release == "installed" else OLDEST
    if not python.exists():
        pytest.skip("`make test-onnxruntime` installs the oldest release and runs this")
    constants = {
        "zero_point": np.uint8(128),
        "weight": in_panels(np.ones((3, 4), np.int8)),
        "scales": np.ones(3, np.float32),
        "sums": np.full(3, 4, np.int32),
    }
    rows = {"x": np.ones((2, 4), np.float32)}
    model = model_of_node("Linear", ["x", *constants], constants, rows, width=4)
    (tmp_path / "linear.onnx").write_bytes(model)
    command = [python, "-c", PROGRAM, tmp_path / "linear.onnx"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    if release == "oldest":
        assert f"{result['version']}.".startswith(f"{oldest_release()}.")
    assert list(result["scores"]) == ["stock", *available()]
    stock = np.array(result["scores"]["stock"])
    own_error = only_variant(DEFAULT_BUNDLE).fidelity.max_error
    assert np.ptp(stock) > 5 * own_error
    for kernels in available():
        assert np.abs(result["scores"][kernels] - stock).max() < own_error, kernels
        assert "rows have another width than its weight" in result["errors"][kernels]
