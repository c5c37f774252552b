"""Turns checkpoints of Hugging Face into bundles.

from quantize import quantize

bundle = quantize("path/to/checkpoint", "models/minilm")
"""

from quantize.errors import QuantizeError
from quantize.pipeline import quantize

__all__ = ["QuantizeError", "quantize"]
