"""Runs a model on calibration and held-out text, and measures the fidelity of graphs."""
