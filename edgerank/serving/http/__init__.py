"""HTTP: the JSON of the rerank endpoints that callers already speak, over the same inference."""
