"""Training: lists of passages, a teacher's opinion of them, and a checkpoint that resumes.

The teacher is the model that the student began as. Its scores of a list, and what is known of the
right passage, make a distribution that the student learns: cross-entropy against a mixture of
both. So it moves only where the text tells it more than it knew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from quantize.errors import QuantizeError
from quantize.training.corpus import Record
from quantize.training.mining import Candidates
from quantize.training.model import (
    MAX_LENGTH,
    LateInteraction,
    PairTokenizer,
    load_model,
    load_tokenizer,
    save_model,
)

SAVE_EVERY = 50  # steps
MEASURE_EVERY = 250
WARM_UP = 0.1  # of the steps
KNOWN = 0.5  # of the target is the right passage, the rest is the teacher's
CLIP = 1.0  # norm of the gradient
DECAY = 0.01
STATE = "training.safetensors"
LOG = "training.jsonl"


@dataclass(frozen=True)
class Settings:
    """What must be the same for a run to go on."""

    steps: int
    size: int = 8  # passages of a list, the right one first
    lists_a_step: int = 8
    rate: float = 2e-5
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Lists of one step."""

    queries: list[str]  # each as often as its list has passages
    passages: list[str]


def train(
    checkpoint: Path,
    teacher: Path,
    records: Sequence[Record],
    lists: Sequence[Candidates],
    held_out: Sequence[Candidates],
    target: Path,
    settings: Settings,
    *,
    show_progress: bool = False,
) -> None:
    """Train ``checkpoint`` into ``target``, going on with what is there of the same settings.

    :raises QuantizeError: a checkpoint is unusable, or ``target`` was trained with other settings
    """
    if not lists:
        raise QuantizeError("there are no lists to train with")
    model, tokenizer = load_model(checkpoint), load_tokenizer(checkpoint)
    taught = load_model(teacher).eval()
    for frozen in (model.head, model.bert.embeddings):  # calibrate fits the head; rare words stay
        frozen.requires_grad_(False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(trained.values(), lr=settings.rate, weight_decay=DECAY)
    done = _resume(target, model, trained, optimizer, settings)
    tokenize = PairTokenizer(tokenizer, MAX_LENGTH)
    model.eval()  # without dropout: it would add noise to what the teacher says exactly
    target.mkdir(parents=True, exist_ok=True)
    steps = tqdm(
        range(done, settings.steps),
        initial=done,
        total=settings.steps,
        desc="train",
        disable=not show_progress,
    )
    with (target / LOG).open("a") as log:
        for step in steps:
            batch = batch_of(records, lists, settings, step)
            pairs = tokenize(batch.queries, batch.passages)
            for group in optimizer.param_groups:
                group["lr"] = settings.rate * _schedule(step, settings.steps)
            with torch.inference_mode():
                wanted = taught(pairs).view(-1, settings.size)
            with torch.autocast("cpu", torch.bfloat16):
                given = model(pairs).view(-1, settings.size)
            loss = loss_of(given, wanted.clone())
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained.values(), CLIP)
            optimizer.step()
            line: dict[str, float] = {"step": step + 1, "loss": round(loss.item(), 4)}
            if (step + 1) % MEASURE_EVERY == 0 and held_out:
                line["mrr"] = round(reciprocal_rank(model, tokenize, records, held_out), 4)
            log.write(json.dumps(line) + "\n")
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == settings.steps:
                save_model(model, tokenizer, target)
                _save_state(target, trained, optimizer, settings, step + 1)


def batch_of(
    records: Sequence[Record], lists: Sequence[Candidates], settings: Settings, step: int
) -> Batch:
    """Choose the lists of a step, and of each its right passage and some others."""
    random = Random(f"{settings.seed} {step}")
    queries: list[str] = []
    passages: list[str] = []
    for item in random.sample(lists, min(settings.lists_a_step, len(lists))):
        others = random.sample(item.passages[1:], settings.size - 1)
        queries += [item.query] * settings.size
        passages += [records[place].passage for place in (item.passages[0], *others)]
    return Batch(queries, passages)


def loss_of(given: Tensor, teacher: Tensor) -> Tensor:
    """Compare logits [lists, size] with the teacher's; the first passage is the right one."""
    known = torch.zeros_like(teacher)
    known[:, 0] = 1
    wanted = KNOWN * known + (1 - KNOWN) * teacher.softmax(-1)
    loss: Tensor = -(wanted * given.float().log_softmax(-1)).sum(-1).mean()
    return loss


def reciprocal_rank(
    model: LateInteraction,
    tokenize: PairTokenizer,
    records: Sequence[Record],
    lists: Sequence[Candidates],
) -> float:
    """Return the mean reciprocal rank of the right passages."""
    total = 0.0
    for item in lists:
        passages = [records[place].passage for place in item.passages]
        with torch.inference_mode():
            logits = model(tokenize([item.query] * len(passages), passages))
        total += 1 / (1 + int((logits[1:] >= logits[0]).sum()))
    return total / len(lists)


def _schedule(step: int, steps: int) -> float:
    warm = max(1, int(WARM_UP * steps))
    return (step + 1) / warm if step < warm else (steps - step) / max(1, steps - warm)


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
    settings: Settings,
    done: int,
) -> None:
    """Keep what the checkpoint itself does not: the optimizer's moments and the step."""
    partial = target / f"{STATE}.partial"
    tensors = dict(_moments(trained, optimizer))
    tensors |= {f"value {name}": p.detach() for name, p in trained.items()}
    save_file(tensors, partial, {"settings": json.dumps(asdict(settings)), "done": str(done)})
    partial.replace(target / STATE)


def _resume(
    target: Path,
    model: LateInteraction,
    trained: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> int:
    """Load a run's state, if there is one; return the steps that are done."""
    path = target / STATE
    if not path.exists():
        return 0
    from safetensors import safe_open

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
