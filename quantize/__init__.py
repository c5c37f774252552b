"""Turns checkpoints of Hugging Face into bundles, and measures their fidelity.

    bundle = quantize("path/to/checkpoint", "models/minilm")

It needs the extra ``quantize``.
"""

from quantize.errors import QuantizeError
from quantize.pipeline import quantize

__all__ = ["QuantizeError", "quantize"]
