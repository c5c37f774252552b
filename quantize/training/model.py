"""The late-interaction model in torch, as its graph computes it (``architectures.interaction``)."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import BertConfig, BertModel

from quantize.architectures.interaction import ARCHITECTURE, FEATURES, LexicalConfig
from quantize.blocks import MASKED, TINY
from quantize.errors import QuantizeError


@dataclass(frozen=True)
class Pairs:
    """Sequences of a query and a document each, padded: int64 [B, L]."""

    ids: Tensor
    types: Tensor  # 0 in the query and its special tokens, 1 in the document and its own
    is_token: Tensor  # bool


class LateInteraction(nn.Module):  # type: ignore[misc]  # torch is Any here
    """A BERT that encodes query and document apart, and three ways to compare them."""

    def __init__(self, config: BertConfig, lexical: LexicalConfig) -> None:
        super().__init__()
        self.config, self.lexical = config, lexical
        self.bert = BertModel(config, add_pooling_layer=False)
        self.register_buffer("token_weights", torch.zeros(config.vocab_size))
        self.head = nn.Linear(len(FEATURES), 1)

    def forward(self, pairs: Pairs) -> Tensor:
        """Return a logit for each pair: float32 [B]."""
        logits: Tensor = self.head(self.features(pairs)).squeeze(1)
        return logits

    def features(self, pairs: Pairs) -> Tensor:
        """Compare each query with its document: float32 [B, len(FEATURES)]."""
        vectors = self.encode(pairs).float()
        is_query = pairs.is_token & (pairs.types == 0)
        is_document = pairs.is_token & (pairs.types == 1)
        pooled = [
            normalize((vectors * part[..., None]).sum(1), dim=-1)
            for part in (is_query, is_document)
        ]
        cosine = (pooled[0] * pooled[1]).sum(-1)

        weights = self.token_weights[pairs.ids]
        query_weights = weights * is_query
        is_word = is_document & (weights > 0)
        units = normalize(vectors, dim=-1)
        similar = (units @ units.mT).masked_fill(~is_word[:, None, :], -1.0)
        equal = (pairs.ids[:, :, None] == pairs.ids[:, None, :]) & is_word[:, None, :]
        counts = equal.sum(2)
        saturation = self.lexical.saturation(is_word.sum(1, keepdim=True))
        total = query_weights.sum(1).clamp_min(TINY)
        nearest = (query_weights * similar.amax(2)).sum(1) / total
        exact = (query_weights * counts / (counts + saturation)).sum(1) / total
        return torch.stack([cosine, nearest, exact], dim=1)

    def encode(self, pairs: Pairs) -> Tensor:
        """Encode query and document as if each were alone: float32 [B, L, H]."""
        num_query = (pairs.is_token & (pairs.types == 0)).sum(1, keepdim=True)
        slots = torch.arange(pairs.ids.shape[1]).expand_as(pairs.ids)
        positions = (slots - pairs.types * num_query).clamp_min(0)
        x = self.bert.embeddings(
            input_ids=pairs.ids, token_type_ids=pairs.types, position_ids=positions
        )
        sees = (pairs.types[:, :, None] == pairs.types[:, None, :]) & pairs.is_token[:, None, :]
        mask = torch.where(sees, 0.0, MASKED)[:, None].to(x.dtype)
        for layer in self.bert.encoder.layer:
            x = layer(x, attention_mask=mask)[0]
        return x


class PairTokenizer:
    """Lays out pairs as [CLS] query [SEP] [CLS] document [SEP]."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._max_length = tokenizer, max_length
        self._first, self._last = (tokenizer.token_to_id(t) for t in ("[CLS]", "[SEP]"))

    def __call__(self, queries: Sequence[str], documents: Sequence[str]) -> Pairs:
        encoded = self._tokenizer.encode_batch_fast(
            [*queries, *documents], add_special_tokens=False
        )
        rows, types = [], []
        for query, document in zip(encoded[: len(queries)], encoded[len(queries) :], strict=True):
            left = [self._first, *query.ids[: self._max_length // 2], self._last]
            right = document.ids[: self._max_length - len(left) - 2]
            rows.append(torch.tensor([*left, self._first, *right, self._last]))
            types.append(torch.tensor([0] * len(left) + [1] * (len(right) + 2)))
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        return Pairs(
            ids,
            nn.utils.rnn.pad_sequence(types, batch_first=True),
            torch.arange(ids.shape[1])[None] < lengths[:, None],
        )


def load_model(directory: Path) -> LateInteraction:
    """Load what ``save_model`` saved.

    :raises QuantizeError: it is something else
    """
    try:
        raw = json.loads((directory / "config.json").read_bytes())
        tensors = load_file(directory / "model.safetensors")
    except (OSError, ValueError) as error:
        raise QuantizeError(f"{directory}: not a checkpoint: {error}") from error
    if raw.get("architectures") != [ARCHITECTURE]:
        raise QuantizeError(f"{directory}: not a late-interaction checkpoint")
    lexical = LexicalConfig(**raw["lexical"])
    model = LateInteraction(BertConfig(**raw, attn_implementation="sdpa"), lexical)
    model.load_state_dict(_renamed(tensors, "bert.", add=True))
    return model


def load_tokenizer(directory: Path) -> Tokenizer:
    """Load a checkpoint's tokenizer.

    :raises QuantizeError: it cannot be read
    """
    try:
        return Tokenizer.from_file(str(directory / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise QuantizeError(f"{directory / 'tokenizer.json'}: {error}") from error


def save_model(model: LateInteraction, tokenizer: Tokenizer, directory: Path) -> None:
    """Write config.json, tokenizer.json and model.safetensors; each replaces another at once."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": [ARCHITECTURE],
        "lexical": msgspec.structs.asdict(model.lexical),
        **{name: getattr(model.config, name) for name in CONFIG_NAMES},
    }
    _replace(directory / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    _replace(directory / "tokenizer.json", tokenizer.to_str().encode())
    settings = {"model_max_length": min(MAX_LENGTH, model.config.max_position_embeddings)}
    _replace(directory / "tokenizer_config.json", json.dumps(settings).encode())
    tensors = _renamed(model.state_dict(), "bert.", add=False)
    with tempfile.TemporaryDirectory(dir=directory) as scratch:
        saved = Path(scratch) / "model.safetensors"
        save_file({name: value.contiguous() for name, value in tensors.items()}, saved)
        saved.replace(directory / saved.name)


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
MAX_LENGTH = 256  # tokens of a pair; longer documents are split


def _renamed(tensors: Mapping[str, Tensor], prefix: str, *, add: bool) -> dict[str, Tensor]:
    """Put the encoder's names behind a prefix, or take it away."""
    own = ("head.", "token_weights")
    if add:
        return {n if n.startswith(own) else prefix + n: t for n, t in tensors.items()}
    return {n.removeprefix(prefix): t for n, t in tensors.items()}


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
