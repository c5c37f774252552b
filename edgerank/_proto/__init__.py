"""Stubs of the wire formats, generated from proto/ by `python proto/generate.py`."""
