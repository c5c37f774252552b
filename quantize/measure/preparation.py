"""Prepares and packs pairs of text as the runtime does, and computes their scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgerank.documents import validate_pairs
from edgerank.engine import gather
from edgerank.packing import STOCK_BATCH_TOKENS, Batch, pack
from edgerank.prompt import PromptEncoder
from edgerank.ranking import Scores
from edgerank.rules import Prepared, ScoringRule
from quantize.measure.calibration import Calibration, TextPair, thinned
from quantize.rounding.rounding import Floats


@dataclass(frozen=True)
class PackedPairs:
    """Pairs, their micro-batches, and the computation of scores from results."""

    pairs: Sequence[TextPair]
    prepared: Prepared[Scores]
    batches: Sequence[Batch]

    def scores(self, results: Iterable[tuple[Batch, Floats]]) -> Floats:
        """Compute scores from the results of micro-batches: float32 [len(pairs)]."""
        output, num_scores = self.prepared.output, self.prepared.num_scores
        return self.prepared.reduce(gather(results, output, num_scores))


@dataclass(frozen=True)
class PackedCalibration:
    """A calibration text, ready to be run."""

    name: str
    calibration: PackedPairs
    held_out: PackedPairs


def prepare_pairs(
    pairs: Sequence[TextPair], rule: ScoringRule, prompt: PromptEncoder
) -> Prepared[Scores]:
    """Turn pairs into sequences of tokens to run."""
    checked = validate_pairs((pair.query, pair.document) for pair in pairs)
    return rule.prepare(checked, prompt.encode, normalize=False)


def pack_calibration(
    calibration: Calibration, rule: ScoringRule, prompt: PromptEncoder, *, causal: bool
) -> PackedCalibration:
    """Reduce a calibration text to the budgets of tokens, and pack it.

    :param causal: whether the model is a decoder
    """

    def pack_pairs(pairs: Sequence[TextPair]) -> PackedPairs:
        prepared = prepare_pairs(pairs, rule, prompt)
        batches = list(pack(prepared.groups, max_tokens=STOCK_BATCH_TOKENS, causal=causal))
        return PackedPairs(pairs, prepared, batches)

    chosen = thinned(calibration, lambda pairs: prepare_pairs(pairs, rule, prompt).num_tokens)
    return PackedCalibration(
        chosen.name, calibration=pack_pairs(chosen.pairs), held_out=pack_pairs(chosen.held_out)
    )
