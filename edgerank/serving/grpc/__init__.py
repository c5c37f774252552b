"""The gRPC transport: ``edgerank.v1`` and ``tei.v1``, health and reflection."""
