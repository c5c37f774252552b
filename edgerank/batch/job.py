"""A job as data: what is read, what scores it, and its shards. ``_job.json`` of the output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

InputFormat = Literal["jsonl", "parquet", "trec"]
OutputFormat = Literal["jsonl", "parquet", "trec"]
# a row has a query and its documents, or the id of a query and the id of a document
Kind = Literal["rows", "pairs"]

FORMAT_VERSION = 1
SHARD_PAIRS = 4096  # of a shard, by default: what a kill loses at most, for each process
MAX_BAD_ROWS = 100
PROCESSES = 1


@dataclass(frozen=True)
class Source:
    """Where the rows are."""

    files: tuple[Path, ...]  # in their order
    format: InputFormat
    corpus: Path | None = None  # JSONL as in BEIR's layout, for pairs of ids
    queries: Path | None = None

    @property
    def kind(self) -> Kind:
        return "rows" if self.corpus is None else "pairs"

    @property
    def all_files(self) -> list[Path]:
        """The files of rows and of texts."""
        return [*self.files, *(path for path in (self.corpus, self.queries) if path is not None)]


@dataclass(frozen=True)
class Row:
    """A query and documents, all checked."""

    number: int  # of the line, or of the row in a Parquet file, from 1
    id: str | int  # the row's own, or its number; of pairs, the query's
    query: str
    texts: tuple[str, ...]
    names: tuple[str, ...]  # ids of the documents, or their places from 0


@dataclass(frozen=True)
class Cluster:
    """Where actors of Ray score, instead of processes."""

    address: str | None = None  # as for ``ray.init``; a cluster of this machine by default
    actor_cpus: int = 1  # of an actor, as Ray counts them
    actors: int | None = None  # at most; as many as there is room for by default


class BadRow(msgspec.Struct, frozen=True):
    """A row that has no scores: a line of the side file."""

    file: str
    row: int  # of the line, or of the row in a Parquet file, from 1
    id: str | int | None
    reason: str
    pairs: int = 1  # that it would have been; a row that cannot be read counts as one


class InputFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file that is read, by its content."""

    name: str  # without its directory
    size: int  # bytes
    sha256: str  # hexadecimal


class Asking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How documents are scored: parameters of ``Reranker.score``."""

    instruction: str | None = None
    normalize: bool = False
    long_documents: Literal["truncate", "split", "refuse"] | None = None


class Scorer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All that scores depend on besides the texts."""

    model: str
    bundle: str  # digest
    variant: str
    kernels: str
    threads: int | None  # None with compiled kernels, whose scores do not depend on them
    max_length: int
    max_batch_tokens: int
    asking: Asking
    edgerank: str  # versions
    onnxruntime: str


class Shard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Consecutive rows of one file, which one file of the output has the scores of."""

    file: int  # place in the job's inputs
    start: int  # bytes from the beginning, or rows of a Parquet file
    end: int
    number: int  # of the first row, from 1
    pairs: int  # to score, if no row is bad


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of ``_job.json``: written when the job begins, and once more when it is done."""

    format_version: int
    kind: Kind
    input_format: InputFormat
    inputs: tuple[InputFile, ...]
    corpus: InputFile | None
    queries: InputFile | None
    scorer: Scorer
    format: OutputFormat
    integer_ids: bool  # of rows, in Parquet; they are strings otherwise
    shard_pairs: int
    shards: tuple[Shard, ...] = ()
    is_complete: bool = False
    scored_pairs: int | None = None  # once it is complete, as is the next
    bad_rows: int | None = None

    @property
    def pairs(self) -> int:
        """Pairs of all shards, those of bad rows among them."""
        return sum(shard.pairs for shard in self.shards)

    def part(self, number: int) -> str:
        """Return the name of a shard's file."""
        return f"part-{number:0{self._digits}}.{self.format}"

    def bad_part(self, number: int) -> str:
        """Return the name of the file with a shard's bad rows, which is there until the end."""
        return f"_bad-{number:0{self._digits}}.jsonl"

    @property
    def _digits(self) -> int:
        return max(5, len(str(len(self.shards) - 1)))
