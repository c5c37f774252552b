"""Tests of ONNX Runtime's own provider for CUDA, without a GPU: see ``make test-cuda``."""
