"""Models of transformers with the widths of real ones and random weights, quantized to int8."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.common.engines import TOKEN_IDS
from benchmarks.common.layers import Layer, decoder_layer
from benchmarks.common.tokenization import byte_tokenizer, pair_tokenizer
from edgerank.bundle import Bundle
from quantize import quantize
from quantize.recipe import RecipeStep

# of the recipe: what is rounded with feedback is as fast to run
STEPS: tuple[RecipeStep, ...] = ("rotate", "mix", "smooth", "refine")
TEXT = [
    {"query": query, "document": document, "id": document}
    for query in ("bread", "rain")
    for document in ("flour and water", "clouds and wind")
]


@dataclass(frozen=True)
class Geometry:
    """The widths of a real model."""

    model: str
    transformers_class: str
    config: dict[str, Any]
    depths: tuple[int, int] = (2, 6)  # layers of models whose difference is whole layers

    @property
    def is_decoder(self) -> bool:
        return "head_dim" in self.config

    @property
    def layer(self) -> Layer:
        """The widths of a layer."""
        if self.is_decoder:
            return decoder_layer(self.config)
        hidden, wide = (
            self.config.get(name) or self.config[other]
            for name, other in (("hidden_size", "dim"), ("intermediate_size", "hidden_dim"))
        )
        return Layer(hidden, wide, hidden, is_gated=self.transformers_class == "ModernBert")


def _encoder(hidden: int, wide: int, heads: int, **others: Any) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_attention_heads": heads,
        "max_position_embeddings": 514,
        "pad_token_id": 0,
        **others,
    }


def _decoder(hidden: int, wide: int, heads: int, kv_heads: int, head: int) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
    }


DEBERTA = {
    "relative_attention": True,
    "position_buckets": 256,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "max_relative_positions": -1,
}
GEOMETRIES = (
    Geometry("mxbai-rerank-large-v2", "Qwen2", _decoder(1536, 8960, 12, 2, 128), (2, 4)),
    Geometry("Qwen3-Reranker-0.6B", "Qwen3", _decoder(1024, 3072, 16, 8, 128)),
    Geometry("Llama 3.2 1B", "Llama", _decoder(2048, 8192, 32, 8, 64), (2, 4)),
    Geometry("bge-reranker-v2-gemma", "Gemma", _decoder(2048, 16384, 8, 1, 256), (2, 4)),
    Geometry(
        "Gemma 3 270M", "Gemma3Text", {**_decoder(640, 2048, 4, 1, 256), "sliding_window": 512}
    ),
    Geometry("ms-marco-MiniLM-L6", "Bert", _encoder(384, 1536, 12)),
    Geometry("ms-marco-electra-base", "Electra", _encoder(768, 3072, 12, embedding_size=768)),
    Geometry("all-mpnet-base-v2", "MPNet", _encoder(768, 3072, 12)),
    Geometry("bge-reranker-v2-m3", "XLMRoberta", _encoder(1024, 4096, 16)),
    Geometry("mxbai-rerank-base-v1", "DebertaV2", _encoder(768, 3072, 12, **DEBERTA)),
    Geometry("gte-reranker-modernbert-base", "ModernBert", _encoder(768, 1152, 12)),
    Geometry("ettin-reranker-17m", "ModernBert", _encoder(256, 384, 4)),
    Geometry("ettin-reranker-32m", "ModernBert", _encoder(384, 576, 6)),
    Geometry("ettin-reranker-68m", "ModernBert", _encoder(512, 768, 8)),
    Geometry("ettin-reranker-150m", "ModernBert", _encoder(768, 1152, 12)),
    Geometry("ettin-reranker-400m", "ModernBert", _encoder(1024, 2624, 16)),
    Geometry("ettin-reranker-1b", "ModernBert", _encoder(1792, 3840, 28), (2, 4)),
    Geometry(
        "DistilBERT, through optimum",
        "DistilBert",
        {"dim": 768, "hidden_dim": 3072, "n_heads": 12, "max_position_embeddings": 512},
    ),
)


def geometries(names: tuple[str, ...]) -> list[Geometry]:
    """Choose geometries by parts of their models' names, all if there are none."""
    return [one for one in GEOMETRIES if not names or any(name in one.model for name in names)]


def build_random(geometry: Geometry, work: Path, layers: int) -> Bundle:
    """Save a random model of so many layers and quantize it; the same weights at every call."""
    torch.manual_seed(0)
    name = geometry.transformers_class
    is_exported = name == "DistilBert"
    config = getattr(transformers, f"{name}Config")(
        vocab_size=TOKEN_IDS[1],
        num_labels=1,
        **geometry.config,
        **{"n_layers" if is_exported else "num_hidden_layers": layers},
    )
    model = getattr(transformers, f"{name}ForSequenceClassification")(config)
    checkpoint = work / f"checkpoint-{layers}"
    model.save_pretrained(checkpoint)
    tokenizer = (
        byte_tokenizer([])
        if geometry.is_decoder
        else pair_tokenizer(["<s>", "</s>"], "<s>", "</s>")
    )
    tokenizer.save(str(checkpoint / "tokenizer.json"))
    (checkpoint / "tokenizer_config.json").write_text(
        json.dumps({"model_max_length": 512, "model_input_names": ["input_ids"]})
    )
    text = work / "text.jsonl"
    text.write_text("\n".join(map(json.dumps, TEXT)))
    return quantize(
        checkpoint,
        work / f"bundle-{layers}",
        calibrate=text,
        family="cross-encoder" if geometry.is_decoder else None,
        steps=None if is_exported else STEPS,
    )
