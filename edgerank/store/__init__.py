"""Documents that are encoded once, and ranked for any query: ``edgerank.DocumentStore``."""
