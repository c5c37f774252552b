"""Architectures without a graph writer: optimum exports them, and the graph is rewritten."""
