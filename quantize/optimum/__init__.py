"""Architectures without a writer: exported by optimum, then rewritten."""
