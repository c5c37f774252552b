"""edgerank: rerank documents on plain CPUs with int8 models, offline.

from edgerank import Reranker
"""

from edgerank.errors import BundleError, EdgerankError, InputError, ProviderError
from edgerank.reranker import Hit, Reranker

__version__ = "0.1.0"

__all__ = ["BundleError", "EdgerankError", "Hit", "InputError", "ProviderError", "Reranker"]
