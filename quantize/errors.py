"""The error of the pipeline."""

from __future__ import annotations

from edgerank.errors import EdgerankError


class QuantizeError(EdgerankError):
    """A checkpoint cannot become a bundle; the message names the cause and what to do."""
