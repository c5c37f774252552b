"""Rounding of weights, and the exact changes to a model that make rounding cheap."""
