"""The Python of docs/ray.md runs."""

from __future__ import annotations

import re

import pytest

ray = pytest.importorskip("ray", reason="needs the environment .venv/ray: make test-ray")

import pyarrow as pa
import pyarrow.parquet as pq

from edgerank import Reranker
from edgerank.bundle import DEFAULT_BUNDLE
from tests.ray.cluster import two_nodes
from tests.support import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray itself, in this process

PAGE = ROOT / "docs/ray.md"
ROWS = [{"query": "who wrote dune?", "documents": ["Frank Herbert", "Paris"]}]


def test_the_python_of_the_page_runs(tmp_path, monkeypatch):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/minilm").symlink_to(DEFAULT_BUNDLE)
    (tmp_path / "runs").mkdir()
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "runs/rows.parquet")
    with two_nodes():
        for block in blocks:
            exec(compile(block, str(PAGE), "exec"), {})
    expected = Reranker().score(ROWS[0]["query"], ROWS[0]["documents"]).tolist()
    for written in ("scored", "own"):
        (found,) = pq.read_table(tmp_path / written).column("scores").to_pylist()
        assert found == pytest.approx(expected, abs=1e-6)
