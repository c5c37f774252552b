"""Documents that are encoded once, and ranked for any query.

from edgerank.store import DocumentStore
"""

from edgerank.store.store import DocumentStore, StoredHit

__all__ = ["DocumentStore", "StoredHit"]
