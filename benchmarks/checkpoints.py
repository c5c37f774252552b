"""Checkpoints with the exact geometry of real models and random weights: for speed and memory.

Quality figures from them mean nothing: real matrices have max|w|/rms of 5 to 20, these 4 to 5.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MXBAI_LARGE_V2 = {
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
    "vocab_size": 151936,
}


def write_qwen2(directory: Path, config: dict[str, object], tokenizer: Path) -> None:
    """Write a sharded bfloat16 checkpoint, one shard a layer; spread 0.02 as initialised."""
    directory.mkdir(parents=True)
    weight_map = {}
    for shard, tensors in _qwen2_shards(config):
        name = f"model-{shard}.safetensors"
        _write_safetensors(directory / name, tensors)
        weight_map.update(dict.fromkeys(tensors, name))
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "config.json").write_text(json.dumps(config))
    shutil.copyfile(tokenizer, directory / "tokenizer.json")


def _qwen2_shards(config: dict[str, object]) -> Iterator[tuple[str, dict[str, NDArray[np.uint16]]]]:
    rng = np.random.default_rng(0)
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    narrow = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield (
        "embeddings",
        {
            "model.embed_tokens.weight": _random(rng, config["vocab_size"], hidden),
            "model.norm.weight": _random(rng, hidden),
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
                f"model.layers.{layer}.{name}": _random(rng, *shape)
                for name, shape in shapes.items()
            },
        )


def _write_safetensors(path: Path, tensors: dict[str, NDArray[np.uint16]]) -> None:
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


def _random(rng: np.random.Generator, *shape: int) -> NDArray[np.uint16]:
    """Draw bfloat16 weights: of mean 0, or of mean 1 for vectors, which are mostly norms' gains."""
    values = rng.standard_normal(shape, np.float32) * np.float32(0.02) + np.float32(len(shape) == 1)
    return (values.view(np.uint32) >> 16).astype(np.uint16)
