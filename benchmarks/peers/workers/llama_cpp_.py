"""llama.cpp through llama-cpp-python's low-level calls; gguf files by the gguf package.

A decoder's query is decoded once; its keys and values serve the documents, several a batch, each a
sequence of its own. An encoder's scores are llama.cpp's rank pooling. Token ids are the
checkpoint's tokenizer's, as llama.cpp has no pairs and no pieces.
"""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import worker

BATCH_TOKENS = {"qwen2": 512, "gemma3_text": 512, "bert": 512}  # no slower than 128, 256, 1024
ARCHITECTURES = {"qwen2": "QWEN2", "gemma3_text": "GEMMA3", "bert": "BERT"}  # of gguf
MAX_SEQUENCES = 64
LEAST_CONTEXT = 2048  # grows with the longest document


def prepare(checkpoint: Path, setting: str, work: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    if config["model_type"] not in BATCH_TOKENS:
        raise worker.CannotRunError(f"llama.cpp has no architecture {config['model_type']}")
    precision = setting.split("-")[0].upper()
    work.mkdir(parents=True, exist_ok=True)
    partial = work / "partial"
    write_gguf(checkpoint, config, precision, partial)
    partial.rename(work / "model.gguf")


def write_gguf(checkpoint: Path, config: dict[str, Any], precision: str, target: Path) -> None:
    """Write matrices in the precision, embeddings in Q8_0, vectors in float32."""
    import gguf
    import numpy as np

    is_encoder = config["model_type"] == "bert"
    arch = gguf.MODEL_ARCH[ARCHITECTURES[config["model_type"]]]
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_tokenizer_model("none")
    if is_encoder:
        writer.add_vocab_size(2 * config["vocab_size"])
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_token_type_count(1)
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.RANK)
        writer.add_classifier_output_labels(["score"])
    else:
        writer.add_vocab_size(config["vocab_size"])
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(config["rope_theta"])
    if arch == gguf.MODEL_ARCH.GEMMA3:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
        writer.add_sliding_window(config["sliding_window"])
        writer.add_rope_freq_base_swa(config["rope_local_base_freq"])
    names = gguf.get_tensor_name_map(arch, config["num_hidden_layers"])
    kinds = gguf.GGMLQuantizationType
    for name, values in read_tensors(checkpoint, is_encoder):
        if arch == gguf.MODEL_ARCH.GEMMA3 and name.endswith("norm.weight"):
            values = values + 1  # its norms multiply by one more than they store
        to = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if to is None:
            raise worker.CannotRunError(f"gguf has no name for the tensor {name}")
        kind = kinds.F32
        if values.ndim == 2 and not to.startswith(("position_embd", "token_types", "cls")):
            kind = kinds.Q8_0 if to.startswith("token_embd") else kinds[precision]
        stored = np.ascontiguousarray(values, np.float32)
        if kind != kinds.F32:
            stored = gguf.quants.quantize(stored, kind)
        writer.add_tensor(to, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_tensors(checkpoint: Path, is_encoder: bool) -> Iterator[tuple[str, Any]]:
    """Yield names as gguf's name map knows them, and float32 values.

    llama.cpp gives all tokens the first type. A second half of the embedding, shifted by the
    difference of types, is what the tokens of documents look up.
    """
    import numpy as np
    from gguf.utility import SafetensorsLocal

    files = (SafetensorsLocal(path).tensors for path in sorted(checkpoint.glob("*.safetensors")))
    stored = {name: tensor for file in files for name, tensor in file.items()}

    def read(name: str) -> Any:
        tensor = stored[name]
        raw = tensor.mmap_bytes()
        if tensor.dtype == "BF16":
            values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view({"F32": np.float32, "F16": np.float16}[tensor.dtype])
        return values.reshape(tensor.shape).astype(np.float32, copy=False)

    for name in stored:
        if not is_encoder:
            yield name, read(name)
            continue
        if name.endswith(("position_ids", "token_type_embeddings.weight")):
            continue
        values = read(name)
        if name.endswith("word_embeddings.weight"):
            types = read(name.replace("word", "token_type"))
            values = np.concatenate([values + types[0], values + types[1]])
        inner = name.removeprefix("bert.")
        inner = inner.replace("classifier.", "classifier.out_proj.")
        yield inner.replace("pooler.dense.", "classifier.dense."), values


# kept here, as llama.cpp calls it until the end
_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


class Session:
    """A context, and one batch that is filled again and again."""

    def __init__(self, model: Any, batch_tokens: int, threads: int, is_encoder: bool) -> None:
        self.model, self.batch_tokens, self.threads = model, batch_tokens, threads
        self.is_encoder = is_encoder
        self.context, self.size = None, 0
        self.resize(LEAST_CONTEXT)

    def resize(self, size: int) -> None:
        import llama_cpp

        if size <= self.size:
            return
        if self.context is not None:
            llama_cpp.llama_free(self.context)
        self.size = max(size, 2 * self.size)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = self.size
        options.n_batch = options.n_ubatch = self.batch_tokens
        options.n_threads = options.n_threads_batch = self.threads
        options.n_seq_max = MAX_SEQUENCES
        options.kv_unified = True  # sequences share the cells of the query
        if not self.is_encoder:
            options.n_outputs_max = MAX_SEQUENCES
        else:
            options.embeddings = True
            options.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_RANK
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.batch = llama_cpp.llama_batch_init(self.batch_tokens, 0, 1)

    def decode(self, pieces: Sequence[tuple[int, int, Sequence[int], bool]]) -> list[int]:
        """Decode sequence, first position, token ids, and whether the last one is scored.

        Returns the place in the batch of each scored token.
        """
        import llama_cpp

        batch, place, scored = self.batch, 0, []
        for sequence, first, ids, is_scored in pieces:
            for offset, token in enumerate(ids):
                batch.token[place] = token
                batch.pos[place] = first + offset
                batch.n_seq_id[place] = 1
                batch.seq_id[place][0] = sequence
                batch.logits[place] = self.is_encoder
                place += 1
            if is_scored:
                batch.logits[place - 1] = True
                scored.append(place - 1)
        batch.n_tokens = place
        status = llama_cpp.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status}")
        return scored


