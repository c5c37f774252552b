"""The embedded runtime and the command line, on bundles that quantize made of tiny checkpoints."""
