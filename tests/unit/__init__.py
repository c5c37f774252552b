"""Tests that need only edgerank, pytest and hypothesis, and take seconds.

No torch, no transformers, no onnx, no gRPC, no quantize: arrays, toy bundles and the model in the
package. What can be tested here is tested here.
"""
