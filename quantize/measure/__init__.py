"""A model run on calibration and held-out text, and what the bundle's scores cost."""
