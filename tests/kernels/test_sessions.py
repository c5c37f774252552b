"""Sessions with compiled operators: graphs and inputs that do not fit are errors, never a crash.

Graphs here have the operators without the functions that bundles have beside them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime as ort
import pytest

from edgerank.kernels import available, choose_kernels
from edgerank.packing import EMPTY, Group, Tokens, pack
from edgerank.session import open_session
from quantize.graph import int8
from quantize.graph.builder import Graph
from quantize.graph.layers import linear
from quantize.graph.panels import in_panels
from quantize.graph.parameters import Matrix
from tests.support import ROOT
from tests.support.operators import (
    INSTRUCTION_SETS,
    each_instruction_set,
    model_of_node,
    needs_kernels,
    rows_input,
)

pytestmark = needs_kernels

RNG = np.random.default_rng(0)
ROWS, WIDTH, COLUMNS = 5, 12, 20


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def weights(*shape: int) -> np.ndarray:
    return RNG.integers(-127, 128, shape, np.int8)


def panels(columns: int, depth: int) -> np.ndarray:
    return in_panels(weights(columns, depth))


def sums(columns: int) -> np.ndarray:
    return RNG.integers(-1000, 1000, columns, np.int32)


def open_node(
    op_type: str,
    inputs: Sequence[str],
    constants: Mapping[str, np.ndarray],
    fed: Mapping[str, np.ndarray],
    kernels: str | None = None,
    **attributes: int,
) -> ort.InferenceSession:
    """Open a graph of one operator."""
    model = model_of_node(op_type, inputs, constants, fed, **attributes)
    return open_session(model, kernels=choose_kernels(kernels or INSTRUCTION_SETS[0]))


# An operator that fits: its inputs in order, those that are constant, those that are fed.

LINEAR_WEIGHT = weights(COLUMNS, WIDTH)
LINEAR = (
    "Linear",
    {
        "zero_point": np.uint8(128),
        "weight": in_panels(LINEAR_WEIGHT),
        "scales": floats(COLUMNS),
        "sums": LINEAR_WEIGHT.sum(axis=1, dtype=np.int32),
        "bias": floats(COLUMNS),
        "residual_scales": floats(COLUMNS),
    },
    {"x": floats(ROWS, WIDTH), "residual": floats(ROWS, COLUMNS)},
    ["x", "zero_point", "weight", "scales", "sums", "bias", "residual", "residual_scales"],
    {"width": WIDTH},
)
PROJECTION = (
    "Projection",
    {
        "zero_point": np.uint8(128),
        "gain": floats(WIDTH),
        "weight": panels(COLUMNS, WIDTH),
        "scales": floats(COLUMNS),
        "sums": sums(COLUMNS),
        "head_gain": floats(4),
        "kv_weight": panels(16, WIDTH),
        "kv_scales": floats(16),
        "kv_sums": sums(16),
    },
    {"x": floats(ROWS, WIDTH), "cosines": floats(1, ROWS, 2), "sines": floats(1, ROWS, 2)},
    [
        *("x", "zero_point", "gain", "", "cosines", "sines"),
        *("weight", "scales", "sums", "", "head_gain"),
        *("kv_weight", "kv_scales", "kv_sums", "", ""),
    ],
    {
        "width": WIDTH,
        "norm": 2,
        "head_size": 4,
        "num_heads": 5,
        "num_kv_heads": 2,
        "num_outputs": 2,
    },
)
FEED_FORWARD = (
    "FeedForward",
    {
        "zero_point": np.uint8(128),
        "inner_zero_point": np.uint8(128),
        "gain": floats(WIDTH),
        "up": panels(COLUMNS, WIDTH),
        "gate": panels(COLUMNS, WIDTH),
        "down": panels(WIDTH, COLUMNS),
        "inner_scales": floats(COLUMNS),
        "inner_sums": sums(COLUMNS),
        "scales": floats(WIDTH),
        "sums": sums(WIDTH),
    },
    {"x": floats(ROWS, WIDTH), "residual": floats(ROWS, WIDTH)},
    [
        *("x", "zero_point", "inner_zero_point", "gain", ""),
        *("up", "inner_scales", "inner_sums", "", "gate", "inner_scales", "inner_sums"),
        *("down", "scales", "sums", "", "residual", ""),
    ],
    {"width": WIDTH, "norm": 2, "activation": 3},
)
(BATCH,) = pack(
    [Group(EMPTY, [Tokens(np.zeros(n, np.int64), np.zeros(n, np.int64)) for n in (3, 2)], [0, 1])],
    max_tokens=8,
    causal=True,
)
ATTENTION = (
    "RaggedAttention",
    {},
    {
        "query": floats(ROWS, 8),
        "keys_values": floats(ROWS, 8),
        "query_rows": BATCH.query_rows,
        "key_rows": BATCH.key_rows + 4,  # behind the past
        "slots": BATCH.slots,
        "visible": BATCH.visible,
        "mask": floats(0),
        "past": floats(4, 8),
        "parts": np.zeros(ROWS, np.int64),
    },
    ["query", "keys_values", "query_rows", "key_rows", "slots", "visible", "mask", "past", "parts"],
    {"num_heads": 2, "num_kv_heads": 1},
)
BIASED = (
    "RaggedAttention",
    {},
    {
        **{k: v for k, v in ATTENTION[2].items() if k not in ("key_rows", "past", "parts")},
        "keys_values": floats(ROWS, 16),
        "biases": floats(2, 5),
    },
    [
        *("query", "keys_values", "query_rows", "query_rows", "slots", "visible", "mask"),
        *("", "", "biases"),
    ],
    {"num_heads": 2, "num_kv_heads": 2},
)
OPERATORS = {case[0]: case for case in (LINEAR, PROJECTION, FEED_FORWARD, ATTENTION)}
OPERATORS["RaggedAttention by distances"] = BIASED


def compute(
    name: str, changes: Mapping[str, np.ndarray | None], kernels: str | None = None, **other: float
) -> list[np.ndarray]:
    """Open and run an operator with other constants, inputs (None: left out) or attributes."""
    op_type, constants, fed, inputs, attributes = OPERATORS[name]
    for key, value in changes.items():
        if value is None:
            inputs = ["" if used == key else used for used in inputs]
    constants = {k: np.asarray(changes.get(k, v)) for k, v in constants.items() if k in inputs}
    fed = {k: np.asarray(changes.get(k, v)) for k, v in fed.items() if k in inputs}
    session = open_node(op_type, inputs, constants, fed, kernels, **{**attributes, **other})
    return session.run(None, fed)


@each_instruction_set
@pytest.mark.parametrize("name", OPERATORS)
def test_what_fits_is_computed(kernels, name):
    for y in compute(name, {}, kernels):
        assert len(y) == ROWS and np.isfinite(y).all() and y.any()


@each_instruction_set
@pytest.mark.parametrize("name", OPERATORS)
def test_no_rows_give_no_rows(kernels, name):
    fed = OPERATORS[name][2]
    if name.startswith("RaggedAttention"):
        grid = dict.fromkeys(("query_rows", "key_rows", "visible"), np.zeros((0, 0), np.int64))
        nothing = {k: v[:0] for k, v in fed.items() if k != "biases"} | grid
    else:
        nothing = {k: v[:, :0] if v.ndim == 3 else v[:0] for k, v in fed.items()}
    for y in compute(name, nothing, kernels):
        assert len(y) == 0 and y.ndim == 2


def slots_with(place: int, slot: int) -> np.ndarray:
    slots = BATCH.slots.copy()
    slots[place] = slot
    return slots


MISFITS = {
    "Linear": [
        ({"x": floats(ROWS, WIDTH + 1)}, "rows have another width than its weight"),
        ({"x": np.float32(1)}, "rows have another width than its weight"),
        ({"residual": floats(ROWS, WIDTH)}, "residual is not of the shape"),
        ({"residual": floats(ROWS + 1, COLUMNS)}, "residual is not of the shape"),
        ({"scales": floats(COLUMNS - 1)}, "constant scales and sums of its columns"),
        ({"sums": sums(COLUMNS + 1)}, "constant scales and sums of its columns"),
        ({"scales": floats(0), "sums": sums(0)}, "constant scales and sums of its columns"),
        ({"bias": floats(COLUMNS + 1)}, "bias must have one number for each column"),
        ({"residual_scales": floats(3)}, "has not the size"),
        ({"weight": panels(COLUMNS, WIDTH).reshape(-1, 64)}, "a weight must be panels"),
        ({"weight": panels(65, WIDTH)}, "a weight must be panels"),
        ({"weight": panels(COLUMNS, 65)}, "a weight must be panels"),
        ({"weight": panels(COLUMNS, WIDTH)[:0]}, "a weight must be panels"),
        ({"weight": panels(COLUMNS, WIDTH).reshape(4, 16, 4, 16)}, "a weight must be panels"),
        ({"width": 65}, "a weight must be panels"),
        ({"width": 0}, "lacks the width of its rows"),
        ({"width": -1}, "lacks the width of its rows"),
        ({"zero_point": np.zeros(0, np.uint8)}, "zero point must be"),
        ({"zero_point": np.uint8(255)}, "zero point must be"),
    ],
    "Projection": [
        ({"x": floats(ROWS, WIDTH + 1)}, "rows have another width"),
        ({"x": floats(ROWS, 1, WIDTH)}, "rows have another width"),
        ({"cosines": floats(1, ROWS - 1, 2)}, "angles are not"),
        ({"sines": floats(1, ROWS, 1)}, "angles are not"),
        ({"sines": None}, "angles are not"),
        ({"gain": floats(3)}, "has not the size"),
        ({"gain": None}, "a norm lacks its gain"),
        ({"head_gain": floats(3)}, "has not the size"),
        ({"kv_weight": panels(16, 65)}, "a weight must be panels"),
        ({"kv_sums": None}, "constant scales and sums of its columns"),
        ({"num_heads": 6}, "fewer columns than heads"),
        ({"num_heads": -1}, "fewer columns than heads"),
        ({"weight": None, "kv_weight": None}, "lacks its weights"),
    ],
    "FeedForward": [
        ({"x": floats(ROWS, WIDTH + 1)}, "rows have another width"),
        ({"residual": floats(ROWS, WIDTH - 1)}, "residual is not of the shape"),
        ({"gate": panels(COLUMNS, 65)}, "a weight must be panels"),
        ({"down": panels(WIDTH, 65)}, "a weight must be panels"),
        ({"up": None}, "lacks its weights"),
        ({"activation": 9}, "unknown activation"),
        ({"inner_zero_point": np.uint8(16)}, r"needs a symmetric range \(zero point 128\)"),
    ],
    "RaggedAttention": [
        ({"query": floats(ROWS, 6)}, "heads do not fit its rows"),
        ({"query": floats(ROWS, 9)}, "heads do not fit its rows"),
        ({"query": floats(ROWS + 1, 8)}, "inputs do not fit each other"),
        ({"keys_values": floats(ROWS, 4)}, "heads do not fit its rows"),
        ({"past": floats(4, 6)}, "past has another width"),
        ({"past": floats(8)}, "past has another width"),
        ({"slots": slots_with(4, 6)}, "slot lies outside of the grid"),
        ({"slots": slots_with(0, -1)}, "slot lies outside of the grid"),
        ({"slots": slots_with(1, 2)}, "rows are not consecutive"),
        ({"key_rows": BATCH.key_rows + 9}, "a key's row is not there"),
        ({"key_rows": BATCH.key_rows - 1}, "a key's row is not there"),
        ({"key_rows": np.array([[4, 6, 8], [7, 8, 0]])}, "more than two runs"),
        ({"key_rows": BATCH.key_rows[:1]}, "inputs do not fit each other"),
        ({"visible": BATCH.visible + 2}, "sees more keys than there are"),
        ({"visible": BATCH.visible.ravel()}, "inputs do not fit each other"),
        ({"visible": BATCH.visible.T}, "inputs do not fit each other"),
        ({"parts": np.zeros(2, np.int64)}, "inputs do not fit each other"),
        ({"num_heads": 3, "num_kv_heads": 2}, "kv heads must divide heads"),
        ({"num_heads": 0}, "kv heads must divide heads"),
    ],
    "RaggedAttention by distances": [
        ({"biases": floats(2, 3)}, "biases of distances do not fit"),
        ({"biases": floats(2, 6)}, "biases of distances do not fit"),
        ({"biases": floats(1, 5)}, "biases of distances do not fit"),
        ({"biases": floats(10)}, "biases of distances do not fit"),
        ({"num_kv_heads": 1, "keys_values": floats(ROWS, 8)}, "biases of distances do not fit"),
    ],
}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [(name, changes, message) for name, cases in MISFITS.items() for changes, message in cases],
)
def test_what_does_not_fit_is_an_error_that_says_so(name, changes, message):
    attributes = OPERATORS[name][4]
    other = {key: value for key, value in changes.items() if key in attributes}
    changes = {key: value for key, value in changes.items() if key not in attributes}
    with pytest.raises(Exception, match=rf"edgerank\.kernels: .*{message}"):
        compute(name, changes, **other)


@pytest.mark.parametrize(
    ("name", "constant"),
    [(name, constant) for name in OPERATORS for constant in OPERATORS[name][1]],
)
def test_a_parameter_that_is_fed_is_refused(name, constant):
    """It could change from run to run, while the operator reads it once."""
    op_type, constants, fed, inputs, attributes = OPERATORS[name]
    others = {key: value for key, value in constants.items() if key != constant}
    fed = {**fed, constant: np.asarray(constants[constant])}
    with pytest.raises(Exception, match=r"edgerank\.kernels: .*constant"):
        open_node(op_type, inputs, others, fed, **attributes)


# Memory

MEASURE = """
import sys
from pathlib import Path
import numpy as np
from edgerank.kernels import choose_kernels
from edgerank.session import open_session

