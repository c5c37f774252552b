"""Does a downloaded checkpoint score as its reference does?

CHECKPOINT is quantized to float32 and to int8, and both are held against the scores that the
model's authors, sentence-transformers, FlagEmbedding, fastembed or text-embeddings-inference
published for the same texts: a row for each. The exit status is 1 if float32 misses a tolerance.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from benchmarks.common import options
from benchmarks.common.paths import shared
from benchmarks.common.record import Figure, Row
from edgerank import Reranker
from quantize import quantize

RECORDS = "reference-scores/reference_scores.json"  # shared
DIGITS = 0.01  # what records without a tolerance are taken to be exact to, relative to 1 or more
COMPARABLE = ("activated", "logit", "sigmoid")  # kinds; others are of single texts or other engines
INCOMPARABLE = ("SINGLE", "GGUF", "int8", "Int8", "CTranslate")


class PublishedRecord(msgspec.Struct, frozen=True):
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


def read_records(path: Path) -> list[PublishedRecord]:
    """Read the published scores that a reranker's can be held against."""
    records = msgspec.json.decode(path.read_bytes(), type=list[PublishedRecord])
    return [record for record in records if record.is_comparable]


def records_of(records: Sequence[PublishedRecord], name: str) -> list[PublishedRecord]:
    """Find those of a model, by its full name or the part after the owner's."""
    return [record for record in records if name in (record.model, record.model.split("/")[-1])]


def differences(
    reranker: Reranker, records: Sequence[PublishedRecord]
) -> Iterator[tuple[PublishedRecord, float]]:
    """Yield the largest difference of each record, relative to scores beyond 1."""
    for record in records:
        known = np.array([np.nan if s is None else s for s in record.scores], np.float64)
        scores = reranker.score(record.query, record.documents or []).astype(np.float64)
        activation = reranker.bundle.manifest.scoring.activation
        if record.kind.startswith("logit") and activation == "sigmoid":
            scores = np.log(scores / (1 - scores))  # within 0.001 up to logits of 10
        elif record.kind.startswith("sigmoid") and activation == "identity":
            scores = 1 / (1 + np.exp(-scores))
        yield record, float(np.nanmax(np.abs(scores - known) / np.maximum(1, np.abs(known))))


@click.argument("checkpoint", type=options.DIRECTORY)
@click.option("--model", help="Its name in the records; by default the directory's.")
@click.option(
    "--records",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The published scores; by default those of the shared data.",
)
def measure(checkpoint: Path, model: str | None, records: Path | None) -> Iterator[Row]:
    name = model or checkpoint.resolve().name
    known = records_of(read_records(records or shared(RECORDS)), name)
    if not known:
        raise click.ClickException(f"{name}: no published scores; pass --model")
    missed = []
    with tempfile.TemporaryDirectory() as scratch:
        for precision in ("fp32", "int8"):
            quantize(checkpoint, Path(scratch) / precision, precision=precision)
            reranker = Reranker(Path(scratch) / precision)
            for record, difference in differences(reranker, known):
                yield row(name, precision, record, difference)
                if precision == "fp32" and difference > record.allowed:
                    missed.append(record.source)
    if missed:
        raise click.ClickException(f"float32 misses the scores of {', '.join(missed)}")


def row(model: str, precision: str, record: PublishedRecord, difference: float) -> Row:
    labels = {
        "model": model,
        "precision": precision,
        "published": f"{record.kind[:20]} in {record.precision}",
        "source": record.source,
    }
    figures = {"largest difference": Figure(difference), "allowed": Figure(record.allowed)}
    return Row(labels, figures)
