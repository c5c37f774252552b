"""The pipeline's one error."""

from __future__ import annotations

from edgerank.errors import EdgerankError


class QuantizeError(EdgerankError):
    """A checkpoint cannot become a bundle; the message names the culprit and what to do."""
