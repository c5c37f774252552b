"""Reranking on Ray Data: ``rerank`` for a dataset, ``RerankStage`` for a pipeline of one's own.

    dataset ──cut──▶ pieces of about as many tokens each ──RerankStage──▶ the rows, with scores

A piece is the unit of work: an actor scores it as a whole, and Ray has another one do so if the
actor or its node is lost. Scores are those of ``Reranker``, bit for bit with compiled kernels.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.data import ActorPoolStrategy, Dataset

from edgerank.batch.inputs import RowRecord, checked
from edgerank.batch.job import Asking, BadRow
from edgerank.batch.scoring import Scored, score_rows
from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.cpu import default_threads, physical_cores
from edgerank.documents import LongDocuments, check_long_documents
from edgerank.errors import InputError
from edgerank.reranker import Reranker

Errors = Literal["raise", "null"]

PIECE = "edgerank.rows"  # the column of a cut dataset: a piece's rows, as one list
PIECE_TOKENS = 1 << 16  # some seconds of a small model on a core, a minute of a large one
BYTES_PER_TOKEN = 4  # of English text in UTF-8; what is cut by it need not be exact


def rerank(
    dataset: Dataset,
    bundle: str | os.PathLike[str] | None = None,
    *,
    num_cpus: int = 1,
    actors: tuple[int, int | None] = (1, None),
    piece_tokens: int = PIECE_TOKENS,
    **options: Any,
) -> Dataset:
    """Add the scores of its documents to each row of a dataset; rows may change their order.

    :param dataset: rows with the columns "query" and "documents", which get "scores", or "query"
        and "document", which get "score"
    :param bundle: a directory that every node has; the model in the package by default
    :param num_cpus: CPUs of an actor, as Ray counts them
    :param actors: the fewest and the most; with None, as many as the cluster has room for
    :param piece_tokens: of an actor's task, estimated
    :param options: further arguments of ``RerankStage``
    """
    fewest, most = actors
    return cut(dataset, piece_tokens).map_batches(
        RerankStage,
        fn_constructor_kwargs={"bundle": bundle, **options},
        batch_size=None,  # a block, which is a piece
        batch_format="pyarrow",
        compute=ActorPoolStrategy(min_size=fewest, max_size=most),
        num_cpus=num_cpus,
    )


def cut(dataset: Dataset, tokens: int = PIECE_TOKENS) -> Dataset:
    """Cut a dataset into blocks of about so many tokens, whatever its rows' lengths.

    Each block has one row, whose column "edgerank.rows" is a list of rows of the dataset; a
    ``RerankStage`` reads it. A row with more tokens is a block of its own.
    """

    def pieces(table: pa.Table) -> Iterator[pa.Table]:
        rows = table.combine_chunks().to_struct_array()
        rows = rows.chunk(0) if isinstance(rows, pa.ChunkedArray) else rows
        for start, end in _spans(_tokens_of(table), tokens):
            offsets = pa.array([0, end - start], pa.int32())
            yield pa.table({PIECE: pa.ListArray.from_arrays(offsets, rows[start:end])})

    # Ray puts small blocks together, and joins a step to the next, unless rows are to be counted
    blocks = dataset.map_batches(pieces, batch_size=None, batch_format="pyarrow")
    return blocks.repartition(target_num_rows_per_block=1, strict=True)


class RerankStage:
    """Scores batches of rows, with one model that it opens: ``map_batches`` makes actors of it.

    dataset.map_batches(
        RerankStage,
        fn_constructor_kwargs={"bundle": "models/minilm"},
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=8),
        num_cpus=4,
    )
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | None = None,
        *,
        errors: Errors = "raise",
        threads: int | None = None,
        instruction: str | None = None,
        normalize: bool = False,
        long_documents: LongDocuments | None = None,
        **options: Any,
    ) -> None:
        """Open the model.

        :param bundle: a directory of this node; the model in the package by default
        :param errors: what becomes of a row that cannot be scored: "raise" ends the job; with
            "null" its scores are null and the reason is in the column "error"
        :param threads: ``actor_threads()`` by default
        :param options: further arguments of ``Reranker``

        The others are those of ``Reranker.score``; errors are those of ``Reranker``.
        """
        if errors not in get_args(Errors):
            raise InputError(
                "errors", f"{errors!r} is unknown; choose {', '.join(get_args(Errors))}"
            )
        check_long_documents(long_documents)
        directory = DEFAULT_BUNDLE if bundle is None else bundle
        self.reranker = Reranker(directory, threads=keep_to_share(threads), **options)
        self._errors = errors
        self._asking = Asking(instruction, normalize, long_documents)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Add the column "scores", or "score", and "error" if errors are null.

        :raises InputError: a row cannot be scored, the batch is no table, or a column is missing
        """
        if not isinstance(batch, pa.Table):
            kind = type(batch).__name__
            raise InputError("batch", f"got {kind}; call map_batches with batch_format='pyarrow'")
        if batch.column_names == [PIECE]:
            batch = pa.Table.from_struct_array(batch.column(PIECE).combine_chunks().flatten())
        scores: list[Any] = [None] * len(batch)
        reasons: list[str | None] = [None] * len(batch)
        rows = checked("", _records_of(batch), None)
        for result in score_rows(self.reranker, rows, self._asking):
            if isinstance(result, Scored):
                scores[result.row.number] = result.scores
                continue
            reasons[result.row] = result.reason
            if self._errors == "raise":
                raise InputError(_name_of(batch, result.row), result.reason)
        if "documents" in batch.column_names:
            batch = batch.append_column("scores", pa.array(scores, pa.list_(pa.float32())))
        else:
            single = [None if one is None else one[0] for one in scores]
            batch = batch.append_column("score", pa.array(single, pa.float32()))
        if self._errors == "null":
            batch = batch.append_column("error", pa.array(reasons, pa.string()))
        return batch


def keep_to_share(threads: int | None = None) -> int:
    """Return the threads of an actor's model, and have its tokenizer take no more.

    :param threads: ``actor_threads()`` by default
    """
    threads = actor_threads() if threads is None else threads
    os.environ["RAYON_NUM_THREADS"] = str(threads)  # read when the first text is tokenised
    return threads


def actor_threads() -> int:
    """Return the threads that the process may compute with, at least 1.

    In an actor or a task of Ray that is its share of the node's physical cores: Ray counts hardware
    threads, gives no affinity, and starts as many actors as their CPUs allow. Elsewhere, and as the
    most in any case, it is ``cpu.default_threads()``.
    """
    threads = default_threads()
    if not ray.is_initialized():
        return threads
    context = ray.get_runtime_context()
    if context.worker.mode != ray.WORKER_MODE:
        return threads
    assigned = context.get_assigned_resources().get("CPU", 0)
    node = context.get_node_id()
    (total,) = (one["Resources"].get("CPU", 1) for one in ray.nodes() if one["NodeID"] == node)
    return max(1, min(threads, int(physical_cores() * assigned / total)))


def _records_of(batch: pa.Table) -> Iterator[tuple[int, RowRecord | BadRow]]:
    """Yield the query and the documents of each row, with its number, from 0.

    :raises InputError: a column is missing
    """
    names = batch.column_names
    documents = "documents" if "documents" in names else "document"
    for wanted in ("query", documents):
        if wanted not in names:
            raise InputError(wanted, f"no such column; there are {', '.join(names) or 'none'}")
    for number, row in enumerate(batch.select(["query", documents]).to_pylist()):
        fields = row if documents == "documents" else {**row, "documents": [row["document"]]}
        try:
            yield number, msgspec.convert(fields, RowRecord)
        except msgspec.ValidationError as error:
            yield number, BadRow("", number, None, str(error))


def _name_of(batch: pa.Table, number: int) -> str:
    """Say which row it is, by its id if it has one."""
    if "id" in batch.column_names:
        return f"the row with the id {batch.column('id')[number].as_py()!r}"
    return f"row {number} of a batch"


def _tokens_of(table: pa.Table) -> list[int]:
    """Estimate the tokens of each row: those of its documents, each with the query beside it."""
    queries = _bytes_of(table.column("query")) if "query" in table.column_names else 0
    if "documents" in table.column_names:
        lists = table.column("documents").combine_chunks()
        lengths = np.asarray(pc.fill_null(pc.list_value_length(lists), 0))
        parents = np.asarray(pc.list_parent_indices(lists))
        sizes = np.bincount(parents, _bytes_of(pc.list_flatten(lists)), len(table))
        total = sizes + lengths * queries
    elif "document" in table.column_names:
        total = _bytes_of(table.column("document")) + queries
    else:
        total = np.zeros(len(table))
    return [int(size) // BYTES_PER_TOKEN + 1 for size in total]


def _bytes_of(texts: Any) -> Any:
    """Return the bytes of each text or, of a document with fields, of them all: int64 [n]."""
    texts = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    if pa.types.is_struct(texts.type):
        fields = (pc.struct_field(texts, [place]) for place in range(texts.type.num_fields))
        return sum((_bytes_of(field) for field in fields), np.zeros(len(texts), np.int64))
    if not (pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type)):
        return np.zeros(len(texts), np.int64)  # the stage says what is wrong with it
    return np.asarray(pc.fill_null(pc.binary_length(texts), 0), np.int64)


def _spans(tokens: Sequence[int], budget: int) -> Iterator[tuple[int, int]]:
    """Cut rows into runs within a budget of tokens: the first of each, and the one after it."""
    start, total = 0, 0
    for place, count in enumerate(tokens):
        if place > start and total + count > budget:
            yield start, place
            start, total = place, 0
        total += count
    if start < len(tokens):
        yield start, len(tokens)
