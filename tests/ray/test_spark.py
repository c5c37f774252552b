"""The example of Spark, on a local Spark."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("pyspark", reason="needs the environment .venv/ray: make test-ray")
pa = pytest.importorskip("pyarrow", reason="needs the environment .venv/ray: make test-ray")

import pyarrow.parquet as pq

from edgerank import Reranker
from tests.support import ROOT

pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")

TIMEOUT_S = 240


def test_the_example_of_spark_gives_the_embedded_scores(tmp_path):
    rows = [
        {
            "id": number,
            "query": f"who wrote dune {number}?",
            "documents": [f"Frank Herbert {index}" for index in range(number % 4)],
        }
        for number in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    done = subprocess.run(
        [sys.executable, ROOT / "examples/spark_batch.py", tmp_path / "rows.parquet", "scored"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYSPARK_PYTHON": sys.executable,
            "PYTHONPATH": str(ROOT),
            "SPARK_LOCAL_IP": "127.0.0.1",
        },
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    found = {row["id"]: row["scores"] for row in pq.read_table(tmp_path / "scored").to_pylist()}
    with Reranker() as reranker:
        expected = {
            row["id"]: reranker.score(row["query"], row["documents"]).tolist() for row in rows
        }
    assert found.keys() == expected.keys()
    assert all(found[name] == pytest.approx(expected[name], abs=1e-6) for name in expected)
