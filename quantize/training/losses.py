"""What a step learns: which passage is the right one, and a teacher's scores.

The teacher is a frozen late-interaction model, whose cosine may be that of a larger embedding
model. A late-interaction model, which encodes each text once, compares a query with the passages of
all lists of the step; a cross-encoder compares it with those of its own list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import BertForSequenceClassification

from quantize.architectures.late_interaction import FEATURES
from quantize.training.batches import TrainingBatch, TrainingSettings
from quantize.training.corpus import CorpusRecord
from quantize.training.mining import Candidates
from quantize.training.model import (
    MAX_PAIR,
    MAX_PASSAGE,
    MAX_QUERY,
    BertForLateInteraction,
    PaddedTexts,
    TextTokenizer,
    Trained,
)
from quantize.training.teacher_vectors import TeacherVectors

UNCOMPARED = -1e4  # a logit whose share of a list is nothing
ENCODED_AT_ONCE = 16  # texts of about one length
COSINE = FEATURES.index("cosine")


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
            features[:, :, COSINE] = vectors.cosines(
                batch.query_numbers, batch.numbers, batch.as_queries
            )
        wanted = teacher.head(features).squeeze(2)
    if isinstance(model, BertForLateInteraction):
        is_compared = batch.is_right | batch.is_wrong
        ours = _encode(model, texts, settings)
        given = model.logits(texts[0], ours[0], texts[1], ours[1])
    else:
        is_compared = batch.is_right | (batch.is_wrong & batch.is_own)
        with _precision(settings):
            given = _score_pairs(model, tokenize, batch, is_compared)
    return ranking_loss(given, wanted, batch, is_compared, settings.known)


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
    """Encode texts with others of about their length: float32 [B, L, D]."""
    longest = texts.ids.shape[1]

    def encode(some: Tensor, length: int) -> Tensor:
        part = PaddedTexts(texts.ids[some, :length], texts.is_token[some, :length])
        return pad(model.encode(part, token_type).float(), (0, 0, 0, longest - length))

    return _by_length(texts.is_token, encode)


def score_by_length(model: BertForSequenceClassification, pairs: dict[str, Tensor]) -> Tensor:
    """Score pairs with others of about their length: float32 [B]."""

    def score(some: Tensor, length: int) -> Tensor:
        inputs = {name: values[some, :length] for name, values in pairs.items()}
        logits: Tensor = model(**inputs).logits
        return logits[:, 0].float()

    return _by_length(pairs["attention_mask"], score)


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
                    logits = score_by_length(model, pairs)
        total += 1 / (1 + int((logits[1:] >= logits[0]).sum()))
    return total / len(lists)


def _by_length(is_token: Tensor, compute: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Compute texts, their numbers and length given, in groups in which little is padding."""
    lengths = is_token.sum(1)
    order = lengths.argsort()
    parts = [compute(some, int(lengths[some].max())) for some in order.split(ENCODED_AT_ONCE)]
    return torch.cat(parts)[order.argsort()]


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
    model: BertForSequenceClassification,
    tokenize: TextTokenizer,
    batch: TrainingBatch,
    is_compared: Tensor,
) -> Tensor:
    """Score the pairs that are compared by a cross-encoder: float32 [Q, D]."""
    rows, columns = is_compared.nonzero(as_tuple=True)
    pairs = [
        (batch.queries[row], batch.passages[column])
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    logits = score_by_length(model, tokenize.pairs(pairs, MAX_PAIR))
    return torch.full(is_compared.shape, UNCOMPARED).index_put((rows, columns), logits)
