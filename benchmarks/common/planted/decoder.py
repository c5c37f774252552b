"""A small decoder, Qwen2 or Qwen3, with random weights and planted outliers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.checkpoints import normals, save_checkpoint
from benchmarks.common.tokenization import byte_tokenizer

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
    normal = normals(rng)
    tokenizer = byte_tokenizer(["<|endoftext|>", MASSIVE_TOKEN, "<|im_end|>"])
    if architecture == "qwen3":
        tokenizer.add_tokens(["yes", "no"])  # what its family asks for
    layers, hidden, wide = 6, 256, 704
    groups, narrow = 2, 64
    grow = np.ones(hidden, np.float32)
    grow[list(OUTLIER_CHANNELS)] = outlier
    gain = np.float32(np.sqrt(np.mean(grow**2)))  # undoes what the outliers do to the norm

    def norm(scale: float) -> NDArray[np.float32]:
        gains: NDArray[np.float32] = np.float32(scale) * (1 + 0.1 * normal(hidden))
        return gains

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
    config = {**PLANTED[architecture], "vocab_size": len(embedding)}
    save_checkpoint(directory, config, tensors, tokenizer)
