"""The quantization pipeline: a Hugging Face checkpoint becomes an int8 ONNX bundle."""

from quantize.errors import QuantizeError
from quantize.pipeline import quantize

__all__ = ["QuantizeError", "quantize"]
