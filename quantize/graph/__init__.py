"""Writing ONNX graphs: the builder, precisions, and the blocks that architectures share."""
