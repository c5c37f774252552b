"""The reranker or client of an adapter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.reranker import Reranker

if TYPE_CHECKING:
    from edgerank.client import Client


def open_source(source: Reranker | Client | str | os.PathLike[str] | None) -> Reranker | Client:
    """Open a bundle directory, by default the model in the package; return others as they are.

    :raises BundleError: the bundle is missing or unusable
    """
    if source is None:
        return Reranker(DEFAULT_BUNDLE)
    return Reranker(source) if isinstance(source, str | os.PathLike) else source
