"""Tokenizers for random checkpoints: the real ones where they are at hand, or small ones."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from benchmarks.common.paths import SHARED
from quantize.measure.calibration import read_calibration


def byte_tokenizer(special_tokens: list[str]) -> Tokenizer:
    """Make a byte-level BPE tokenizer of Qwen's kind, trained on the built-in text's queries."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    queries = dict.fromkeys(pair.query for pair in read_calibration(None).pairs)
    tokenizer.train_from_iterator(queries, trainer)
    return tokenizer


def pair_tokenizer(special_tokens: list[str], begin: str, end: str) -> Tokenizer:
    """Make one that puts two of its special tokens around texts, as encoders want them."""
    tokenizer = byte_tokenizer(special_tokens)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} $B {end}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (begin, end)],
    )
    return tokenizer


def shared_tokenizer(name: str) -> Tokenizer | None:
    """Read a real tokenizer of the shared data, None where it is not there."""
    path = SHARED / "tokenizers" / name / "tokenizer.json"
    return Tokenizer.from_file(str(path)) if path.exists() else None
