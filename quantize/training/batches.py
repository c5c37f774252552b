"""The lists of a step: queries, their passages, and which of these are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from quantize.training.corpus import CorpusRecord
from quantize.training.mining import Candidates


@dataclass(frozen=True)
class TrainingSettings:
    """What must be the same for a run to go on."""

    steps: int
    size: int = 2  # passages of a list, the right one first
    lists_a_step: int = 32
    rate: float = 2e-5
    known: float = 0.5  # share of the target that is the right passage; the rest is the teacher's
    other_cosine: bool = False  # whether the teacher's cosine is that of an embedding model
    bfloat16: bool = False  # encode in bfloat16
    seed: int = 0
    passages_as_queries: float = 0.0  # share of the lists that are compared with a passage


@dataclass(frozen=True)
class TrainingBatch:
    """The lists of one step."""

    queries: list[str]  # Q; the first ``as_queries`` are passages of their lists
    passages: list[str]  # D = Q * size, a list's in a row, the right one of its own query first
    is_wrong: Tensor  # bool [Q, D]: known not to be the query's right passage, nor of its page
    numbers: list[int]  # D, of the passages' records
    query_numbers: list[int]  # Q, of the queries' records
    as_queries: int  # number of queries that are passages

    @property
    def size(self) -> int:
        return len(self.passages) // len(self.queries)

    @property
    def is_right(self) -> Tensor:
        """Bool [Q, D]."""
        right = torch.zeros_like(self.is_wrong)
        places = torch.arange(len(self.queries))
        right[places, places * self.size] = True
        return right

    @property
    def is_own(self) -> Tensor:
        """Bool [Q, D]: of the query's own list."""
        return torch.eye(len(self.queries), dtype=torch.bool).repeat_interleave(self.size, dim=1)


def batch_of(
    records: Sequence[CorpusRecord],
    lists: Sequence[Candidates],
    settings: TrainingSettings,
    step: int,
) -> TrainingBatch:
    """Choose the lists of a step, and of each its right passage and some others."""
    random = Random(f"{settings.seed} {step}")
    chosen = random.sample(lists, min(settings.lists_a_step, len(lists)))
    places = [
        [item.passages[0], *random.sample(item.passages[1:], settings.size - 1)] for item in chosen
    ]
    as_queries = round(settings.passages_as_queries * len(chosen))
    others = [
        random.choice([place for place in item.passages if place not in row])
        for item, row in zip(chosen[:as_queries], places, strict=False)
    ]
    numbers = [place for row in places for place in row]
    found = [records[place] for place in numbers]
    right = [records[row[0]] for row in places]
    is_wrong = [
        [
            (other.source, other.page) != (own.source, own.page) and other.passage != own.passage
            for other in found
        ]
        for own in right
    ]
    return TrainingBatch(
        [records[place].passage for place in others] + [it.query for it in chosen[as_queries:]],
        [record.passage for record in found],
        torch.tensor(is_wrong),
        numbers,
        others + numbers[as_queries * settings.size :: settings.size],
        as_queries,
    )
