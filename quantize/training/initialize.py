"""An embedding checkpoint into one to train, with a vocabulary of fewer words.

WordPiece takes the longest piece that it knows, so a word that is left out is read as shorter
pieces, as rare words always were.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn.functional import normalize
from transformers import BertConfig, BertForSequenceClassification

from quantize.architectures.late_interaction import LexicalConfig
from quantize.checkpoint.files import open_checkpoint
from quantize.checkpoint.tokenization import load_tokenizer
from quantize.errors import QuantizeError
from quantize.training.model import MAX_PASSAGE, BertForLateInteraction, TextTokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PROJECTED_TEXTS = 2000  # about so many give the projection
TEXTS_AT_ONCE = 16
HEAD = ((8.0, 8.0, 2.0), -8.0)  # until calibrate says better: a scale that losses can work with


def initialize_late_interaction(
    checkpoint: Path,
    texts: Sequence[str],
    num_words: int | None,
    num_layers: int | None,
    dimension: int,
) -> tuple[BertForLateInteraction, Tokenizer]:
    """Make a late-interaction model of an embedding checkpoint's weights.

    :param texts: to weigh tokens by how many of them have one, to see which are in use, and to
        find the projection
    :param num_words: of the vocabulary; all by default
    :param num_layers: so many, at even distances; all by default
    :param dimension: of a token's vector, at most the hidden size
    :raises QuantizeError: the checkpoint is not of BERT with a WordPiece vocabulary, or is narrower
        than the dimension
    """
    config, tensors, tokenizer = _reduced(checkpoint, texts, num_words, num_layers)
    if dimension > config.hidden_size:
        raise QuantizeError(
            f"a dimension of {dimension} is wanted, and the hidden size is {config.hidden_size}"
        )
    frequencies, average = document_frequencies(tokenizer, texts)
    lexical = LexicalConfig(average_length=round(average, 1))
    model = BertForLateInteraction(config, lexical, dimension)
    # the checkpoint has seen the first type only; the second now marks documents
    types = tensors["embeddings.token_type_embeddings.weight"]
    types[1] = types[0]
    model.bert.load_state_dict({name: tensors[name] for name in model.bert.state_dict()})
    for token in range(config.vocab_size):
        count = frequencies[token]
        model.token_weights[token] = math.log(1 + (len(texts) - count + 0.5) / (count + 0.5))
    for special in SPECIAL:
        if special != "[UNK]":  # stands for a word
            model.token_weights[tokenizer.token_to_id(special)] = 0.0
    with torch.no_grad():
        model.head.weight[0] = torch.tensor(HEAD[0])
        model.head.bias[0] = HEAD[1]
    model.eval()
    stride = max(1, len(texts) // PROJECTED_TEXTS)
    with torch.inference_mode():
        components = principal_components(model, TextTokenizer(tokenizer), texts[::stride])
        model.projection.weight.copy_(components[:dimension])
    return model, tokenizer


def principal_components(
    model: BertForLateInteraction, tokenize: TextTokenizer, texts: Sequence[str]
) -> Tensor:
    """Return the directions in which tokens' unit vectors are longest, in order: float32 [H, H].

    The mean is not subtracted, because the projection is to preserve cosines.
    """
    width = model.config.hidden_size
    moments = torch.zeros(width, width, dtype=torch.float64)
    by_length = sorted(texts, key=len)  # little is padding then
    for start in range(0, len(by_length), TEXTS_AT_ONCE):
        some = tokenize(by_length[start : start + TEXTS_AT_ONCE], MAX_PASSAGE)
        units = normalize(model.hidden(some, 1)[some.is_token], dim=-1).double()
        moments += units.T @ units
    _, directions = torch.linalg.eigh(moments)  # the longest one last
    return directions.T.flip(0).float()


def initialize_cross_encoder(
    checkpoint: Path, texts: Sequence[str], num_words: int | None, num_layers: int | None
) -> tuple[BertForSequenceClassification, Tokenizer]:
    """Make a cross-encoder of an embedding checkpoint's weights and a new head.

    Parameters and errors are those of ``initialize_late_interaction``, but for the dimension.
    """
    config, tensors, tokenizer = _reduced(checkpoint, texts, num_words, num_layers)
    config.num_labels = 1
    torch.manual_seed(0)
    model = BertForSequenceClassification(config)
    encoder = model.bert.state_dict()
    known = {name: tensors[name] for name in encoder if not name.startswith("pooler.")}
    model.bert.load_state_dict({**encoder, **known})
    return model.eval(), tokenizer


def _reduced(
    checkpoint: Path, texts: Sequence[str], num_words: int | None, num_layers: int | None
) -> tuple[BertConfig, dict[str, Tensor], Tokenizer]:
    """Open an embedding checkpoint, with fewer words and layers if that is wanted."""
    opened = open_checkpoint(checkpoint)
    if opened.config.get("architectures") != ["BertModel"]:
        raise QuantizeError(f"{checkpoint}: not an embedding model of BERT's architecture")
    tokenizer = load_tokenizer(checkpoint)
    tensors = load_file(checkpoint / "model.safetensors")
    if num_words is not None:
        tokenizer, kept = prune(tokenizer, texts, num_words)
        words = "embeddings.word_embeddings.weight"
        tensors[words] = tensors[words][kept]
    config = BertConfig(
        **{**opened.config, "vocab_size": tokenizer.get_vocab_size()}, attn_implementation="sdpa"
    )
    if num_layers is not None:
        tensors = _with_layers(tensors, config.num_hidden_layers, num_layers)
        config.num_hidden_layers = num_layers
    return config, tensors, tokenizer


def _with_layers(tensors: dict[str, Tensor], there: int, wanted: int) -> dict[str, Tensor]:
    """Keep ``wanted`` layers at even distances, the first and the last among them.

    :raises QuantizeError: there are not so many
    """
    if wanted > there:
        raise QuantizeError(f"{wanted} layers are wanted and the checkpoint has {there}")
    kept = [round(place) for place in np.linspace(0, there - 1, wanted)]
    renumbered = {f"encoder.layer.{old}.": f"encoder.layer.{new}." for new, old in enumerate(kept)}
    chosen = {name: value for name, value in tensors.items() if not name.startswith("encoder.")}
    for old, new in renumbered.items():
        chosen |= {
            new + name.removeprefix(old): value
            for name, value in tensors.items()
            if name.startswith(old)
        }
    return chosen


def document_frequencies(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Counter[int], float]:
    """Count how many texts have each token; return that with the mean length in tokens."""
    frequencies: Counter[int] = Counter()
    total = 0
    for encoding in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False):
        frequencies.update(set(encoding.ids))
        total += len(encoding.ids)
    return frequencies, total / max(1, len(texts))


def prune(
    tokenizer: Tokenizer, texts: Sequence[str], num_words: int
) -> tuple[Tokenizer, list[int]]:
    """Keep the tokens of most use; return the tokenizer and the old ids of its tokens, in order.

    Use is the better of two ranks: by the texts that have a token, and in the vocabulary itself,
    which lies in the order of how frequent words were where it was learned. Single characters
    all stay, so that any word can still be read.

    :raises QuantizeError: the vocabulary is not WordPiece's, or ``num_words`` are too few
    """
    description = json.loads(tokenizer.to_str())
    if description["model"]["type"] != "WordPiece":
        raise QuantizeError("only a WordPiece vocabulary can lose words")
    vocabulary: dict[str, int] = description["model"]["vocab"]
    frequencies, _ = document_frequencies(tokenizer, texts)
    by_texts = sorted(vocabulary.values(), key=lambda token: -frequencies[token])
    rank_in_texts = {token: rank for rank, token in enumerate(by_texts)}

    def use(token: str) -> tuple[bool, int]:
        place = vocabulary[token]
        is_needed = token in SPECIAL or len(token.removeprefix("##")) == 1
        return not is_needed, min(rank_in_texts[place], place)

    candidates = [token for token in vocabulary if not token.startswith("[unused")]
    chosen = sorted(candidates, key=use)[:num_words]
    if any(token not in chosen for token in candidates if not use(token)[0]):
        raise QuantizeError(f"{num_words} words are too few: single characters take more")
    chosen.sort(key=vocabulary.__getitem__)
    renumbered = {token: number for number, token in enumerate(chosen)}
    description["model"]["vocab"] = renumbered
    for added in description["added_tokens"]:
        added["id"] = renumbered[added["content"]]
    description["post_processor"] = None  # it has the old numbers of [CLS] and [SEP]
    pruned = Tokenizer.from_str(json.dumps(description))
    pruned.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, renumbered[token]) for token in ("[CLS]", "[SEP]")],
    )
    return pruned, [vocabulary[token] for token in chosen]
