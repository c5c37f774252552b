"""Run by an environment that has sentence-transformers 6: save cross-encoders, tell what they give.

with_cross_encoder.py DIRECTORY saves each case under its name and prints JSON by case: without a
prompt and with the tests' instruction, scores and token ids of every query with every document.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules import Dense, Module, Normalize, Transformer
from sentence_transformers.cross_encoder.modules import LogitScore
from sentence_transformers.sentence_transformer.modules import Dropout, LayerNorm, Pooling
from tokenizers import Regex, Tokenizer, pre_tokenizers, processors, trainers
from transformers import (
    DebertaV2Config,
    DebertaV2Model,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    MPNetConfig,
    MPNetModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
    Qwen3Model,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from tests.libraries.chat_templates import TEMPLATES
from tests.libraries.texts import DOCUMENTS, INSTRUCTED, INSTRUCTION, QUERIES
from tests.support.checkpoints import TEXT, bpe_tokenizer, save_model, wordpiece_tokenizer

HIDDEN, LENGTH, CHAT_LENGTH = 64, 96, 224
ENCODER = {
    "hidden_size": HIDDEN,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "initializer_range": 0.15,
}
DECODER = {
    **ENCODER,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}


def scores(in_features: int = HIDDEN, **others: Any) -> Dense:
    """The last module of a chain."""
    return Dense(
        in_features,
        1,
        activation_function=torch.nn.Identity(),
        module_output_name="scores",
        **others,
    )


def ettin() -> list[Module]:
    """The chain of Ettin's rerankers."""
    return [
        Dense(HIDDEN, HIDDEN, bias=False, activation_function=torch.nn.GELU()),
        LayerNorm(HIDDEN),
        scores(),
    ]


def residual() -> list[Module]:
    """Residuals of equal and of other width, a norm to length 1, a head that adds what it reads."""
    return [
        Dense(HIDDEN, HIDDEN, activation_function=torch.nn.ReLU(), use_residual=True),
        Dropout(0.1),
        Normalize(),
        Dense(HIDDEN, 48, bias=False, activation_function=torch.nn.SiLU(), use_residual=True),
        scores(48, bias=False, use_residual=True),
    ]


def plain() -> list[Module]:
    return [Dense(HIDDEN, 32), Dense(32, 16, activation_function=torch.nn.Sigmoid()), scores(16)]


def special_tokens(tokenizer: Tokenizer, pad: str, cls: str, sep: str) -> dict[str, Any]:
    ids = {name: tokenizer.token_to_id(token) for name, token in (("pad", pad), ("cls", cls))}
    ids["sep"] = tokenizer.token_to_id(sep)
    return {
        "pad_token_id": ids["pad"],
        "bos_token_id": ids["cls"],
        "cls_token_id": ids["cls"],
        "eos_token_id": ids["sep"],
        "sep_token_id": ids["sep"],
    }


def pair_bpe() -> Tokenizer:
    """A byte-level tokenizer that puts special tokens around pairs, as Ettin's does."""
    tokenizer = bpe_tokenizer()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]", "[PAD]"])
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", cls), ("[SEP]", sep)],
    )
    return tokenizer


def chat_bpe() -> Tokenizer:
    """A byte-level tokenizer that cuts as Qwen's does: the end of a line goes with a full stop."""
    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer = bpe_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT, "a.\nb?\nc...\n\n"], trainer)
    return tokenizer


def save_backbone(
    directory: Path, model_class: Any, config_class: Any, tokenizer: Tokenizer, **config: Any
) -> None:
    config = config_class(vocab_size=tokenizer.get_vocab_size(), **config)
    save_model(model_class(config), directory)
    is_decoder = "num_key_value_heads" in config.to_dict()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CHAT_LENGTH if is_decoder else LENGTH,
        pad_token="<|endoftext|>" if is_decoder else "[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(directory)


def modernbert(directory: Path) -> None:
    tokenizer = pair_bpe()
    save_backbone(
        directory,
        ModernBertModel,
        ModernBertConfig,
        tokenizer,
        **{**ENCODER, "num_hidden_layers": 5, "intermediate_size": 96},
        max_position_embeddings=512,
        local_attention=16,
        **special_tokens(tokenizer, "[PAD]", "[CLS]", "[SEP]"),
    )


def bert(directory: Path) -> None:
    from transformers import BertConfig, BertModel, BertTokenizerFast

    tokenizer = wordpiece_tokenizer()
    config = BertConfig(vocab_size=tokenizer.get_vocab_size(), **ENCODER)
    save_model(BertModel(config, add_pooling_layer=False), directory)
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=LENGTH).save_pretrained(
        directory
    )


def xlm_roberta(directory: Path) -> None:
    tokenizer = pair_bpe()
    pad = tokenizer.token_to_id("[PAD]")
    save_backbone(
        directory,
        XLMRobertaModel,
        XLMRobertaConfig,
        tokenizer,
        **ENCODER,
        max_position_embeddings=LENGTH + pad + 1,
        type_vocab_size=1,
        pad_token_id=pad,
    )


def mpnet(directory: Path) -> None:
    tokenizer = pair_bpe()
    save_backbone(
        directory, MPNetModel, MPNetConfig, tokenizer, **ENCODER, max_position_embeddings=514
    )


