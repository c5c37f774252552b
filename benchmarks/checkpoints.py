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
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from quantize.measure.calibration import read_calibration

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
            "model.norm.weight": _random(rng, hidden, mean=1),
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
                f"model.layers.{layer}.{name}": _random(rng, *shape, mean="norm" in name)
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


def _random(rng: np.random.Generator, *shape: int, mean: float = 0) -> NDArray[np.uint16]:
    """Draw bfloat16 weights; norms' gains want a mean of 1.

    Biases must not have it: keys that are mostly their bias make attention even, and documents
    score alike.
    """
    values = rng.standard_normal(shape, np.float32) * np.float32(0.02) + np.float32(mean)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


HEAD_SIZE = 32
_PLANTED = {
    "hidden_act": "silu",
    "hidden_size": 256,
    "intermediate_size": 704,
    "max_position_embeddings": 4096,
    "num_attention_heads": 8,
    "num_hidden_layers": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}
PLANTED = {
    "qwen2": {**_PLANTED, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"},
    "qwen3": {
        **_PLANTED,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "head_dim": HEAD_SIZE,
    },
}
SQUARING = slice(1, 129)  # neurons
OUTLIER_CHANNELS = (7, 63, 100, 101, 230)
MASSIVE_TOKEN = "<|im_start|>"


def write_planted(
    directory: Path, *, outlier: float, massive: float, architecture: str = "qwen2"
) -> None:
    """Write a small decoder, qwen2 or qwen3, that has what large ones are known for.

    * a few channels of the stream are ``outlier`` times the others, in all tokens
    * one token has one channel of about ``massive``
    * what down_proj reads is heavy-tailed

    The first layer brings the outliers in, by its values' biases or, in qwen3 which has none, by
    neurons that square; all that reads the stream makes up for them, so that without rounding the
    decoder ranks about as it would without them. Its last attention is sharp and strong, so that
    documents differ.
    """
    has_biases = architecture == "qwen2"
    rng = np.random.default_rng(0)
    tokenizer = byte_tokenizer(["<|endoftext|>", MASSIVE_TOKEN, "<|im_end|>"])
    if architecture == "qwen3":
        tokenizer.add_tokens(["yes", "no"])  # what its family asks for
    layers, hidden, wide = 6, 256, 704
    groups, narrow = 2, 64
    grow = np.ones(hidden, np.float32)
    grow[list(OUTLIER_CHANNELS)] = outlier
    gain = np.float32(np.sqrt(np.mean(grow**2)))  # undoes what the outliers do to the norm

    def normal(*shape: int, scale: float = 1.0) -> NDArray[np.float32]:
        return rng.standard_normal(shape, np.float32) * np.float32(scale)

    def norm(scale: float) -> NDArray[np.float32]:
        return np.float32(scale) * (1 + 0.1 * normal(hidden))

    embedding = normal(tokenizer.get_vocab_size(), hidden)
    loudness = 1.0 if has_biases else 0.05  # qwen3's scores are probabilities, which saturate
    final_norm = loudness * norm(gain) / grow
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": final_norm}
    for layer in range(layers):
        is_first, is_last = layer == 0, layer == layers - 1
        read = np.ones_like(grow) if is_first else grow
        raised, raised_gain = (grow, gain) if has_biases or not is_first else (read, 1)
        written = 1 + 0.05 * (read - 1)
        tail = np.exp(normal(wide))
        gate = normal(wide, hidden, scale=hidden**-0.5) / raised
        up = normal(wide, hidden, scale=hidden**-0.5) / raised * tail[:, None]
        down = normal(hidden, wide, scale=(0.005 if is_last else 0.1) * wide**-0.5)
        down = down * written[:, None] / tail
        output = normal(hidden, hidden, scale=(7 if is_last else 0.7) * hidden**-0.5)
        output *= written[:, None]
        value_bias = normal(narrow, scale=1 if is_first else 0.1)
        if is_first:
            # what a value's bias adds to the attention's output is the same for all tokens
            constant = value_bias.reshape(groups, 1, -1).repeat(4, axis=1).reshape(-1)
            signs = rng.choice([-1, 1], len(OUTLIER_CHANNELS))[:, None]
            if has_biases:
                output[list(OUTLIER_CHANNELS)] = outlier * signs * constant / (constant @ constant)
            else:  # silu(x) x has mean 1/2 where x is normal
                up[SQUARING] = gate[SQUARING]
                down[:, SQUARING] = 0
                down[list(OUTLIER_CHANNELS), SQUARING] = 2 * outlier * signs / len(up[SQUARING])
            token = embedding[tokenizer.token_to_id(MASSIVE_TOKEN)]
            gate[0] = up[0] = token / np.linalg.norm(token)  # 16 for the token, about 1 for others
            down[:, 0] = 0
            down[OUTLIER_CHANNELS[0], 0] = massive / hidden
        query_scale = (1.5 if is_last else 0.5) * hidden**-0.5
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.input_layernorm.weight": norm(1 if is_first else gain),
            f"{prefix}.self_attn.q_proj.weight": normal(hidden, hidden, scale=query_scale) / read,
            f"{prefix}.self_attn.q_proj.bias": normal(hidden, scale=0.3),
            f"{prefix}.self_attn.k_proj.weight": normal(narrow, hidden, scale=hidden**-0.5) / read,
            f"{prefix}.self_attn.k_proj.bias": normal(narrow, scale=0.3),
            f"{prefix}.self_attn.v_proj.weight": normal(narrow, hidden, scale=hidden**-0.5) / read,
            f"{prefix}.self_attn.v_proj.bias": value_bias,
            f"{prefix}.self_attn.o_proj.weight": output,
            f"{prefix}.post_attention_layernorm.weight": norm(raised_gain),
            f"{prefix}.mlp.gate_proj.weight": gate,
            f"{prefix}.mlp.up_proj.weight": up,
            f"{prefix}.mlp.down_proj.weight": down,
        }
        if not has_biases:
            for part in "qkv":
                del tensors[f"{prefix}.self_attn.{part}_proj.bias"]
            sharpness = 3 if is_last else 1
            tensors |= {
                f"{prefix}.self_attn.q_norm.weight": np.full(HEAD_SIZE, sharpness, np.float32),
                f"{prefix}.self_attn.k_norm.weight": np.ones(HEAD_SIZE, np.float32),
            }
    directory.mkdir(parents=True)
    save_file(
        {name: np.ascontiguousarray(values, np.float32) for name, values in tensors.items()},
        directory / "model.safetensors",
    )
    config = {**PLANTED[architecture], "vocab_size": len(embedding)}
    (directory / "config.json").write_text(json.dumps(config))
    tokenizer.save(str(directory / "tokenizer.json"))


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
