"""The training loop, and a checkpoint that resumes.

A step compares some queries with the passages of their lists. What it learns is in ``losses``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from tqdm import tqdm

from edgerank.files import write_atomically
from quantize.checkpoint.tokenization import load_tokenizer
from quantize.errors import QuantizeError
from quantize.training.batches import TrainingSettings, batch_of
from quantize.training.corpus import CorpusRecord
from quantize.training.losses import loss_of, reciprocal_rank
from quantize.training.mining import Candidates
from quantize.training.model import (
    BertForLateInteraction,
    TextTokenizer,
    Trained,
    load_late_interaction,
    load_model,
    save_model,
)
from quantize.training.teacher_vectors import TeacherVectors

SAVE_EVERY = 20  # steps
MEASURE_EVERY = 100
MEASURED_LISTS = 200  # of those held out
WARM_UP = 0.1  # of the steps
CLIP = 1.0  # norm of the gradient
DECAY = 0.01
STATE = "training.safetensors"
LOG = "training.jsonl"


def train(
    checkpoint: Path,
    teacher: Path,
    records: Sequence[CorpusRecord],
    lists: Sequence[Candidates],
    held_out: Sequence[Candidates],
    target: Path,
    settings: TrainingSettings,
    vectors: TeacherVectors | None = None,
    *,
    show_progress: bool = False,
) -> None:
    """Train ``checkpoint`` into ``target``, going on with what is there of the same settings.

    :param checkpoint: a late-interaction model or a cross-encoder, as ``initialize`` makes them
    :param teacher: a late-interaction model
    :param vectors: of an embedding model, whose cosine the teacher takes in place of its own
    :raises QuantizeError: a checkpoint is unusable, ``target`` was trained with other settings, or
        the lists have too few passages for these
    """
    if not lists:
        raise QuantizeError("there are no lists to train with")
    shortest = min(len(item.passages) for item in lists)
    largest = shortest - 1 if settings.passages_as_queries else shortest
    if settings.size > largest:
        raise QuantizeError(
            f"the shortest list has {shortest} passages; use {largest} or fewer of each list"
        )
    model = load_model(checkpoint, attention="eager")  # its gradient is the faster one
    tokenizer = load_tokenizer(checkpoint)
    taught = load_late_interaction(teacher)
    tokenize = TextTokenizer(load_tokenizer(checkpoint))
    trained = _unfrozen(model)
    optimizer = torch.optim.AdamW(trained.values(), lr=settings.rate, weight_decay=DECAY)
    done = _resume(target, trained, optimizer, settings)
    target.mkdir(parents=True, exist_ok=True)
    _cut_log(target / LOG, done)
    measured = held_out[:MEASURED_LISTS]
    steps = tqdm(
        range(done, settings.steps),
        initial=done,
        total=settings.steps,
        desc="train",
        disable=not show_progress,
    )
    with (target / LOG).open("a") as log:
        for step in steps:
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * _schedule(step, settings.steps)
            batch = batch_of(records, lists, settings, step)
            loss = loss_of(model, taught, tokenize, batch, settings, vectors)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)
            optimizer.step()
            line: dict[str, float] = {"step": step + 1, "loss": round(loss.item(), 4)}
            if (step + 1) % MEASURE_EVERY == 0 and measured:
                mrr = reciprocal_rank(model, tokenize, records, measured, settings)
                line["mrr"] = round(mrr, 4)
            log.write(json.dumps(line) + "\n")
            log.flush()
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == settings.steps:
                save_model(model, tokenizer, target)
                _save_state(target, trained, optimizer, settings, step + 1)


def _unfrozen(model: Trained) -> dict[str, torch.nn.Parameter]:
    """Freeze words, so that rare ones stay, and the head that ``calibrate`` fits; give the rest."""
    model.bert.embeddings.requires_grad_(False)
    if isinstance(model, BertForLateInteraction):
        model.head.requires_grad_(False)
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _schedule(step: int, steps: int) -> float:
    warm = max(1, int(WARM_UP * steps))
    return (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)


def _cut_log(path: Path, done: int) -> None:
    """Remove the lines of steps that are not in the saved state, and will be done again."""
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        write_atomically(path, b"".join(lines[:done]))


def _moments(
    trained: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in trained.items():
        for part, value in optimizer.state[parameter].items():
            yield f"{part} {name}", value


def _save_state(
    target: Path,
    trained: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
    done: int,
) -> None:
    """Keep what the checkpoint itself does not: the optimizer's moments and the step."""
    tensors = dict(_moments(trained, optimizer))
    tensors |= {f"value {name}": p.detach() for name, p in trained.items()}
    metadata = {"settings": json.dumps(asdict(settings)), "done": str(done)}
    write_atomically(target / STATE, save(tensors, metadata))


def _resume(
    target: Path,
    trained: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
) -> int:
    """Load a run's state, if there is one; return the steps that are done."""
    path = target / STATE
    if not path.exists():
        return 0
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if json.loads(metadata["settings"]) != asdict(settings):
        raise QuantizeError(f"{target}: was trained with other settings; choose another name")
    tensors = load_file(path)
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"value {name}"])
            optimizer.state[parameter] = {
                part: tensors[f"{part} {name}"] for part in ("step", "exp_avg", "exp_avg_sq")
            }
    return int(metadata["done"])
