"""What heads make of rows: vectors of length 1."""

from __future__ import annotations

from quantize.graph.builder import Graph

TINY = 1e-12  # the least norm that is divided by, as in torch.nn.functional.normalize


def unit_rows(g: Graph, x: str) -> str:
    """Scale rows, float32 [R, H], to length 1."""
    norm = g.op("ReduceL2", x, g.constant([-1]), keepdims=1)
    return g.op("Div", x, g.op("Max", norm, g.constant(TINY)))
