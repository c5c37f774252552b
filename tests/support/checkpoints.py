"""Tiny random checkpoints, made with transformers itself, and their small tokenizers."""

from __future__ import annotations

import json
import shutil
import string
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizerFast,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    Gemma3TextConfig,
    Gemma3TextModel,
    ModernBertConfig,
    MPNetConfig,
    MPNetModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2TokenizerFast,
)

with warnings.catch_warnings():  # it decorates with torch.compile, which imports torch.jit
    warnings.simplefilter("ignore", DeprecationWarning)
    from transformers import ModernBertForSequenceClassification, ModernBertModel

TEXT = (
    "A reranker reads a query and a list of documents and gives each document a relevance score.\n"
    "instruction: You are a search relevance expert who evaluates how well documents match.\n"
    "query: what is the capital of France? document: Paris, since 987. Relevance: 0 or 1.\n"
    "Dune was written by Frank Herbert in 1965; der Fluß fließt, 数は力 и слово.\n"
)


def bpe_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer of Qwen's kind, small enough to make in a blink."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return tokenizer


def wordpiece_tokenizer() -> Tokenizer:
    """A WordPiece tokenizer of BERT's kind.

    Its vocabulary is laid out by hand, since the library's trainer orders equals at random.
    """
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    words = {word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(TEXT))}
    characters = {*string.printable.lower(), *"".join(words)} - {*string.whitespace}
    pieces = {*words, *characters, *(f"##{character}" for character in characters)}
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: index for index, piece in enumerate([*special, *sorted(pieces)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return tokenizer


def byte_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer of ModernBERT's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    cls, sep = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return tokenizer


def save_qwen2(directory: Path, tokenizer: Tokenizer, **config: object) -> Path:
    """Save a random mxbai-rerank v2 checkpoint."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
        "initializer_range": 0.08,
    }
    save_model(Qwen2ForCausalLM(Qwen2Config(**{**settings, **config})), directory)
    Qwen2TokenizerFast(tokenizer_object=tokenizer, pad_token="<|endoftext|>").save_pretrained(
        directory
    )
    return directory


def save_cross_encoder(directory: Path, **config: object) -> Path:
    """Save a random BERT cross-encoder checkpoint with one logit."""
    torch.manual_seed(0)
    tokenizer = wordpiece_tokenizer()
    model = BertForSequenceClassification(_bert_config(tokenizer, num_labels=1, **config))
    with torch.no_grad():
        model.classifier.weight *= 20  # or a random model gives all documents nearly one score
    save_model(model, directory)
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=128).save_pretrained(directory)
    return directory


def save_deberta(directory: Path, tokenizer: Tokenizer, **config: object) -> Path:
    """Save a random DeBERTa-v3 cross-encoder checkpoint of mxbai-rerank v1's kind."""
    torch.manual_seed(0)
    settings = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": 0.15,
        "layer_norm_eps": 1e-7,
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": "p2c|c2p",
        "position_biased_input": False,
        "type_vocab_size": 0,
        "num_labels": 1,
    }
    save_model(
        DebertaV2ForSequenceClassification(DebertaV2Config(**{**settings, **config})), directory
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=512,
        pad_token="[PAD]",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(directory)
    return directory


def save_embedding(directory: Path, pooling: str = "mean", *, has_dense: bool = False) -> Path:
    """Save a random BERT embedding model as sentence-transformers does."""

    return save_sentence_transformer(directory, save_bert_encoder, pooling, has_dense=has_dense)


def save_bert_encoder(directory: Path) -> Path:
    """Save a random BERT without a head, to build others on."""
    torch.manual_seed(0)
    tokenizer = wordpiece_tokenizer()
    save_model(BertModel(_bert_config(tokenizer)), directory)
    BertTokenizerFast(tokenizer_object=tokenizer, model_max_length=128).save_pretrained(directory)
    return directory


def save_modernbert_encoder(directory: Path) -> Path:
    """Save a random ModernBERT without a head, whose tokens are bytes, to build others on."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = _modernbert_config(tokenizer)
    special = {"unk_token": "[UNK]", "mask_token": "[MASK]"}
    _save_modernbert(ModernBertModel(config), tokenizer, directory, **special)
    return directory


def save_late_interaction(
    directory: Path, save_backbone: Callable[[Path], object], **settings: object
) -> Path:
    """Put a projection to 48 on an encoder of 64 channels, in the files that PyLate saves."""
    save_backbone(directory)
    (directory / "1_Dense").mkdir()
    weight = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    save_file({"linear.weight": weight}, directory / "1_Dense/model.safetensors")
    dense = {
        "in_features": 64,
        "out_features": 48,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    types = ["sentence_transformers.models.Transformer", "pylate.models.Dense.Dense"]
    modules = [
        {"type": name, "path": path} for name, path in zip(types, ["", "1_Dense"], strict=True)
    ]
    own = {
        "model_type": "ColBERT",
        "query_prefix": "query",
        "document_prefix": "document",
        "query_length": 12,
        "document_length": 48,
        "skiplist_words": [".", ","],
    }
    for name, content in (
        ("modules.json", modules),
        ("1_Dense/config.json", dense),
        ("config_sentence_transformers.json", {**own, **settings}),
    ):
        (directory / name).write_text(json.dumps(content))
    return directory


def save_sentence_transformer(
    directory: Path,
    save_backbone: Callable[[Path], None],
    pooling: str,
    *,
    has_dense: bool = False,
    prompts: dict[str, str] | None = None,
) -> Path:
    """Put pooling and a norm on an encoder of 64 channels, as sentence-transformers does.

    :param has_dense: two linear layers between them, one with a bias and a tanh
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    torch.manual_seed(0)
    backbone = directory.with_name(f"{directory.name}-backbone")
    save_backbone(backbone)
    dense = [
        Dense(64, 96, bias=False, activation_function=torch.nn.Identity()),
        Dense(96, 48, bias=True, activation_function=torch.nn.Tanh()),
    ]
    modules = [
        Transformer(str(backbone), max_seq_length=96),
        Pooling(64, pooling_mode=pooling),
        *(dense if has_dense else []),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(directory))
    return directory


def save_mpnet_embedding(directory: Path, pooling: str = "mean", **config: object) -> Path:
    """Save a random MPNet embedding model whose biases of distances matter."""

    def save_backbone(backbone: Path) -> None:
        tokenizer = wordpiece_tokenizer()
        settings = {
            "vocab_size": tokenizer.get_vocab_size(),
            "hidden_size": 64,
            "intermediate_size": 160,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "max_position_embeddings": 514,
            "initializer_range": 0.15,
        }
        model = MPNetModel(MPNetConfig(**{**settings, **config}), add_pooling_layer=False)
        with torch.no_grad():
            model.encoder.relative_attention_bias.weight *= 10
        save_model(model, backbone)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=512,
            pad_token="[PAD]",
            model_input_names=["input_ids", "attention_mask"],
        ).save_pretrained(backbone)

    return save_sentence_transformer(directory, save_backbone, pooling)


def save_gemma3_embedding(directory: Path) -> Path:
    """Save a random model of EmbeddingGemma's kind: bidirectional, two Dense modules, prompts."""

    def save_backbone(backbone: Path) -> None:
        tokenizer = wordpiece_tokenizer()
        config = Gemma3TextConfig(
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            max_position_embeddings=512,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            initializer_range=0.15,
            use_bidirectional_attention=True,
            pad_token_id=tokenizer.token_to_id("[PAD]"),
        )
        save_model(Gemma3TextModel(config), backbone)
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            model_max_length=512,
            pad_token="[PAD]",
            model_input_names=["input_ids", "attention_mask"],
        ).save_pretrained(backbone)

    prompts = {"query": "a query: ", "document": "title: none | text: "}
    save_sentence_transformer(directory, save_backbone, "mean", has_dense=True, prompts=prompts)
    # transformers halves the window each time that it reads it
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "sliding_window": 16}))
    return directory


