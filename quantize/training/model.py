"""What is trained, in torch: late interaction as its graph computes it, and a cross-encoder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec
import torch
from safetensors.torch import load_file, save
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import BertConfig, BertForSequenceClassification, BertModel

from edgerank.files import write_atomically
from quantize.architectures.late_interaction import (
    ARCHITECTURE,
    FARTHEST,
    FEATURES,
    LateInteractionConfig,
    LexicalConfig,
)
from quantize.errors import QuantizeError
from quantize.graph.vectors import TINY


@dataclass(frozen=True)
class PaddedTexts:
    """Texts as [CLS] text [SEP], padded."""

    ids: Tensor  # int64 [B, L]
    is_token: Tensor  # bool [B, L]


class BertForLateInteraction(nn.Module):  # type: ignore[misc]  # torch is Any here
    """A BERT that encodes query and document apart, and three ways to compare them."""

    def __init__(self, config: BertConfig, lexical: LexicalConfig, dimension: int) -> None:
        super().__init__()
        self.config, self.lexical = config, lexical
        self.bert = BertModel(config, add_pooling_layer=False)
        self.projection = nn.Linear(config.hidden_size, dimension, bias=False)
        self.register_buffer("token_weights", torch.zeros(config.vocab_size))
        self.head = nn.Linear(len(FEATURES), 1)

    def forward(self, queries: PaddedTexts, documents: PaddedTexts) -> Tensor:
        """Return a logit for each query with each document: float32 [Q, D]."""
        return self.logits(queries, self.encode(queries, 0), documents, self.encode(documents, 1))

    def encode(self, texts: PaddedTexts, token_type: int) -> Tensor:
        """Encode queries, of type 0, or documents, of type 1: float32 [B, L, D]."""
        vectors: Tensor = self.projection(self.hidden(texts, token_type))
        return vectors

    def hidden(self, texts: PaddedTexts, token_type: int) -> Tensor:
        """Return the last layer's vectors: float32 [B, L, H]."""
        types = torch.full_like(texts.ids, token_type)
        hidden: Tensor = self.bert(
            input_ids=texts.ids, token_type_ids=types, attention_mask=texts.is_token.long()
        ).last_hidden_state
        return hidden

    def logits(
        self,
        queries: PaddedTexts,
        query_vectors: Tensor,
        documents: PaddedTexts,
        document_vectors: Tensor,
    ) -> Tensor:
        """Return a logit for each query with each document from their vectors."""
        features = self.features(queries, query_vectors, documents, document_vectors)
        logits: Tensor = self.head(features).squeeze(2)
        return logits

    def features(
        self,
        queries: PaddedTexts,
        query_vectors: Tensor,
        documents: PaddedTexts,
        document_vectors: Tensor,
    ) -> Tensor:
        """Compare each query with each document: float32 [Q, D, len(FEATURES)]."""
        means = [
            normalize((vectors * texts.is_token[..., None]).sum(1), dim=-1)
            for texts, vectors in ((queries, query_vectors), (documents, document_vectors))
        ]
        cosine = means[0] @ means[1].T

        weights = self.token_weights[queries.ids] * queries.is_token
        shares = weights / weights.sum(1, keepdim=True).clamp_min(TINY)  # [Q, L]
        is_word = documents.is_token & (self.token_weights[documents.ids] > 0)
        similar = torch.einsum(
            "qih,djh->qidj", normalize(query_vectors, dim=-1), normalize(document_vectors, dim=-1)
        )
        nearest = similar.masked_fill(~is_word, FARTHEST).amax(3)  # [Q, L, D]
        equal = (queries.ids[:, :, None, None] == documents.ids) & is_word
        counts = equal.sum(3)  # [Q, L, D]
        base, slope = self.lexical.saturation
        exact = counts / (counts + base + slope * is_word.sum(1))
        weighted = [torch.einsum("qi,qid->qd", shares, values) for values in (nearest, exact)]
        return torch.stack([cosine, *weighted], dim=2)


Trained: TypeAlias = BertForLateInteraction | BertForSequenceClassification


