"""Rounding of weights, and equivalent changes of a model that reduce rounding errors."""