def save_modernbert(directory: Path, tokenizer: Tokenizer, **config: object) -> Path:
    """Save a random ModernBERT cross-encoder whose windows are small."""
    torch.manual_seed(0)
    config = _modernbert_config(tokenizer, num_labels=1, **config)
    _save_modernbert(ModernBertForSequenceClassification(config), tokenizer, directory)
    return directory


def save_modernbert_embedding(directory: Path, pooling: str) -> Path:
    """Save a random ModernBERT embedding model as sentence-transformers does."""

    def save_backbone(backbone: Path) -> None:
        tokenizer = wordpiece_tokenizer()
        _save_modernbert(ModernBertModel(_modernbert_config(tokenizer)), tokenizer, backbone)

    return save_sentence_transformer(directory, save_backbone, pooling)


def _modernbert_config(tokenizer: Tokenizer, **config: object) -> ModernBertConfig:
    cls, sep, pad = (tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    settings = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 5,  # the last one is local
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "local_attention": 16,
        "initializer_range": 0.2,
        "pad_token_id": pad,
        "bos_token_id": cls,
        "cls_token_id": cls,
        "eos_token_id": sep,
        "sep_token_id": sep,
    }
    return ModernBertConfig(**{**settings, **config})


def _save_modernbert(
    model: PreTrainedModel, tokenizer: Tokenizer, directory: Path, **special: str
) -> None:
    save_model(model, directory)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=256,
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        model_input_names=["input_ids", "attention_mask"],
        **special,
    ).save_pretrained(directory)


def _bert_config(tokenizer: Tokenizer, **config: object) -> BertConfig:
    return BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=128,
        initializer_range=0.08,
        **config,
    )


def save_model(model: PreTrainedModel, directory: Path) -> None:
    """Save a model whose norms and biases are not the trivial ones of initialisation."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.1 * torch.randn_like(parameter)
    model.save_pretrained(directory)


def changed_copy(checkpoint: Path, target: Path, **config: object) -> Path:
    """Copy a checkpoint with other values in its config.json; None leaves one out."""
    shutil.copytree(checkpoint, target)
    path = target / "config.json"
    there = {key: value for key, value in json.loads(path.read_text()).items() if key not in config}
    given = {key: value for key, value in config.items() if value is not None}
    path.write_text(json.dumps({**there, **given}))
    return target
