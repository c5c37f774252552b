"""What an embedding model's modules make of pooled rows: one unit vector a sequence."""

from __future__ import annotations

from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.sidecars import dense_modules
from quantize.graph.builder import Graph
from quantize.graph.vectors import unit_rows


def write_embedding(g: Graph, checkpoint: Checkpoint, pooled: str, width: int) -> None:
    """Write the Dense modules and the output, vectors of length 1.

    Dense modules stay in float32, whatever the precision: they read one row a sequence.

    :param pooled: float32 [R, width]
    :raises QuantizeError: a Dense module is not supported, or does not fit
    """
    for place, dense in enumerate(dense_modules(checkpoint, width)):
        name, width = f"head.dense.{place}", len(dense.weight)
        pooled = g.op("MatMul", pooled, g.weight(f"{name}.weight", dense.weight.T))
        if dense.bias is not None:
            pooled = g.op("Add", pooled, g.weight(f"{name}.bias", dense.bias))
        if dense.is_tanh:
            pooled = g.op("Tanh", pooled)
    g.output("embeddings", unit_rows(g, pooled), ["scored", width])
