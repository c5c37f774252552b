"""Does a downloaded checkpoint score as its reference does? One line a published record.

    python -m benchmarks.published CHECKPOINT [--model NAME]

The checkpoint is quantized to float32 and to int8, and both are held against the scores that the
model's authors, sentence-transformers, FlagEmbedding, fastembed or text-embeddings-inference
published for the same texts. The exit status is 1 if float32 misses a tolerance.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgerank import Reranker
from quantize import quantize

RECORDS = Path(__file__).parents[2] / "shared/reference-scores/reference_scores.json"
DIGITS = 0.01  # what records without a tolerance are taken to be exact to, relative to 1 or more
COMPARABLE = ("activated", "logit", "sigmoid")  # kinds; others are of single texts or other engines
INCOMPARABLE = ("SINGLE", "GGUF", "int8", "Int8", "CTranslate")


class Record(msgspec.Struct, frozen=True):
    """Scores that someone published."""

    model: str
    query: str
    documents: list[str] | None  # None: the single text that a record is of
    scores: list[Any]  # a number a document, or None where it was not printed
    kind: str
    precision: str
    tolerance: float | str | None = None
    source: str = ""

    @property
    def allowed(self) -> float:
        """How far float32 may be off."""
        if isinstance(self.tolerance, float | int):
            return max(float(self.tolerance), DIGITS if "16" in self.precision else 0.0)
        return DIGITS

    @property
    def is_comparable(self) -> bool:
        words = self.kind + " " + self.precision
        is_pair = self.documents is not None and self.kind.startswith(COMPARABLE)
        return is_pair and not any(word in words for word in INCOMPARABLE)


def read_records(path: Path = RECORDS) -> list[Record]:
    """Read the published scores that a reranker's can be held against."""
    records = msgspec.json.decode(path.read_bytes(), type=list[Record])
    return [record for record in records if record.is_comparable]


def records_of(records: Sequence[Record], name: str) -> list[Record]:
    """Find those of a model, by its full name or the part after the owner's."""
    return [record for record in records if name in (record.model, record.model.split("/")[-1])]


def differences(reranker: Reranker, records: Sequence[Record]) -> Iterator[tuple[Record, float]]:
    """Yield the largest difference of each record, relative to scores beyond 1."""
    for record in records:
        known = np.array([np.nan if s is None else s for s in record.scores], np.float64)
        scores = reranker.score(record.query, record.documents).astype(np.float64)
        activation = reranker.bundle.manifest.scoring.activation
        if record.kind.startswith("logit") and activation == "sigmoid":
            scores = np.log(scores / (1 - scores))  # within 0.001 up to logits of 10
        elif record.kind.startswith("sigmoid") and activation == "identity":
            scores = 1 / (1 + np.exp(-scores))
        yield record, float(np.nanmax(np.abs(scores - known) / np.maximum(1, np.abs(known))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--model", help="its name in the records; the directory's by default")
    parser.add_argument("--records", type=Path, default=RECORDS)
    arguments = parser.parse_args()
    name = arguments.model or arguments.checkpoint.resolve().name
    records = records_of(read_records(arguments.records), name)
    if not records:
        sys.exit(f"{name}: no published scores; pass --model")
    is_exact = True
    with tempfile.TemporaryDirectory() as scratch:
        for precision in ("fp32", "int8"):
            quantize(arguments.checkpoint, Path(scratch) / precision, precision=precision)
            reranker = Reranker(Path(scratch) / precision)
            for record, difference in differences(reranker, records):
                print(
                    f"{precision}  off by {difference:.4f} at most, {record.allowed:g} allowed,"
                    f" {record.kind[:20]} in {record.precision}, {record.source}"
                )
                is_exact &= precision == "int8" or difference <= record.allowed
    sys.exit(0 if is_exact else 1)


if __name__ == "__main__":
    main()
