"""What a model's modules make of rows: a score or a vector a sequence, or one for each token."""

from __future__ import annotations

from quantize.checkpoint.files import Checkpoint
from quantize.checkpoint.modules import (
    LAYER_NORM_EPSILON,
    DenseModule,
    LayerNormModule,
    RowModules,
    Rows,
    row_modules,
)
from quantize.checkpoint.sidecars import modules_kind
from quantize.errors import QuantizeError
from quantize.graph.builder import Graph
from quantize.graph.parameters import Norm
from quantize.graph.vectors import unit_rows

OPERATORS = {"GELU": "Gelu", "ReLU": "Relu", "Sigmoid": "Sigmoid", "Tanh": "Tanh"}
VECTORS_OUTPUT = "token_vectors"  # each token's vector before it has length 1, float32 [T, D]


def write_pooled(g: Graph, checkpoint: Checkpoint, pooled: str, width: int) -> None:
    """Write the modules after pooling and the output: a score, or a vector of length 1.

    :param pooled: float32 [R, width]
    :raises QuantizeError: a module is not supported or does not fit, or they give no single score
    """
    rows, chain = _write_chain(g, checkpoint, pooled, width, "sentence_embedding")
    if modules_kind(checkpoint) != "pooled-score":
        g.output("embeddings", unit_rows(g, rows), ["scored", chain.width])
        return
    if chain.gives != "scores" or chain.width != 1:
        raise QuantizeError(
            f"{checkpoint.directory / 'modules.json'}: the last module writes {chain.width} values"
            f" to {chain.gives!r}; a reranker needs exactly one in 'scores'"
        )
    g.output("scores", g.op("Squeeze", rows, g.constant([1])), ["scored"])


def write_token_vectors(g: Graph, checkpoint: Checkpoint, tokens: str, width: int) -> None:
    """Write the Dense modules and the output, a vector for each token.

    :param tokens: float32 [T, width]
    :raises QuantizeError: a Dense module is not supported, or does not fit
    """
    rows, chain = _write_chain(g, checkpoint, tokens, width, "token_embeddings")
    g.output(VECTORS_OUTPUT, rows, ["tokens", chain.width])


def _write_chain(
    g: Graph, checkpoint: Checkpoint, rows: str, width: int, reads: Rows
) -> tuple[str, RowModules]:
    """Write the modules that follow ``rows``; return what they make of these.

    They stay in float32, whatever the precision: they are small beside the layers.
    """
    chain = row_modules(checkpoint, width, reads)
    for place, module in enumerate(chain.modules):
        name = f"head.modules.{place}"
        if isinstance(module, DenseModule):
            rows = _write_dense(g, name, module, rows)
        elif isinstance(module, LayerNormModule):
            norm = Norm(name, "layer", module.gain, module.bias, LAYER_NORM_EPSILON)
            rows = norm.write(g, rows)
        else:
            rows = unit_rows(g, rows)
    return rows, chain


def _write_dense(g: Graph, name: str, dense: DenseModule, rows: str) -> str:
    read = rows
    rows = g.op("MatMul", rows, g.weight(f"{name}.weight", dense.weight.T))
    if dense.bias is not None:
        rows = g.op("Add", rows, g.weight(f"{name}.bias", dense.bias))
    if dense.activation == "SiLU":
        rows = g.op("Mul", rows, g.op("Sigmoid", rows))
    elif dense.activation != "Identity":
        rows = g.op(OPERATORS[dense.activation], rows)
    if dense.residual is not None:
        read = g.op("MatMul", read, g.weight(f"{name}.residual", dense.residual.T))
    return g.op("Add", rows, read) if dense.adds_rows else rows
