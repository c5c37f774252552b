"""A large request in parts, which several engines compute at once: documents are independent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgerank.engine import Array, Results
from edgerank.packing import Group
from edgerank.serving.jobs import Computed, Job


@dataclass(frozen=True)
class Part:
    """Some sequences of a job, as a job of their own."""

    job: Job
    score_ids: Sequence[int]  # in the whole, by those in the part


def split(job: Job) -> list[Part]:
    """Cut a job into parts of about as many tokens, one for each engine, or leave it whole.

    There are no more parts than the job's tokens fill micro-batches. A query whose documents are in
    two parts has its prefix computed in both.
    """
    num_parts = min(job.num_engines, job.num_tokens // job.max_batch_tokens, job.num_scores)
    if num_parts < 2:
        return [Part(job, range(job.num_scores))]
    groups: list[list[Group]] = [[] for _ in range(num_parts)]
    tokens = 0  # before a sequence
    for group in job.groups:
        tokens += len(group.prefix)
        places: dict[int, list[int]] = {}  # of sequences in the group, by part
        for place, sequence in enumerate(group.sequences):
            places.setdefault(tokens * num_parts // job.num_tokens, []).append(place)
            tokens += len(sequence)
        for part, own in places.items():
            sequences = [group.sequences[place] for place in own]
            groups[part].append(Group(group.prefix, sequences, [group.score_ids[n] for n in own]))
    return [_part(job, own) for own in groups if own]


def join(parts: Sequence[Part], computed: Sequence[Computed]) -> Computed:
    """Put together what came of a job's parts; times are those of the part that took longest."""
    if len(parts) == 1:
        return computed[0]
    found: dict[int, Array] = {}
    for part, own in zip(parts, computed, strict=True):
        found.update(zip(part.score_ids, own.results, strict=True))
    rows = [found[score_id] for score_id in range(len(found))]
    is_ragged = isinstance(computed[0].results, list)
    results: Results = rows if is_ragged else np.array(rows, np.float32)
    last = max(computed, key=lambda one: one.queue_s + one.inference_s)
    return Computed(results, last.queue_s, last.inference_s)


def _part(job: Job, groups: Sequence[Group]) -> Part:
    score_ids = [score_id for group in groups for score_id in group.score_ids]
    counted = list(_counted_from_0(groups))
    return Part(Job(job.client, job.runners, counted, job.output, job.deadline), score_ids)


def _counted_from_0(groups: Sequence[Group]) -> Iterator[Group]:
    start = 0
    for group in groups:
        end = start + len(group.sequences)
        yield Group(group.prefix, group.sequences, range(start, end))
        start = end
