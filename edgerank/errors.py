"""What can go wrong, as the caller sees it.

* EdgerankError
  x InputError      the query, a document or an option is wrong
  x BundleError     the bundle on disk is missing, altered, incomplete or too new
  x ProviderError   a requested execution provider cannot run here

``quantize.QuantizeError`` belongs to the same tree: a checkpoint cannot become a bundle.
"""

from __future__ import annotations


class EdgerankError(Exception):
    """Base of every error that edgerank raises on purpose."""


class InputError(EdgerankError, ValueError):
    """A query, document or option is unusable; the message says which one and why."""


class BundleError(EdgerankError):
    """A bundle cannot be trusted or read; the message names the file."""


class ProviderError(EdgerankError):
    """An execution provider was asked for that this installation does not have."""
