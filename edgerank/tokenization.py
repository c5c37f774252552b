"""Opening a tokenizer."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from edgerank.errors import BundleError


def open_tokenizer(path: Path) -> Tokenizer:
    """Open a tokenizer.json, to be used without truncation and padding.

    :raises BundleError: it cannot be read
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise BundleError(f"{path}: not a fast tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