class TextTokenizer:
    """Lays out texts by themselves, or in pairs as a cross-encoder reads them."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def __call__(self, texts: Sequence[str], max_length: int) -> PaddedTexts:
        """Lay out [CLS] text [SEP], of at most ``max_length`` tokens each."""
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        ids = _padded([one.ids for one in self._tokenizer.encode_batch_fast(list(texts))])
        return PaddedTexts(*ids)

    def pairs(self, pairs: Sequence[tuple[str, str]], max_length: int) -> dict[str, Tensor]:
        """Lay out [CLS] query [SEP] document [SEP], as the inputs of BERT."""
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        encoded = self._tokenizer.encode_batch_fast(list(pairs))
        ids, is_token = _padded([one.ids for one in encoded])
        types, _ = _padded([one.type_ids for one in encoded])
        return {"input_ids": ids, "token_type_ids": types, "attention_mask": is_token.long()}


def _padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(ids.shape[1]) < lengths[:, None]


def load_model(directory: Path, attention: str = "sdpa") -> Trained:
    """Load what ``save_model`` saved.

    :param attention: how transformers computes attention: "sdpa" or "eager"
    :raises QuantizeError: it is something else
    """
    try:
        raw = json.loads((directory / "config.json").read_bytes())
        tensors = load_file(directory / "model.safetensors")
    except (OSError, ValueError) as error:
        raise QuantizeError(f"{directory}: not a checkpoint: {error}") from error
    architectures = raw.get("architectures")
    config = BertConfig(**raw, attn_implementation=attention)
    model: Trained
    if architectures == [ARCHITECTURE]:
        try:
            own = msgspec.convert(raw, LateInteractionConfig)
        except msgspec.ValidationError as error:
            raise QuantizeError(f"{directory / 'config.json'}: {error}") from error
        model = BertForLateInteraction(config, own.lexical, own.dimension)
        model.load_state_dict(_renamed(tensors, "bert.", add=True))
    elif architectures == [CROSS_ENCODER]:
        model = BertForSequenceClassification(config)
        model.load_state_dict(tensors)
    else:
        raise QuantizeError(f"{directory}: neither a late-interaction model nor a cross-encoder")
    return model.eval()


def load_late_interaction(directory: Path) -> BertForLateInteraction:
    """Load a late-interaction model that ``save_model`` saved.

    :raises QuantizeError: it is something else
    """
    model = load_model(directory)
    if not isinstance(model, BertForLateInteraction):
        raise QuantizeError(f"{directory}: not a late-interaction checkpoint")
    return model


def save_model(model: Trained, tokenizer: Tokenizer, directory: Path) -> None:
    """Write config.json, tokenizer.json and model.safetensors; each replaces another at once."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = model.state_dict()
    if isinstance(model, BertForLateInteraction):
        own = {
            "architectures": [ARCHITECTURE],
            "lexical": msgspec.structs.asdict(model.lexical),
            "dimension": model.projection.out_features,
        }
        tensors = _renamed(tensors, "bert.", add=False)
    else:
        own = {"architectures": [CROSS_ENCODER], "id2label": {"0": "relevant"}}
    config = {**own, **{name: getattr(model.config, name) for name in CONFIG_NAMES}}
    tokenizer.no_truncation()
    tokenizer.no_padding()
    content = json.dumps(config, indent=2) + "\n"
    write_atomically(directory / "config.json", content.encode())
    write_atomically(directory / "tokenizer.json", tokenizer.to_str().encode())
    settings = {"model_max_length": min(MAX_PAIR, model.config.max_position_embeddings)}
    write_atomically(directory / "tokenizer_config.json", json.dumps(settings).encode())
    stored = {name: value.contiguous() for name, value in tensors.items()}
    write_atomically(directory / "model.safetensors", save(stored))


# tokens; of a pair as in the bundle, which splits longer documents
MAX_QUERY, MAX_PASSAGE, MAX_PAIR = 64, 192, 256
CROSS_ENCODER = "BertForSequenceClassification"
CONFIG_NAMES = (
    "model_type",
    "hidden_size",
    "hidden_act",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "type_vocab_size",
    "vocab_size",
)


def _renamed(tensors: Mapping[str, Tensor], prefix: str, *, add: bool) -> dict[str, Tensor]:
    """Put the encoder's names behind a prefix, or take it away."""
    own = ("head.", "projection.", "token_weights")
    if add:
        return {n if n.startswith(own) else prefix + n: t for n, t in tensors.items()}
    return {n.removeprefix(prefix): t for n, t in tensors.items()}
