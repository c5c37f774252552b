"""Stores of documents that are encoded once: ``edgerank.DocumentStore``."""
