"""Text that shows a model what it will read: to choose scales by, and to measure the result on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import msgspec

from edgerank.bundle import Bundle
from edgerank.documents import Pair
from edgerank.engine import Engine, gather
from edgerank.manifest import Variant
from edgerank.packing import Batch, pack
from edgerank.prompt import PromptEncoder
from edgerank.reranker import MAX_BATCH_TOKENS
from edgerank.rules import Prepared, ScoringRule, scoring_rule
from quantize.errors import QuantizeError
from quantize.measure.layerwise import Layerwise
from quantize.rounding.rounding import Floats

T = TypeVar("T")

DEFAULT_NAME = "built-in text"
HELD_OUT_EVERY = 4  # one query of so many is for measuring
CANDIDATES = 20  # documents that a held-out query is measured on, others' if it has too few
CALIBRATION_TOKENS = 12288  # more changes little and takes longer
HELD_OUT_TOKENS = 20480


class TextPair(msgspec.Struct, frozen=True):
    """A query and a document; the id names the document in figures."""

    query: str
    document: str
    id: str = ""


@dataclass(frozen=True)
class Calibration:
    """Pairs to choose scales by, and others, with other queries, to measure on."""

    name: str  # where they came from
    pairs: Sequence[TextPair]
    held_out: Sequence[TextPair]


def read_calibration(path: Path | None) -> Calibration:
    """Read JSON Lines of {"query": ..., "document": ..., "id": ...}; the built-in text for None.

    Every fourth query is held out, with all of its documents. Ids default to the line's number.

    :raises QuantizeError: a line is malformed, or there are fewer than two queries
    """
    name = DEFAULT_NAME if path is None else path.name
    try:
        source = files("quantize.measure").joinpath("calibration.jsonl") if path is None else path
        lines = source.read_bytes().splitlines()
    except OSError as error:
        raise QuantizeError(f"{path}: {error.strerror or error}") from error
    pairs = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            pair = msgspec.json.decode(line, type=TextPair)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise QuantizeError(
                f'{path} line {number}: expected {{"query": ..., "document": ...}}: {error}'
            ) from error
        pairs.append(pair if pair.id else msgspec.structs.replace(pair, id=f"{name}:{number}"))
    places = {query: place for place, query in enumerate(dict.fromkeys(p.query for p in pairs))}
    if len(places) < 2:
        raise QuantizeError(
            f"{path}: it has {len(places)} queries; at least 2 are needed, one to calibrate with"
            " and another to measure on"
        )
    last = min(HELD_OUT_EVERY, len(places)) - 1
    parts: tuple[list[TextPair], list[TextPair]] = ([], [])
    for pair in pairs:
        parts[places[pair.query] % HELD_OUT_EVERY == last].append(pair)
    return Calibration(name, parts[0], _with_candidates(parts[1]))


def _with_candidates(pairs: Sequence[TextPair]) -> list[TextPair]:
    """Add other queries' documents to queries that have few."""
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    filled = []
    for place, query in enumerate(queries):
        others = [*queries[place + 1 :], *queries[:place]]
        own = [pair for pair in pairs if pair.query == query]
        borrowed = [pair for other in others for pair in pairs if pair.query == other]
        for pair in borrowed[: max(0, CANDIDATES - len(own))]:
            own.append(msgspec.structs.replace(pair, query=query))
        filled += own
    return filled


@dataclass(frozen=True)
class Draft:
    """A bundle that still lacks the graph of its only variant."""

    bundle: Bundle
    prompt: PromptEncoder
    rule: ScoringRule

    @staticmethod
    def of(bundle: Bundle) -> Draft:
        """Open the prompt of a bundle that has a manifest and a tokenizer."""
        manifest = bundle.manifest
        prompt = PromptEncoder(bundle, manifest.max_length)
        return Draft(bundle, prompt, scoring_rule(manifest.scoring))

    @property
    def variant(self) -> Variant:
        """The variant that is being made."""
        return self.bundle.manifest.variants[0]

    @property
    def graph_path(self) -> Path:
        """Where the variant's graph is to lie."""
        return self.bundle.graph_path(self.variant)

    @property
    def scratch(self) -> Path:
        """A directory for what does not become part of the bundle."""
        return self.bundle.directory / "scratch"

    def prepare(self, pairs: Sequence[TextPair]) -> Prepared[Floats]:
        """Turn pairs into tokens as a reranker does."""
        checked = [Pair(each.query, each.document, i, "pairs") for i, each in enumerate(pairs)]
        return self.rule.prepare(checked, self.prompt.encode, normalize=False)

    def score(self, engine: Layerwise | Engine, pairs: Sequence[TextPair]) -> Floats:
        """Score pairs with an engine as a reranker does: float32 [len(pairs)]."""
        prepared = self.prepare(pairs)
        output = prepared.output
        results = engine.run(micro_batches(prepared, engine), [output.name])
        rows = ((batch, raw) for batch, [raw] in results)
        return prepared.reduce(gather(rows, output, prepared.num_scores))


def micro_batches(prepared: Prepared[Floats], engine: Layerwise | Engine) -> list[Batch]:
    """Return the micro-batches that prepared pairs are run in."""
    return list(pack(prepared.groups, max_tokens=MAX_BATCH_TOKENS, causal=engine.is_causal))


def batches_of(draft: Draft, engine: Layerwise | Engine, pairs: Sequence[TextPair]) -> list[Batch]:
    """Return the micro-batches in which a reranker would run pairs."""
    return micro_batches(draft.prepare(pairs), engine)


def thinned(draft: Draft, engine: Layerwise | Engine, calibration: Calibration) -> Calibration:
    """Leave out what exceeds the budgets of tokens: pairs at even distances, or whole queries."""

    def share(pairs: Sequence[TextPair], budget: int) -> float:
        tokens = sum(len(batch.token_ids) for batch in batches_of(draft, engine, pairs))
        return min(1.0, budget / max(tokens, 1))

    pairs = _spread(calibration.pairs, share(calibration.pairs, CALIBRATION_TOKENS))
    queries = list(dict.fromkeys(pair.query for pair in calibration.held_out))
    kept = {*_spread(queries, share(calibration.held_out, HELD_OUT_TOKENS))}
    held_out = [pair for pair in calibration.held_out if pair.query in kept]
    return Calibration(calibration.name, pairs, held_out)


def _spread(items: Sequence[T], share: float) -> list[T]:
    """Keep a share of the items, at least one, at even distances."""
    count = max(1, int(len(items) * share))
    return [items[index * len(items) // count] for index in range(count)]
