"""The HTTP transport: the JSON of existing rerank APIs."""
