"""The quantization pipeline: rounding, transforms, fidelity, bad checkpoints, training."""
