"""What quantizing loads."""

from __future__ import annotations

from tests.support.imports import loaded_by, packages


def test_the_pipeline_loads_a_training_framework_only_to_export():
    loaded = packages(loaded_by("import quantize.optimum.export, quantize.pipeline"))
    assert "quantize" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "optimum", "sentence_transformers"})