def load(checkpoint: Path, setting: str, threads: int, work: Path) -> worker.Model:
    import llama_cpp
    from tokenizers import Tokenizer

    llama_cpp.llama_log_set(_QUIET, None)
    llama_cpp.llama_backend_init()
    path = work / "model.gguf"
    options = llama_cpp.llama_model_default_params()
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
    if model is None:
        raise worker.CannotRunError("llama.cpp does not load the gguf file")
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    tokenizer.no_padding()
    config = json.loads((checkpoint / "config.json").read_text())
    kind = config["model_type"]
    session = Session(model, BATCH_TOKENS[kind], threads, kind == "bert")
    at_once = 1 if setting.endswith("default") else MAX_SEQUENCES - 1
    if kind == "bert":
        return worker.Model(encoder(session, tokenizer, config, at_once), [path])
    return worker.Model(decoder(session, tokenizer, worker.PROMPTS[kind], at_once), [path])


def groups(lengths: Sequence[int], most: int, at_once: int) -> Iterator[list[int]]:
    """Put what fits one batch together, in the order given."""
    group: list[int] = []
    total = 0
    for index, length in enumerate(lengths):
        if group and (total + length > most or len(group) == at_once):
            yield group
            group, total = [], 0
        group.append(index)
        total += length
    if group:
        yield group


def decoder(session: Session, tokenizer: Any, prompt: worker.Prompt, at_once: int) -> Any:
    import llama_cpp

    tokenizer.no_truncation()
    yes, no = (worker.answer_id(tokenizer, answer) for answer in (prompt.yes, prompt.no))
    tokens = session.batch_tokens

    def score(query: str, documents: list[str]) -> list[float]:
        prefix = worker.encode(tokenizer, prompt.query, query=query)
        tails = [worker.encode(tokenizer, prompt.document, document=text) for text in documents]
        past = len(prefix)
        session.resize(past + max(max(map(len, tails)), tokens))
        llama_cpp.llama_memory_clear(session.memory, False)
        for first in range(0, past, tokens):
            session.decode([(0, first, prefix[first : first + tokens], False)])
        scores = []
        for group in groups([len(tail) for tail in tails], tokens, at_once):
            for sequence in range(1, len(group) + 1):
                llama_cpp.llama_memory_seq_cp(session.memory, 0, sequence, -1, -1)
            firsts = range(0, max(len(tails[index]) for index in group), tokens)
            for first in firsts:  # once, but for a document longer than a batch
                scored = session.decode(
                    [
                        (
                            number,
                            past + first,
                            tails[index][first : first + tokens],
                            first == firsts[-1],
                        )
                        for number, index in enumerate(group, 1)
                    ]
                )
            for place in scored:
                logits = llama_cpp.llama_get_logits_ith(session.context, place)
                scores.append(logits[yes] - logits[no])
            for sequence in range(1, len(group) + 1):
                llama_cpp.llama_memory_seq_rm(session.memory, sequence, -1, -1)
        return scores

    return worker.one_after_another(score)


def encoder(session: Session, tokenizer: Any, config: dict[str, Any], at_once: int) -> Any:
    import llama_cpp

    tokenizer.enable_truncation(config["max_position_embeddings"])
    vocabulary = config["vocab_size"]

    def score(pairs: list[tuple[str, str]]) -> list[float]:
        encodings = tokenizer.encode_batch(pairs)
        ids = [
            [token + vocabulary * kind for token, kind in zip(e.ids, e.type_ids, strict=True)]
            for e in encodings
        ]
        scores = []
        for group in groups([len(row) for row in ids], session.batch_tokens, at_once):
            session.decode([(number, 0, ids[index], True) for number, index in enumerate(group)])
            for number in range(len(group)):
                scores.append(llama_cpp.llama_get_embeddings_seq(session.context, number)[0])
        return scores

    return worker.as_pairs(score)


if __name__ == "__main__":
    worker.run(
        load,
        prepare,
        modules=["llama_cpp", "tokenizers"],
        distributions=["llama-cpp-python", "tokenizers", "numpy"],
    )
