"""A small DeBERTa cross-encoder with random weights and planted outliers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.common.checkpoints import IDENTITY, normals, save_checkpoint
from benchmarks.common.planted.decoder import OUTLIER_CHANNELS
from benchmarks.common.tokenization import pair_tokenizer

HIDDEN, WIDE, LAYERS, BUCKETS = 256, 704, 4, 256
PLANTED = {
    "architectures": ["DebertaV2ForSequenceClassification"],
    "hidden_act": "gelu",
    "hidden_size": HIDDEN,
    "intermediate_size": WIDE,
    "layer_norm_eps": 1e-7,
    "max_position_embeddings": 512,
    "model_type": "deberta-v2",
    "norm_rel_ebd": "layer_norm",
    "num_attention_heads": 8,
    "num_hidden_layers": LAYERS,
    "num_labels": 1,
    "pooler_hidden_act": "gelu",
    "pooler_hidden_size": HIDDEN,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "position_buckets": BUCKETS,
    "relative_attention": True,
    "sentence_transformers": IDENTITY,
    "share_att_key": True,
    "type_vocab_size": 0,
}
MASSIVE_TOKEN = "[SEP]"
RANK = 16  # of what the last attention writes and the head reads


def write_planted(directory: Path, *, outlier: float, massive: float) -> None:
    """Write a small encoder that has what trained ones are known for.

    * a few channels of what the norms give out are ``outlier`` times the others, in all tokens:
      by the norms' biases, and somewhat by what the linear layers add
    * one neuron of the first layer is about ``massive`` for one token

    The norms' gains and all that reads the stream make up for them, so that without rounding the
    encoder ranks about as it would without them. Its last attention is sharp and strong and writes
    where the head reads, as training would have it, so that documents differ.
    """
    rng = np.random.default_rng(0)
    normal = normals(rng)
    tokenizer = pair_tokenizer(["[PAD]", "[CLS]", MASSIVE_TOKEN], "[CLS]", MASSIVE_TOKEN)
    grow = np.ones(HIDDEN, np.float32)
    grow[list(OUTLIER_CHANNELS)] = outlier
    signs = rng.choice([-1, 1], HIDDEN)
    constant = np.where(grow > 1, signs * grow, 0)  # what outliers are in all tokens
    spread = np.sqrt(1 + constant.var())  # of a row's channels
    written = 1 + 0.02 * (grow - 1)

    tensors: dict[str, NDArray[np.float32]] = {}

    def add_norm(
        name: str, *, growth: float = 1, reads_outliers: bool = True, has_outliers: bool = True
    ) -> None:
        gain, bias = 1 + 0.1 * normal(HIDDEN), 0.1 * normal(HIDDEN)
        if reads_outliers:
            gain *= spread / growth  # undoes what the outliers do to the norm
            # what the norm makes of the constants counts towards what they are to be
            bias -= gain * (constant - constant.mean()) / spread
        tensors[f"{name}.weight"] = gain
        tensors[f"{name}.bias"] = bias + constant if has_outliers else bias

    def add_dense(name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]) -> None:
        tensors[f"{name}.weight"], tensors[f"{name}.bias"] = weight, bias

    def reader(
        rows: int, scale: float, subspace: NDArray[np.float32] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Draw a linear layer that sees the outliers' variation as it sees the others'."""
        weight = normal(rows, HIDDEN, scale=scale * HIDDEN**-0.5)
        weight = (weight if subspace is None else weight @ subspace) / grow
        return weight, normal(rows, scale=0.1) - weight @ constant

    basis = np.linalg.qr(normal(HIDDEN, RANK))[0]
    head = basis @ basis.T  # projects onto what the head reads
    embedding = normal(tokenizer.get_vocab_size(), HIDDEN)
    tensors["deberta.embeddings.word_embeddings.weight"] = embedding
    tensors["deberta.encoder.rel_embeddings.weight"] = normal(2 * BUCKETS, HIDDEN)
    add_norm("deberta.embeddings.LayerNorm", reads_outliers=False)
    add_norm("deberta.encoder.LayerNorm", reads_outliers=False, has_outliers=False)
    for layer in range(LAYERS):
        is_last = layer == LAYERS - 1
        prefix = f"deberta.encoder.layer.{layer}"
        sharpness = 1.5 if is_last else 0.5
        for part, scale in (("query", sharpness), ("key", 1.0), ("value", 1.0)):
            add_dense(f"{prefix}.attention.self.{part}_proj", *reader(HIDDEN, scale))
        strength = (7 if is_last else 0.4) * HIDDEN**-0.5
        output = normal(HIDDEN, HIDDEN, scale=strength)
        if is_last:
            output = head @ output * np.sqrt(HIDDEN / RANK)
        output *= written[:, None]
        add_dense(f"{prefix}.attention.output.dense", output, normal(HIDDEN, scale=0.1))
        add_norm(f"{prefix}.attention.output.LayerNorm", growth=2.5 if is_last else 1)
        wide, wide_bias = reader(WIDE, 1.0)
        dense = normal(HIDDEN, WIDE, scale=0.3 * WIDE**-0.5) * written[:, None]
        if layer == 0:
            token = embedding[tokenizer.token_to_id(MASSIVE_TOKEN)] / grow
            wide[0] = massive * token / HIDDEN  # massive for the token, about 1/16 for others
            wide_bias[0] = -wide[0] @ constant
            dense[:, 0] /= massive
        add_dense(f"{prefix}.intermediate.dense", wide, wide_bias)
        add_dense(f"{prefix}.output.dense", dense, normal(HIDDEN, scale=0.1))
        add_norm(f"{prefix}.output.LayerNorm")
    add_dense("pooler.dense", *reader(HIDDEN, 1.0, head))
    add_dense("classifier", normal(1, HIDDEN, scale=10 * HIDDEN**-0.5), normal(1))
    config = {**PLANTED, "vocab_size": len(embedding)}
    save_checkpoint(directory, config, tensors, tokenizer)
