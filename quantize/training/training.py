"""Training: lists of passages, a teacher's opinion of them, and a checkpoint that resumes.

A step compares some queries with the passages of their lists; a late-interaction model, which
encodes each text once, with those of all other lists of the step too. The target is a mixture of
what is known, the right passage, and of the scores of a teacher: a frozen late-interaction model,
whose cosine may be that of a larger embedding model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn.functional import cosine_similarity, pad
from tqdm import tqdm

from edgerank.files import write_atomically
from quantize.architectures.late_interaction import FEATURES
from quantize.checkpoint.tokenization import load_tokenizer
from quantize.errors import QuantizeError
from quantize.training.corpus import CorpusRecord
from quantize.training.mining import Candidates
from quantize.training.model import (
    BertForLateInteraction,
    PaddedTexts,
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
UNCOMPARED = -1e4  # a logit whose share of a list is nothing
CLIP = 1.0  # norm of the gradient
DECAY = 0.01
MAX_QUERY, MAX_PASSAGE, MAX_PAIR = 64, 192, 256  # tokens
ENCODED_AT_ONCE = 16  # texts of about one length
COSINE = FEATURES.index("cosine")
STATE = "training.safetensors"
LOG = "training.jsonl"


@dataclass(frozen=True)
class TrainingSettings:
    """What must be the same for a run to go on."""

    steps: int
    size: int = 2  # passages of a list, the right one first
    lists_a_step: int = 32
    rate: float = 2e-5
    vectors: float = 0.0  # weight of a token's distance from the teacher's
    known: float = 0.5  # share of the target that is the right passage; the rest is the teacher's
    other_cosine: bool = False  # whether the teacher's cosine is that of an embedding model
    bfloat16: bool = False  # encode in bfloat16
    seed: int = 0


@dataclass(frozen=True)
class TrainingBatch:
    """The lists of one step."""

    queries: list[str]  # Q
    passages: list[str]  # D = Q * size, each query's own in a row, the right one first
    is_wrong: Tensor  # bool [Q, D]: known not to be the query's right passage, nor of its page
    numbers: list[int]  # D, of the passages' records

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
    :raises QuantizeError: a checkpoint is unusable, or ``target`` was trained with other settings
    """
    if not lists:
        raise QuantizeError("there are no lists to train with")
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
        [item.query for item in chosen],
        [record.passage for record in found],
        torch.tensor(is_wrong),
        numbers,
    )


def loss_of(
    model: Trained,
    teacher: BertForLateInteraction,
    tokenize: TextTokenizer,
    batch: TrainingBatch,
    settings: TrainingSettings,
    vectors: TeacherVectors | None = None,
) -> Tensor:
    """Return the loss of one step."""
    texts = tokenize(batch.queries, MAX_QUERY), tokenize(batch.passages, MAX_PASSAGE)
    with torch.no_grad():
        theirs = _encode(teacher, texts, settings)
        features = teacher.features(texts[0], theirs[0], texts[1], theirs[1])
        if vectors is not None:
            own = batch.numbers[:: batch.size]
            features[:, :, COSINE] = vectors.cosines(own, batch.numbers)
        wanted = teacher.head(features).squeeze(2)
    if not isinstance(model, BertForLateInteraction):
        is_compared = batch.is_right | (batch.is_wrong & batch.is_own)
        with _precision(settings):
            given = _score_pairs(model, tokenize, batch, is_compared)
        return ranking_loss(given, wanted, batch, is_compared, settings.known)
    ours = _encode(model, texts, settings)
    given = model.logits(texts[0], ours[0], texts[1], ours[1])
    is_compared = batch.is_right | batch.is_wrong
    loss = ranking_loss(given, wanted, batch, is_compared, settings.known)
    if settings.vectors:
        for own, other, part in zip(ours, theirs, texts, strict=True):
            distances = 1 - cosine_similarity(own, other, dim=-1)
            loss = loss + settings.vectors * distances[part.is_token].mean()
    return loss


def ranking_loss(
    given: Tensor, teacher: Tensor, batch: TrainingBatch, is_compared: Tensor, known: float
) -> Tensor:
    """Compare logits [Q, D] with what is known and with the teacher's: a cross-entropy."""
    shares = teacher.masked_fill(~is_compared, UNCOMPARED).softmax(-1)
    wanted = known * batch.is_right + (1 - known) * shares
    logarithms = given.masked_fill(~is_compared, UNCOMPARED).log_softmax(-1)
    loss: Tensor = -(wanted * logarithms).sum(-1).mean()
    return loss


def encode_by_length(model: BertForLateInteraction, texts: PaddedTexts, token_type: int) -> Tensor:
    """Encode texts with others of about their length, so that little is padding: [B, L, H]."""
    lengths = texts.is_token.sum(1)
    order = lengths.argsort()
    parts = []
    for some in order.split(ENCODED_AT_ONCE):
        longest = int(lengths[some].max())
        part = PaddedTexts(texts.ids[some, :longest], texts.is_token[some, :longest])
        encoded = model.encode(part, token_type).float()
        parts.append(pad(encoded, (0, 0, 0, texts.ids.shape[1] - longest)))
    return torch.cat(parts)[order.argsort()]


def reciprocal_rank(
    model: Trained,
    tokenize: TextTokenizer,
    records: Sequence[CorpusRecord],
    lists: Sequence[Candidates],
    settings: TrainingSettings,
) -> float:
    """Return the mean reciprocal rank of the right passages."""
    total = 0.0
    for item in lists:
        passages = [records[place].passage for place in item.passages]
        with torch.inference_mode():
            if isinstance(model, BertForLateInteraction):
                texts = tokenize([item.query], MAX_QUERY), tokenize(passages, MAX_PASSAGE)
                encoded = _encode(model, texts, settings)
                (logits,) = model.logits(texts[0], encoded[0], texts[1], encoded[1])
            else:
                pairs = tokenize.pairs([(item.query, passage) for passage in passages], MAX_PAIR)
                with _precision(settings):
                    logits = model(**pairs).logits[:, 0]
        total += 1 / (1 + int((logits[1:] >= logits[0]).sum()))
    return total / len(lists)


def _precision(settings: TrainingSettings) -> torch.autocast:
    """Return a context in which texts are encoded in the precision of the settings."""
    return torch.autocast("cpu", torch.bfloat16, enabled=settings.bfloat16)


def _encode(
    model: BertForLateInteraction,
    texts: tuple[PaddedTexts, PaddedTexts],
    settings: TrainingSettings,
) -> tuple[Tensor, Tensor]:
    with _precision(settings):
        return encode_by_length(model, texts[0], 0), encode_by_length(model, texts[1], 1)


def _score_pairs(
    model: Trained, tokenize: TextTokenizer, batch: TrainingBatch, is_compared: Tensor
) -> Tensor:
    """Score the pairs that are compared by a cross-encoder: float32 [Q, D]."""
    rows, columns = is_compared.nonzero(as_tuple=True)
    pairs = [
        (batch.queries[row], batch.passages[column])
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    logits = model(**tokenize.pairs(pairs, MAX_PAIR)).logits[:, 0].float()
    return torch.full(is_compared.shape, UNCOMPARED).index_put((rows, columns), logits)


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
