"""What a process loads that only uses a client."""

from __future__ import annotations

from tests.support.imports import loaded_by, packages


def test_grpc_is_loaded_with_the_first_client_and_no_sooner():
    assert "grpc" not in packages(loaded_by("from edgerank import *"))
    assert "grpc" in packages(loaded_by("import edgerank; edgerank.Client, edgerank.AsyncClient"))


def test_a_client_loads_no_engine_and_no_tokenizer():
    loaded = packages(loaded_by("from edgerank import Client; Client('127.0.0.1:1').close()"))
    assert "grpc" in loaded
    assert loaded.isdisjoint({"onnxruntime", "tokenizers"})
