"""Late interaction: a BERT encodes query and document apart, and their tokens are compared.

Each pair is one sequence, [CLS] query [SEP] [CLS] document [SEP], in which neither part sees the
other. The last layer's vectors are projected to fewer dimensions, which a store keeps. Three
features come of them, and a linear layer makes a logit of these:

* cosine: of the parts' mean vectors, as an embedding model's
* nearest: a query token's cosine with the nearest word of the document (Khattab and Zaharia,
  "ColBERT", SIGIR 2020), weighted by how rare the token is
* exact: which share of the query's weight the document's words have as they are, repetitions
  saturating and long documents discounted as in BM25 (Robertson and Zaragoza, "The Probabilistic
  Relevance Framework: BM25 and Beyond", 2009)

A token's weight comes with the checkpoint, so that a pair's score depends on nothing but the pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from edgerank.manifest import Comparison
from quantize.architectures.bert import BERT, Bert, BertInputs
from quantize.architectures.embedding import VECTORS_OUTPUT
from quantize.checkpoint.files import Checkpoint, Floats, one_label
from quantize.graph.builder import Graph
from quantize.graph.grid import token_slots, with_mask
from quantize.graph.precision import Precision
from quantize.graph.substitutes import equal, last_axis_maximum
from quantize.graph.vectors import TINY, unit_rows
from quantize.rounding.transforms import Rotation

ARCHITECTURE = "BertForLateInteraction"  # in config.json; transformers has none like it
FEATURES = ("cosine", "nearest", "exact")
FEATURES_OUTPUT = "features"  # of the graph, beside its scores: what calibration reads
FARTHEST = -1.0  # a cosine that none is below: of documents without a word


class LexicalConfig(msgspec.Struct, frozen=True):
    """The constants of BM25."""

    average_length: float  # tokens of a document
    k1: float = 1.2
    b: float = 0.5

    @property
    def saturation(self) -> tuple[float, float]:
        """How many repetitions of a word count half: for any document, and more for each token."""
        return self.k1 * (1 - self.b), self.k1 * self.b / self.average_length


class LateInteractionConfig(msgspec.Struct, frozen=True):
    """The part of config.json that is not BERT's."""

    lexical: LexicalConfig
    dimension: int  # of a token's vector


@dataclass(frozen=True)
class PairInputs(BertInputs):
    """BERT's inputs, with both parts of a pair apart; B pairs of L slots."""

    is_query: str  # float32 [B, L], 1 or 0
    is_document: str  # float32 [B, L]


