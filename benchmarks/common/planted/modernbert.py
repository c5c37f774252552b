"""A small ModernBERT cross-encoder with random weights and planted outliers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.checkpoints import IDENTITY, normals, save_checkpoint
from benchmarks.common.tokenization import pair_tokenizer

LAYERS, HIDDEN, WIDE = 7, 256, 384  # the last layer is global
CONFIG = {
    "architectures": ["ModernBertForSequenceClassification"],
    "classifier_pooling": "cls",
    "hidden_size": HIDDEN,
    "id2label": {"0": "LABEL_0"},
    "intermediate_size": WIDE,
    "local_attention": 64,
    "max_position_embeddings": 8192,
    "model_type": "modernbert",
    "num_attention_heads": 8,
    "num_hidden_layers": LAYERS,
    "pad_token_id": 0,
    "sentence_transformers": IDENTITY,
}
OUTLIER_CHANNELS = (7, 63, 100, 101, 200, 230)
MASSIVE_TOKEN = "[SEP]"


def write_planted(directory: Path, *, outlier: float, massive: float) -> None:
    """Write an encoder that has what large models are known for.

    * a few channels of the stream are ``outlier`` times the others, in all tokens and from the
      embedding's norm on, which the first layer's attention reads without a norm of its own
    * one token has one channel of about ``massive``
    * what the feed-forward's Wo reads is heavy-tailed

    All that reads the stream makes up for the outliers, so that without rounding the model ranks
    much as it would without them. One direction carries the relevance, as in a trained model: the
    last attention writes it and the head reads it, so that documents differ.
    """
    rng = np.random.default_rng(0)
    normal = normals(rng)
    tokenizer = pair_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], "[CLS]", "[SEP]")
    outliers = list(OUTLIER_CHANNELS)
    grow = np.ones(HIDDEN, np.float32)
    grow[outliers] = outlier
    gain = np.float32(np.sqrt(np.mean(grow**2)))  # undoes what the outliers do to a norm

    def norm(scale: float) -> NDArray[np.float32]:
        gains: NDArray[np.float32] = np.float32(scale) * (1 + 0.1 * normal(HIDDEN))
        return gains

    embedding = normal(tokenizer.get_vocab_size(), HIDDEN)
    signs = np.resize([1, -1], len(outliers))  # their sum is 0, or a norm would subtract it
    embedding[:, outliers] = signs * (1 + 0.2 * embedding[:, outliers])
    written = 1 + 0.05 * (grow - 1)
    relevance = normal(HIDDEN)
    relevance[outliers] = 0
    relevance /= np.linalg.norm(relevance)
    classifier = normal(1, HIDDEN)
    dense = normal(HIDDEN, HIDDEN, scale=HIDDEN**-0.5)
    dense += 6 * np.outer(classifier / np.linalg.norm(classifier), relevance)
    tensors = {
        "model.embeddings.tok_embeddings.weight": embedding,
        "model.embeddings.norm.weight": norm(1) * grow,
        "model.final_norm.weight": norm(gain) / grow,
        "head.dense.weight": dense,
        "head.norm.weight": norm(1),
        "classifier.weight": classifier,
        "classifier.bias": normal(1),
    }
    for layer in range(LAYERS):
        is_last = layer == LAYERS - 1
        tail = np.exp(normal(WIDE))
        wqkv = normal(3 * HIDDEN, HIDDEN, scale=HIDDEN**-0.5) / grow
        wqkv[: 2 * HIDDEN] *= 1 if is_last else 0.7  # queries and keys
        wi = normal(2 * WIDE, HIDDEN, scale=HIDDEN**-0.5) / grow
        wi[WIDE:] *= tail[:, None]
        output = normal(HIDDEN, HIDDEN, scale=0.7 * HIDDEN**-0.5)
        if is_last:
            output += 12 * np.outer(relevance, normal(HIDDEN, scale=HIDDEN**-0.5))
        down = normal(HIDDEN, WIDE, scale=(0.005 if is_last else 0.1) * WIDE**-0.5) / tail
        down *= written[:, None]
        if layer == 0:
            token = embedding[tokenizer.token_to_id(MASSIVE_TOKEN)] / grow
            wi[[0, WIDE]] = token / np.linalg.norm(token * grow)  # 16 for the token, 1 for others
            down[:, 0] = 0
            down[OUTLIER_CHANNELS[0], 0] = massive / HIDDEN
        prefix = f"model.layers.{layer}"
        tensors |= {
            f"{prefix}.attn.Wqkv.weight": wqkv,
            f"{prefix}.attn.Wo.weight": output * written[:, None],
            f"{prefix}.mlp_norm.weight": norm(gain),
            f"{prefix}.mlp.Wi.weight": wi,
            f"{prefix}.mlp.Wo.weight": down,
        }
        if layer > 0:
            tensors[f"{prefix}.attn_norm.weight"] = norm(gain)
    config = {**CONFIG, "vocab_size": len(embedding)}
    save_checkpoint(directory, config, tensors, tokenizer)
