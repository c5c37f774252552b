"""A small Gemma 3 decoder with random weights and planted outliers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.checkpoints import normals, save_checkpoint
from benchmarks.common.planted.decoder import OUTLIER_CHANNELS
from benchmarks.common.tokenization import byte_tokenizer

HIDDEN, WIDE, LAYERS = 256, 704, 6
HEADS, HEAD_SIZE = 4, 64
CONFIG = {
    "architectures": ["Gemma3ForCausalLM"],
    "head_dim": HEAD_SIZE,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
    "max_position_embeddings": 4096,
    "model_type": "gemma3_text",
    "num_attention_heads": HEADS,
    "num_hidden_layers": LAYERS,
    "num_key_value_heads": 1,
    "query_pre_attn_scalar": HEAD_SIZE,
    "rms_norm_eps": 1e-6,
    "sliding_window": 64,
}
MASSIVE_TOKEN = "<bos>"
STANDS_OUT = 13  # what the norm after a feed-forward part makes of a neuron that outshines the rest


def write_planted(directory: Path, *, outlier: float, massive: float) -> None:
    """Write a small decoder that has what trained ones are known for.

    * a few channels of the stream are ``outlier`` times the others, in all tokens
    * one token has one channel of about ``massive``
    * what down_proj reads is heavy-tailed

    They come in by the gains of the norm after the first layer's feed-forward part, as in trained
    weights. All that reads the stream makes up for them, so that without rounding the decoder ranks
    about as it would without them. Its last attention is sharp and strong, so that documents
    differ.
    """
    rng = np.random.default_rng(0)
    normal = normals(rng)
    tokenizer = byte_tokenizer(["<pad>", "<eos>", MASSIVE_TOKEN])
    tokenizer.add_tokens(["Yes"])  # what its family asks for
    outliers = list(OUTLIER_CHANNELS)
    grow = np.ones(HIDDEN, np.float32)
    grow[outliers] = outlier
    gain = np.float32(np.sqrt(np.mean(grow**2)))  # undoes what the outliers do to a norm

    def norm(scale: NDArray[np.float32] | float) -> NDArray[np.float32]:
        gains: NDArray[np.float32] = scale * (1 + 0.1 * normal(HIDDEN)) - 1  # stored less one
        return gains

    embedding = normal(tokenizer.get_vocab_size(), HIDDEN, scale=HIDDEN**-0.5)
    tensors = {
        "model.embed_tokens.weight": embedding,
        "model.norm.weight": norm(gain / grow),
    }
    for layer in range(LAYERS):
        is_first, is_last = layer == 0, layer == LAYERS - 1
        read = np.ones_like(grow) if is_first else grow
        scale = HIDDEN**-0.5
        tail = np.exp(normal(WIDE))
        gate = normal(WIDE, HIDDEN, scale=scale) / read
        up = normal(WIDE, HIDDEN, scale=scale) / read * tail[:, None]
        down = normal(HIDDEN, WIDE, scale=0.2 * WIDE**-0.5) / tail
        written = 1 + 0.05 * (read - 1)
        attention_gain, feed_forward_gain = 0.5 * written, 0.3 * written
        if is_first:
            feed_forward_gain[outliers] = outlier
            feed_forward_gain[outliers[0]] = massive / STANDS_OUT
            token = embedding[tokenizer.token_to_id(MASSIVE_TOKEN)]
            gate[0] = up[0] = token / np.linalg.norm(token)  # 16 for the token, about 1 for others
            down[:, 0] = 0
            down[outliers[0], 0] = 0.01
        if is_last:
            attention_gain, feed_forward_gain = 4 * written, 0.05 * written
        prefix = f"model.layers.{layer}"
        kv, width = HEAD_SIZE, HEADS * HEAD_SIZE
        tensors |= {
            f"{prefix}.input_layernorm.weight": norm(1 if is_first else gain),
            f"{prefix}.self_attn.q_proj.weight": normal(width, HIDDEN, scale=scale) / read,
            f"{prefix}.self_attn.k_proj.weight": normal(kv, HIDDEN, scale=scale) / read,
            f"{prefix}.self_attn.v_proj.weight": normal(kv, HIDDEN, scale=scale) / read,
            f"{prefix}.self_attn.o_proj.weight": normal(HIDDEN, width, scale=scale),
            f"{prefix}.self_attn.q_norm.weight": np.full(kv, 2 if is_last else 0, np.float32),
            f"{prefix}.self_attn.k_norm.weight": np.zeros(kv, np.float32),
            f"{prefix}.post_attention_layernorm.weight": norm(attention_gain),
            f"{prefix}.pre_feedforward_layernorm.weight": norm(1 if is_first else gain),
            f"{prefix}.mlp.gate_proj.weight": gate,
            f"{prefix}.mlp.up_proj.weight": up,
            f"{prefix}.mlp.down_proj.weight": down,
            f"{prefix}.post_feedforward_layernorm.weight": norm(feed_forward_gain),
        }
    save_checkpoint(directory, {**CONFIG, "vocab_size": len(embedding)}, tensors, tokenizer)
