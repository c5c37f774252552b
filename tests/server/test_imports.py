"""What a process loads that serves without gRPC, or only uses a client."""

from __future__ import annotations

from tests.support.imports import imports_of, loaded_by, packages


def test_grpc_is_loaded_with_the_first_client_and_no_sooner():
    assert "grpc" not in packages(loaded_by("from edgerank import *"))
    assert "grpc" in packages(loaded_by("import edgerank; edgerank.Client, edgerank.AsyncClient"))


def test_a_client_loads_no_engine_and_no_tokenizer():
    loaded = packages(loaded_by("from edgerank import Client; Client('127.0.0.1:1').close()"))
    assert "grpc" in loaded
    assert loaded.isdisjoint({"onnxruntime", "tokenizers"})


def test_serving_is_loaded_whole_without_grpc():
    files = imports_of("edgerank/serving/[a-z]*.py").keys()
    files -= {"edgerank/serving/tracing.py"}  # OpenTelemetry sends spans by gRPC
    modules = ", ".join(file.removesuffix(".py").replace("/", ".") for file in files)
    loaded = packages(loaded_by(f"sys.modules['grpc'] = None; import {modules}"))
    assert "edgerank" in loaded
    assert loaded.isdisjoint({"grpc_health", "grpc_reflection"})


def test_http_is_served_without_grpc():
    files = imports_of("edgerank/serving/http/[a-z]*.py").keys()
    modules = ", ".join(file.removesuffix(".py").replace("/", ".") for file in files)
    assert "edgerank.serving.http.transport" in modules
    loaded = packages(loaded_by(f"sys.modules['grpc'] = None; import {modules}"))
    assert loaded.isdisjoint({"grpc_health", "grpc_reflection", "google"})