def deberta(directory: Path) -> None:
    tokenizer = pair_bpe()
    save_backbone(
        directory,
        DebertaV2Model,
        DebertaV2Config,
        tokenizer,
        **ENCODER,
        max_position_embeddings=512,
        layer_norm_eps=1e-7,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type="p2c|c2p",
        position_biased_input=False,
        type_vocab_size=0,
        pad_token_id=tokenizer.token_to_id("[PAD]"),
    )


def qwen3(directory: Path) -> None:
    save_backbone(directory, Qwen3Model, Qwen3Config, chat_bpe(), **DECODER)


def qwen3_lm(directory: Path) -> None:
    save_backbone(directory, Qwen3ForCausalLM, Qwen3Config, chat_bpe(), **DECODER)


def qwen3_classifier(directory: Path) -> None:
    save_backbone(
        directory,
        Qwen3ForSequenceClassification,
        Qwen3Config,
        chat_bpe(),
        **DECODER,
        num_labels=1,
        pad_token_id=0,
    )


def qwen2_lm(directory: Path) -> None:
    others = {name: value for name, value in DECODER.items() if name != "head_dim"}
    save_backbone(directory, Qwen2ForCausalLM, Qwen2Config, chat_bpe(), **others)


def llama_lm(directory: Path) -> None:
    config = {**DECODER, "tie_word_embeddings": False}
    save_backbone(directory, LlamaForCausalLM, LlamaConfig, chat_bpe(), **config)


def pooled(
    backbone: Callable[[Path], None],
    pooling: str,
    chain: Callable[[], list[Module]],
    **arguments: Any,
) -> Callable[[Path], CrossEncoder]:
    """A cross-encoder of Transformer, Pooling and a chain."""

    def build(directory: Path) -> CrossEncoder:
        backbone(directory)
        modules = [Transformer(str(directory)), Pooling(HIDDEN, pooling_mode=pooling), *chain()]
        with torch.no_grad():
            modules[-1].linear.weight.mul_(10)  # or documents hardly differ
        return CrossEncoder(modules=modules, device="cpu", **arguments)

    return build


def scored(
    backbone: Callable[[Path], None],
    template: str | None,
    *modules: Module,
    task: Any = "text-generation",
    chat: dict[str, Any] | None = None,
    **arguments: Any,
) -> Callable[[Path], CrossEncoder]:
    """A cross-encoder of a decoder with a head, asked by a chat template or by pairs."""

    def build(directory: Path) -> CrossEncoder:
        backbone(directory)
        transformer = Transformer(
            str(directory),
            transformer_task=task,
            processor_kwargs={"chat_template": TEMPLATES[template]} if template else {},
            processing_kwargs={"chat_template": chat} if chat else None,
        )
        return CrossEncoder(modules=[transformer, *modules], device="cpu", **arguments)

    return build


IDENTITY = {"activation_fn": torch.nn.Identity()}
PROMPTS = {"prompts": {"web": "a web search: ", "code": "find code "}, "default_prompt_name": "web"}
CASES = {
    "ettin": pooled(modernbert, "cls", ettin, **IDENTITY),
    "modernbert-mean": pooled(modernbert, "mean", residual, **IDENTITY),
    "bert": pooled(bert, "cls", ettin, **PROMPTS),
    "bert-mean": pooled(bert, "mean", residual, activation_fn=torch.nn.Tanh()),
    "xlm-roberta": pooled(xlm_roberta, "cls", ettin, prompts={"web": "a search: "}, **IDENTITY),
    "mpnet": pooled(mpnet, "mean", ettin, **IDENTITY),
    "deberta": pooled(deberta, "cls", ettin, **IDENTITY),
    "deberta-mean": pooled(deberta, "mean", plain, **IDENTITY),
    "qwen3-lasttoken": pooled(qwen3, "lasttoken", ettin, **IDENTITY, **PROMPTS),
    "logit-qwen3": scored(qwen3_lm, "qwen3", LogitScore(70, 80)),
    "logit-qwen3-default": scored(qwen3_lm, "qwen3", LogitScore(70, 80), **IDENTITY, **PROMPTS),
    "logit-zerank": scored(qwen3_lm, "zerank", LogitScore(75), **IDENTITY),
    "logit-mxbai": scored(
        qwen2_lm, "mxbai", LogitScore(70, 80), chat={"add_generation_prompt": True}, **IDENTITY
    ),
    "logit-pair": scored(llama_lm, None, LogitScore(70, 80), **IDENTITY),
    "classifier-chat": scored(
        qwen3_classifier, "qwen3", task="sequence-classification", **IDENTITY
    ),
}


def results(model: CrossEncoder, prompt: str | None) -> dict[str, Any]:
    """Scores and token ids of all pairs."""
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    predicted = model.predict(pairs, prompt=prompt, batch_size=12)
    effective = model.prompts.get(model.default_prompt_name) if prompt is None else prompt
    features = model.preprocess(pairs, prompt=effective)
    rows = zip(features["input_ids"], features["attention_mask"].bool(), strict=True)
    ids = [row[is_token].tolist() for row, is_token in rows]
    return {"scores": predicted.tolist(), "ids": ids}


def main(directory: str) -> None:
    torch.set_num_threads(1)
    found = {}
    for case, build in CASES.items():
        torch.manual_seed(0)
        checkpoint = f"{directory}/{case}"
        build(Path(f"{checkpoint}-backbone")).save(checkpoint)
        model = CrossEncoder(checkpoint, device="cpu")
        found[case] = {"plain": results(model, None)}
        if case in INSTRUCTED:
            found[case]["instructed"] = results(model, INSTRUCTION)
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