class LateInteraction(Bert):
    """BERT with a logit a pair."""

    def __init__(self, checkpoint: Checkpoint, rotation: Rotation | None = None) -> None:
        """Read the configuration.

        :param rotation: of each head's values
        :raises QuantizeError: it lacks a field or asks for what the graph does not do
        """
        super().__init__(checkpoint, "mean", BERT, rotation)
        own = checkpoint.config_as(LateInteractionConfig)
        self._lexical, self._dimension = own.lexical, own.dimension

    def rotated(self, outliers: Sequence[int]) -> LateInteraction:
        return LateInteraction(self._checkpoint, Rotation.random(self.config.head_size, seed=1))

    def comparison(self, table: str) -> tuple[Comparison, Floats]:
        """Describe the head, for texts that are encoded apart, with the tokens' weights.

        :param table: name of the file that the weights go to
        :return: the description, and float32 [vocabulary]
        """
        load = self._checkpoint.tensor
        cosine, nearest, exact = map(
            float, one_label(self._checkpoint, "head.weight", len(FEATURES))
        )
        [bias] = map(float, load("head.bias", 1))
        saturation = self._lexical.saturation
        weights = load("token_weights", self.config.vocab_size).astype(np.float32)
        return Comparison(cosine, nearest, exact, bias, saturation, table), weights

    def declare(self, g: Graph) -> PairInputs:
        """Declare BERT's inputs; the parts neither see each other nor count each other's tokens."""
        inputs = super().declare(g)
        shared, grid = inputs.shared, inputs.shared.grid
        g.scope = "parts"
        types = g.op("Gather", inputs.token_types, grid.query_rows)  # [B, L]
        is_token = g.op("Cast", token_slots(g, grid), to=1)
        is_document = g.op("Mul", is_token, g.op("Cast", types, to=1))
        is_query = g.op("Sub", is_token, is_document)
        length = g.op("Shape", grid.query_rows, start=1, end=2)
        sequences = g.op("Div", grid.slots, length)  # [T]
        num_query = g.op("Cast", g.op("ReduceSum", is_query, g.constant([1]), keepdims=0), to=7)
        shift = g.op("Mul", inputs.token_types, g.op("Gather", num_query, sequences))
        positions = g.op("Max", g.op("Sub", shared.positions, shift), g.constant([0]))
        apart = with_mask(g, replace(grid, parts=inputs.token_types))
        shared = replace(shared, positions=positions, grid=apart)
        return PairInputs(shared, inputs.token_types, is_query, is_document)

    def finish(self, g: Graph, precision: Precision, inputs: BertInputs, x: str) -> None:
        assert isinstance(inputs, PairInputs)
        g.scope = "head"
        rows = inputs.shared.grid.query_rows
        load, vocabulary = self._checkpoint.tensor, self.config.vocab_size
        projection = load("projection.weight", self._dimension, self.stream_width)
        normed = self._weights.norm(self.num_layers).write(g, x)
        vectors = g.op("MatMul", normed, g.weight("projection.weight", projection.T))
        g.output(VECTORS_OUTPUT, vectors, ["tokens", self._dimension])
        table = g.weight("token_weights", load("token_weights", vocabulary))
        ids = g.op("Gather", inputs.shared.token_ids, rows)  # [B, L]
        weights = g.op("Gather", table, ids)
        is_weighty = g.op("Cast", g.op("Greater", weights, g.constant(0.0)), to=1)
        is_word = g.op("Mul", inputs.is_document, is_weighty)
        query_weights = g.op("Mul", inputs.is_query, weights)
        total = g.op("ReduceSum", query_weights, g.constant([1]), keepdims=1)
        shares = g.op("Div", query_weights, g.op("Max", total, g.constant(TINY)))
        features = [
            self._cosine(g, inputs, g.op("Gather", vectors, rows)),
            _weighted(
                g, shares, self._nearest(g, g.op("Gather", unit_rows(g, vectors), rows), is_word)
            ),
            _weighted(g, shares, self._exact(g, ids, is_word)),
        ]
        together = g.op("Concat", *features, axis=1)  # [B, 3]
        row = one_label(self._checkpoint, "head.weight", len(FEATURES))
        logits = g.op("MatMul", together, g.weight("head.weight", row[:, None]))
        logits = g.op("Add", logits, g.weight("head.bias", load("head.bias", 1)))
        g.output("scores", g.op("Squeeze", logits, g.constant([1])), ["scored"])
        g.output(FEATURES_OUTPUT, together, ["scored", len(FEATURES)])

    def _cosine(self, g: Graph, inputs: PairInputs, grid: str) -> str:
        """Compare the parts' mean vectors: float32 [B, 1] from the grid's vectors [B, L, D]."""
        means = []
        for part in (inputs.is_query, inputs.is_document):
            row = g.op("Unsqueeze", part, g.constant([1]))
            means.append(unit_rows(g, g.op("Squeeze", g.op("MatMul", row, grid), g.constant([1]))))
        return g.op("ReduceSum", g.op("Mul", *means), g.constant([1]), keepdims=1)

    def _nearest(self, g: Graph, units: str, is_word: str) -> str:
        """Find each slot's cosine with the nearest word of the document: float32 [B, L]."""
        cosines = g.op("MatMul", units, g.op("Transpose", units, perm=[0, 2, 1]))  # [B, L, L]
        columns = g.op("Cast", g.op("Unsqueeze", is_word, g.constant([1])), to=9)
        among_words = g.op("Where", columns, cosines, g.constant(FARTHEST))
        return last_axis_maximum(g, among_words)

    def _exact(self, g: Graph, ids: str, is_word: str) -> str:
        """Count each slot's token among the document's words, saturating: float32 [B, L]."""
        rows, columns = (g.op("Unsqueeze", ids, g.constant([axis])) for axis in (2, 1))
        same = g.op("Cast", equal(g, rows, columns), to=1)  # [B, L, L]
        counts = g.op("MatMul", same, g.op("Unsqueeze", is_word, g.constant([2])))
        counts = g.op("Squeeze", counts, g.constant([2]))
        base, slope = self._lexical.saturation
        num_words = g.op("ReduceSum", is_word, g.constant([1]), keepdims=1)
        saturation = g.op("Add", g.op("Mul", num_words, g.constant(slope)), g.constant(base))
        return g.op("Div", counts, g.op("Add", counts, saturation))


def _weighted(g: Graph, shares: str, values: str) -> str:
    """Add up the values of a query's tokens by their shares: float32 [B, 1] from [B, L] each."""
    return g.op("ReduceSum", g.op("Mul", shares, values), g.constant([1]), keepdims=1)