def private_mb():
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

path, kernels = sys.argv[1:]
before = private_mb()
session = open_session(Path(path), threads=2, kernels=choose_kernels(kernels))
session.run(None, {"x": np.ones((8, 4096), np.float32)})
print(private_mb() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_kernels_read_weights_in_the_file_and_stock_operators_keep_one_copy(tmp_path, monkeypatch):
    """A process with 100 MB of weights."""

    def some_weights(weight, ldl):
        return weights(*weight.shape), floats(len(weight))

    monkeypatch.setattr(int8, "quantize_channels", some_weights)
    g = Graph(tmp_path / "model.onnx")
    x = rows_input(g, "x", 4096)
    for layer in range(6):
        shape = np.broadcast_to(np.float32(0), (4096, 4096))
        x = linear(g, int8.Int8(), "site", x, Matrix(f"layer {layer}", shape))
    g.output("y", x, ["tokens", 4096])
    g.save()

    def grown_by(kernels: str) -> float:
        command = [sys.executable, "-c", MEASURE, g.path, kernels]
        return float(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)

    assert 90 < grown_by("stock") < 130
    for kernels in INSTRUCTION_SETS:
        assert grown_by(kernels) < 20, kernels


WITHOUT_MEMORY = """
import resource
import sys
import numpy as np
from edgerank.kernels import choose_kernels
from edgerank.session import open_session

SIZE = 1 << 22  # of a head: its queries are laid out 64 at a time, in a gigabyte
rows = np.zeros((1, 1), np.int64)
feeds = {
    "query": np.ones((1, SIZE), np.float32),
    "keys_values": np.ones((1, 2 * SIZE), np.float32),
    "query_rows": rows, "key_rows": rows, "slots": rows[0], "visible": rows + 1,
    "mask": np.zeros(0, np.float32),
}
session = open_session(open(sys.argv[1], "rb").read(), kernels=choose_kernels(sys.argv[2]))
lines = open("/proc/self/status").read().splitlines()
used = next(int(line.split()[1]) for line in lines if line.startswith("VmSize")) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), resource.RLIM_INFINITY))
try:
    session.run(None, feeds)
except Exception as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(session.run(None, feeds)[0].sum() == SIZE)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_without_enough_memory_is_an_error_and_the_next_one_may_have_it(tmp_path):
    names = ["query", "keys_values", "query_rows", "key_rows", "slots", "visible", "mask"]
    model = model_of_node(
        "RaggedAttention", names, {}, {name: ATTENTION[2][name] for name in names}, num_heads=1
    )
    (tmp_path / "attention.onnx").write_bytes(model)
    command = [sys.executable, "-c", WITHOUT_MEMORY, tmp_path / "attention.onnx"]
    for kernels in available():
        done = subprocess.run([*command, kernels], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        error, then = done.stdout.splitlines()
        assert "edgerank.kernels: no memory is left" in error, kernels
        assert then == "True"


# Threads


def test_sessions_of_several_instruction_sets_and_threads_run_at_once():
    op_type, constants, _, inputs, attributes = LINEAR
    fed = {"x": floats(64, WIDTH), "residual": floats(64, COLUMNS)}
    names = INSTRUCTION_SETS * 4
    with ThreadPoolExecutor(len(names)) as pool:
        sessions = list(
            pool.map(
                lambda name: open_node(op_type, inputs, constants, fed, name, **attributes), names
            )
        )
        runs = [pool.submit(session.run, None, fed) for session in sessions * 20]
        results = [run.result()[0] for run in runs]
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_a_session_is_run_from_several_threads_at_once():
    """Batches of unlike sizes, so that a thread's memory is too small for the next one."""
    op_type, constants, fed, inputs, attributes = FEED_FORWARD
    session = open_node(op_type, inputs, constants, fed, **attributes)
    feeds = [{"x": floats(n, WIDTH), "residual": floats(n, WIDTH)} for n in (1, 300, 7, 64) * 10]
    expected = [session.run(None, feed)[0] for feed in feeds]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda feed: session.run(None, feed)[0], feeds))
    for got, alone in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got, alone)
