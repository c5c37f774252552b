"""Published scores of real rerankers, where their checkpoints are at hand.

EDGERANK_CHECKPOINTS names a directory with checkpoints, each under the model's name with or without
its owner's: ``cross-encoder/ms-marco-MiniLM-L6-v2`` or ``ms-marco-MiniLM-L6-v2``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks.quality.published import DIGITS, differences, read_records, records_of
from edgerank import Reranker
from quantize import quantize
from tests.support.shared import SHARED

RECORDS = SHARED / "reference-scores/reference_scores.json"
CHECKPOINTS = os.environ.get("EDGERANK_CHECKPOINTS")
MODELS = sorted({record.model for record in read_records(RECORDS)}) if RECORDS.exists() else []


@pytest.mark.skipif(not CHECKPOINTS, reason="EDGERANK_CHECKPOINTS names no directory")
@pytest.mark.parametrize("model", MODELS)
def test_scores_are_the_published_ones(model, tmp_path):
    places = [Path(CHECKPOINTS) / model, Path(CHECKPOINTS) / model.split("/")[-1]]
    checkpoint = next((place for place in places if place.exists()), None)
    if checkpoint is None:
        pytest.skip(f"no {model} in {CHECKPOINTS}")
    quantize(checkpoint, tmp_path / "fp32", precision="fp32")
    reranker = Reranker(tmp_path / "fp32")
    found = list(differences(reranker, records_of(read_records(RECORDS), model)))
    assert found
    for record, difference in found:
        assert difference <= record.allowed, record.source


@pytest.mark.parametrize("kind", ["activated (model's default)", "logit", "sigmoid"])
def test_records_are_held_against_scores_of_their_kind(kind, bundles, tmp_path):
    """A cross-encoder with a sigmoid against its own scores, published as each kind."""
    import numpy as np

    reranker = Reranker(bundles / "cross-encoder.fp32")
    scores = reranker.score("who?", ["Frank Herbert", "Paris"]).astype(float)
    logits = np.log(scores / (1 - scores))
    published = logits if kind == "logit" else scores
    path = tmp_path / "records.json"
    base = {"model": "owner/name", "query": "who?", "documents": ["Frank Herbert", "Paris"]}
    records = [
        {**base, "scores": list(published + shift), "kind": kind, "precision": "float32"}
        for shift in (0, 0.5)
    ]
    path.write_text(json.dumps([*records, {**records[0], "kind": "two logits"}]))
    found = records_of(read_records(path), "name")
    (_, exact), (_, off) = differences(reranker, found)
    assert exact < 1e-4
    assert off > DIGITS
