"""What a model's modules make of rows: one unit vector a sequence, or a vector for each token."""

from __future__ import annotations

from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.sidecars import DenseRows, dense_modules
from quantize.graph.builder import Graph
from quantize.graph.vectors import unit_rows

VECTORS_OUTPUT = "token_vectors"  # each token's vector before it has length 1, float32 [T, D]


def write_embedding(g: Graph, checkpoint: Checkpoint, pooled: str, width: int) -> None:
    """Write the Dense modules and the output, vectors of length 1.

    :param pooled: float32 [R, width]
    :raises QuantizeError: a Dense module is not supported, or does not fit
    """
    rows, width = _dense(g, checkpoint, pooled, width, "sentence_embedding")
    g.output("embeddings", unit_rows(g, rows), ["scored", width])


def write_token_vectors(g: Graph, checkpoint: Checkpoint, tokens: str, width: int) -> None:
    """Write the Dense modules and the output, a vector for each token.

    :param tokens: float32 [T, width]
    :raises QuantizeError: a Dense module is not supported, or does not fit
    """
    rows, width = _dense(g, checkpoint, tokens, width, "token_embeddings")
    g.output(VECTORS_OUTPUT, rows, ["tokens", width])


def _dense(
    g: Graph, checkpoint: Checkpoint, rows: str, width: int, reads: DenseRows
) -> tuple[str, int]:
    """Write the Dense modules; return their rows and how wide these are.

    They stay in float32, whatever the precision: they are small beside the layers.
    """
    for place, dense in enumerate(dense_modules(checkpoint, width, reads)):
        name, width, read = f"head.dense.{place}", len(dense.weight), rows
        rows = g.op("MatMul", rows, g.weight(f"{name}.weight", dense.weight.T))
        if dense.bias is not None:
            rows = g.op("Add", rows, g.weight(f"{name}.bias", dense.bias))
        if dense.activation != "Identity":
            rows = g.op(dense.activation, rows)
        if dense.residual is not None:
            read = g.op("MatMul", read, g.weight(f"{name}.residual", dense.residual.T))
        if dense.adds_rows:
            rows = g.op("Add", rows, read)
    return rows, width
