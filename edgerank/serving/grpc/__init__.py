"""The gRPC door: ``edgerank.v1`` and ``tei.v1`` over the scheduler."""
