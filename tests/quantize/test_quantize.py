"""A bad checkpoint or output becomes a QuantizeError that names it, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from edgerank import EdgerankError, InputError, Reranker
from edgerank.bundle import read_bundle, verify_bundle
from quantize import QuantizeError, quantize
from tests.support import ROOT
from tests.support.checkpoints import save_cross_encoder

WEIGHTS = "model.safetensors"
UP = "model.layers.1.mlp.up_proj.weight"
DOCUMENTS = ["Paris is the capital of France.", "Dune was written by Frank Herbert.", ""]


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    """Copy a checkpoint, to be damaged."""
    return lambda source: shutil.copytree(source, tmp_path / "checkpoint")


@pytest.fixture
def decoder(qwen2: Path, copied: Callable[[Path], Path]) -> Path:
    return copied(qwen2)


@pytest.fixture
def pair_encoder(cross_encoder: Path, copied: Callable[[Path], Path]) -> Path:
    return copied(cross_encoder)


@pytest.fixture
def embedder(embedding: Path, copied: Callable[[Path], Path]) -> Path:
    return copied(embedding)


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_bytes())
    change(value)
    path.write_text(json.dumps(value))


def edit_tensors(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(checkpoint / WEIGHTS)
    change(tensors)
    save_file(tensors, checkpoint / WEIGHTS)


def write_header(checkpoint: Path, header: bytes) -> None:
    (checkpoint / WEIGHTS).write_bytes(struct.pack("<Q", len(header)) + header)


def contents(directory: Path) -> dict[str, bytes | None]:
    """Everything under a directory, hidden or not: bytes of files, None for directories."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    before = contents(directory)
    yield
    assert contents(directory) == before


def assert_refused(
    checkpoint: Path | str,
    match: str,
    tmp_path: Path,
    output: str = "bundle",
    error: type[Exception] = QuantizeError,
    **options: Any,
) -> None:
    """Quantize into a directory that holds something else already."""
    parent = tmp_path / "output"
    parent.mkdir(exist_ok=True)
    (parent / "neighbour").write_text("kept")
    with unchanged(tmp_path), pytest.raises(error, match=match):
        quantize(checkpoint, parent / output, **options)


def test_a_quantize_error_is_an_edgerank_error():
    assert issubclass(QuantizeError, EdgerankError)


@pytest.mark.parametrize(
    "architectures", [["GPT2LMHeadModel"], [], None, "GPT2LMHeadModel", 5, [5], {"a": 1}], ids=repr
)
def test_an_unknown_architecture_is_refused(decoder, tmp_path, architectures):
    edit_json(decoder / "config.json", lambda config: config.update(architectures=architectures))
    assert_refused(decoder, r"config\.json: .*architecture", tmp_path)


def test_an_unknown_architecture_is_named_beside_the_supported_ones(decoder, tmp_path):
    edit_json(decoder / "config.json", lambda config: config.update(architectures=["T5Model"]))
    assert_refused(decoder, r"T5Model without.*Bert.*Qwen2.*families", tmp_path)


def test_a_missing_tensor_is_named(decoder, tmp_path):
    edit_tensors(decoder, lambda tensors: tensors.pop(UP))
    assert_refused(decoder, f"{re.escape(str(decoder))}.*{UP}", tmp_path)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(decoder, tmp_path):
    edit_tensors(decoder, lambda tensors: tensors.update({UP: tensors[UP][:-1]}))
    assert_refused(decoder, rf"{WEIGHTS}.*{UP}.*\[159, 64\].*\[160, 64\]", tmp_path)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize(
    "values", [[np.nan], [np.inf], [-np.inf], [np.inf, -np.inf], [np.nan, np.inf]], ids=str
)
def test_a_weight_that_is_not_finite_is_named(decoder, tmp_path, values, precision):
    def spoil(tensors: dict[str, torch.Tensor]) -> None:
        tensors[UP][3, : len(values)] = torch.tensor(values)

    edit_tensors(decoder, spoil)
    assert_refused(decoder, f"{WEIGHTS}.*{UP}.*NaN or infinity", tmp_path, precision=precision)


def test_a_row_of_the_head_that_is_not_finite_is_named(decoder, tmp_path):
    def untie(tensors: dict[str, torch.Tensor]) -> None:
        tensors["lm_head.weight"] = torch.full((432, 64), torch.nan)

    edit_tensors(decoder, untie)
    edit_json(decoder / "config.json", lambda config: config.update(tie_word_embeddings=False))
    assert_refused(decoder, f"{WEIGHTS}.*lm_head.weight.*NaN", tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_missing_file_of_a_checkpoint_is_named(decoder, tmp_path, name):
    (decoder / name).unlink()
    assert_refused(decoder, f"{re.escape(str(decoder))}.*{re.escape(name)}", tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_directory_in_the_place_of_a_file_is_named(decoder, tmp_path, name):
    (decoder / name).unlink()
    (decoder / name).mkdir()
    assert_refused(decoder, re.escape(name), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"\0\0",
        b"\xff",
        b'{"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}',
    ],
    ids=repr,
)
def test_a_tokenizer_that_cannot_be_read_is_named(decoder, tmp_path, content):
    (decoder / "tokenizer.json").write_bytes(content)
    assert_refused(decoder, r"tokenizer\.json: not a fast tokenizer", tmp_path)


def test_a_tokenizer_of_another_family_is_refused(decoder, embedding, tmp_path):
    shutil.copy(decoder / "tokenizer.json", tmp_path)
    shutil.copytree(embedding, decoder, dirs_exist_ok=True)
    shutil.copy(tmp_path / "tokenizer.json", decoder)
    assert_refused(decoder, r"tokenizer\.json: it puts no special tokens", tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[" * 100_000], ids=lambda c: repr(c[:9])
)
def test_a_config_that_is_not_json_is_named(decoder, tmp_path, content):
    (decoder / "config.json").write_bytes(content)
    assert_refused(decoder, r"config\.json: not valid JSON", tmp_path)


@pytest.mark.parametrize("content", [b"[]", b"null", b'"text"', b"1"])
def test_a_config_that_is_no_object_is_named(decoder, tmp_path, content):
    (decoder / "config.json").write_bytes(content)
    assert_refused(decoder, r"config\.json: not a JSON object", tmp_path)


@pytest.mark.parametrize(
    "field", ["hidden_size", "num_key_value_heads", "rms_norm_eps", "vocab_size"]
)
def test_a_missing_field_of_a_decoders_config_is_named(decoder, tmp_path, field):
    edit_json(decoder / "config.json", lambda config: config.pop(field))
    assert_refused(decoder, rf"config\.json: .*{field}", tmp_path)


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size", "layer_norm_eps"])
def test_a_missing_field_of_an_encoders_config_is_named(pair_encoder, tmp_path, field):
    edit_json(pair_encoder / "config.json", lambda config: config.pop(field))
    assert_refused(pair_encoder, rf"config\.json: .*{field}", tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("hidden_act", "relu", "hidden_act"),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}, "rope_scaling"),
        ("rope_parameters", {"rope_theta": 1e6, "rope_type": "yarn"}, "rope_type"),
        ("use_sliding_window", True, "sliding window"),
        ("hidden_size", "64", "hidden_size"),
        ("hidden_size", None, "hidden_size"),
        ("hidden_size", 0, "hidden_size"),
        ("vocab_size", -1, "vocab_size"),
        ("num_hidden_layers", 0, "num_hidden_layers"),
        ("num_attention_heads", 0, "num_attention_heads"),
        ("num_attention_heads", 6, "num_attention_heads"),
        ("num_key_value_heads", 0, "num_key_value_heads"),
        ("num_key_value_heads", 3, "num_key_value_heads"),
        ("max_position_embeddings", 100, "max_position_embeddings"),
    ],
    ids=str,
)
def test_a_decoders_config_that_the_graph_cannot_follow_is_refused(
    decoder, tmp_path, field, value, named
):
    edit_json(decoder / "config.json", lambda config: config.update({field: value}))
    assert_refused(decoder, rf"config\.json.*{named}", tmp_path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "relu"),
        ("position_embedding_type", "relative_key"),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 0),
        ("num_attention_heads", 5),
        ("max_position_embeddings", "512"),
    ],
    ids=str,
)
def test_an_encoders_config_that_the_graph_cannot_follow_is_refused(
    pair_encoder, tmp_path, field, value
):
    edit_json(pair_encoder / "config.json", lambda config: config.update({field: value}))
    assert_refused(pair_encoder, rf"config\.json.*{field}", tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 8, 1000, -1])
def test_truncated_weights_are_named(decoder, tmp_path, kept):
    content = (decoder / WEIGHTS).read_bytes()
    (decoder / WEIGHTS).write_bytes(content[:kept])
    assert_refused(decoder, f"{WEIGHTS}: .*truncated", tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"garbage!",
        b"\xff\xfe\xfd",
        b"[]",
        b'{"\xff": {}}',
        b'{"w": 5}',
        b'{"w": {"dtype": "F32", "shape": ["x"], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}}',
        b'{"w": {"dtype": "F32", "shape": [-1, -1], "data_offsets": [0, 4]}}',
        b'{"w": ' + b"[" * 100_000,
    ],
    ids=lambda header: repr(header[:70]),
)
def test_a_broken_header_of_the_weights_is_named(decoder, tmp_path, header):
    write_header(decoder, header)
    assert_refused(decoder, f"{WEIGHTS}: .*(header|truncated)", tmp_path)


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs Linux's /proc/self/mem")
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", WEIGHTS])
def test_a_file_whose_reading_fails_is_named(decoder, tmp_path, name):
    (decoder / name).unlink()
    (decoder / name).symlink_to("/proc/self/mem")  # opens, but its first byte cannot be read
    parent = tmp_path / "output"
    parent.mkdir()
    with pytest.raises(QuantizeError, match=f"{re.escape(name)}: .*Input/output error"):
        quantize(decoder, parent / "bundle")
    assert contents(parent) == {}


def test_weights_in_an_unsupported_type_are_named(decoder, tmp_path):
    edit_tensors(decoder, lambda tensors: tensors.update({UP: tensors[UP].double()}))
    assert_refused(decoder, UP, tmp_path)


def save_sharded(source: Path, target: Path, dtype: torch.dtype) -> Path:
    """Save a checkpoint anew, in shards and another type."""
    model = AutoModelForCausalLM.from_pretrained(source).to(dtype)
    shutil.copytree(source, target)
    (target / WEIGHTS).unlink()
    model.save_pretrained(target, max_shard_size="150KB")
    assert len(list(target.glob("*.safetensors"))) > 2
    return target


def test_a_missing_shard_is_named(qwen2, tmp_path):
    checkpoint = save_sharded(qwen2, tmp_path / "checkpoint", torch.float32)
    shard = sorted(checkpoint.glob("*.safetensors"))[1]
    shard.unlink()
    assert_refused(checkpoint, f"{re.escape(str(checkpoint))}.*{shard.name}", tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        [],
        {},
        {"weight_map": []},
        {"weight_map": {"w": "../other.safetensors"}},
        {"weight_map": {"w": "/etc/passwd"}},
        {"weight_map": {"w": ".."}},
        {"weight_map": {"w": ["a"]}},
        {"weight_map": {"w": 1, "v": "a"}},
    ],
    ids=str,
)
def test_a_shard_index_that_makes_no_sense_is_refused(decoder, tmp_path, index):
    (tmp_path / "other.safetensors").write_bytes((decoder / WEIGHTS).read_bytes())
    (decoder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert_refused(decoder, re.escape(str(decoder)), tmp_path)


def test_a_classifier_with_two_labels_is_refused(tmp_path, pair_encoder):
    def add_label(tensors: dict[str, torch.Tensor]) -> None:
        for name in ("classifier.weight", "classifier.bias"):
            tensors[name] = torch.cat([tensors[name]] * 2)

    edit_tensors(pair_encoder, add_label)
    assert_refused(pair_encoder, f"{re.escape(str(pair_encoder))}.*2 labels", tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.ReLU"}},
        {"sbert_ce_default_activation_function": "torch.nn.modules.activation.ReLU"},
        {"sentence_transformers": {"activation_fn": ["ReLU"]}},
        {"sentence_transformers": "ReLU"},
    ],
    ids=str,
)
def test_an_activation_that_is_not_supported_is_refused(pair_encoder, tmp_path, settings):
    edit_json(pair_encoder / "config.json", lambda config: config.update(settings))
    assert_refused(pair_encoder, r"config\.json.*(ReLU|activation|sentence_transformers)", tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"pooling_mode": "max"},
        {"pooling_mode": ["mean", "cls"]},
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
        {},
        [],
        ["mean"],
    ],
    ids=str,
)
def test_a_pooling_that_is_not_supported_is_refused(embedder, tmp_path, settings):
    (embedder / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    assert_refused(embedder, r"1_Pooling/config\.json", tmp_path)


@pytest.mark.parametrize(
    "modules",
    [[{"type": "sentence_transformers.models.Dense"}], [{}], ["Transformer"], {"a": 1}, 5],
    ids=str,
)
def test_modules_that_are_not_supported_are_refused(embedder, tmp_path, modules):
    (embedder / "modules.json").write_text(json.dumps(modules))
    assert_refused(embedder, r"modules\.json", tmp_path)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sentence_bert_config.json", [96]),
        ("sentence_bert_config.json", {"max_seq_length": "96"}),
        ("sentence_bert_config.json", {"max_seq_length": 5}),
        ("sentence_bert_config.json", {"max_seq_length": -1}),
    ],
    ids=str,
)
def test_a_maximum_length_that_makes_no_sense_is_refused(embedder, tmp_path, name, settings):
    (embedder / name).write_text(json.dumps(settings))
    assert_refused(embedder, re.escape(str(embedder)), tmp_path)


@pytest.mark.parametrize(
    "settings", [[128], {"model_max_length": "128"}, {"model_max_length": 5}], ids=str
)
def test_a_tokenizers_maximum_length_that_makes_no_sense_is_refused(
    pair_encoder, tmp_path, settings
):
    (pair_encoder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert_refused(pair_encoder, re.escape(str(pair_encoder)), tmp_path)


@pytest.mark.parametrize("precision", ["int2", "", "INT8", None, ["int8", "int2"]], ids=str)
def test_an_unknown_precision_is_named_beside_the_known_ones(decoder, tmp_path, precision):
    match = r"precision: '(int2||INT8|None)' is unknown; choose int8, int8-fine, int4, fp32"
    assert_refused(decoder, match, tmp_path, error=InputError, precision=precision)


def test_precisions_are_named_once_each_and_steps_must_be_known(decoder, tmp_path):
    for options, match in (
        ({"precision": ("int8", "fp32", "int8")}, "precision: 'int8' is named twice"),
        ({"precision": ()}, "precision: none is named"),
        ({"steps": ["smooth", "polish"]}, "steps: 'polish' is unknown; choose rotate, mix, smooth"),
    ):
        assert_refused(decoder, match, tmp_path, error=InputError, **options)


def test_a_missing_directory_is_named(tmp_path):
    missing = tmp_path / "no" / "such" / "checkpoint"
    assert_refused(missing, f"{re.escape(str(missing))}: no such directory", tmp_path)


@pytest.mark.parametrize("name", ["/" + "a" * 5000, "../" * 2000, "a\0b"], ids=lambda n: n[:6])
def test_a_name_that_no_directory_can_have_is_no_checkpoint(tmp_path, name):
    assert_refused(name, rf"^{re.escape(name)}: no such directory", tmp_path)


def test_an_output_with_a_name_that_is_too_long_is_refused(decoder, tmp_path):
    name = "a" * 5000
    assert_refused(decoder, f"{name}: cannot write the bundle", tmp_path, output=name)


def test_a_file_is_no_checkpoint(decoder, tmp_path):
    assert_refused(decoder / WEIGHTS, f"{WEIGHTS}: no such directory", tmp_path)


@pytest.mark.parametrize("kind", ["file", "empty directory", "full directory", "checkpoint"])
def test_an_output_that_is_no_bundle_is_left_untouched(decoder, tmp_path, kind):
    target = tmp_path / "output" / "precious"
    target.parent.mkdir()
    if kind == "file":
        target.write_text("precious")
    elif kind == "checkpoint":
        shutil.copytree(decoder, target)
    else:
        target.mkdir()
        if kind == "full directory":
            (target / "precious").write_text("precious")
    assert_refused(decoder, "precious: exists and is not a bundle", tmp_path, output="precious")


def test_a_checkpoint_is_never_replaced_by_its_bundle(decoder, tmp_path):
    with unchanged(tmp_path), pytest.raises(QuantizeError, match="is not a bundle"):
        quantize(decoder, decoder)


def test_an_output_under_a_file_is_refused(decoder, tmp_path):
    match = "neighbour/bundle: cannot write the bundle"
    assert_refused(decoder, match, tmp_path, output="neighbour/bundle")


def test_directories_made_for_an_output_are_removed_after_a_failure(decoder, tmp_path):
    edit_tensors(decoder, lambda tensors: tensors.pop(UP))
    assert_refused(decoder, UP, tmp_path, output="new/and/deep/bundle")


def test_a_failure_leaves_an_existing_bundle_as_it_was(decoder, tmp_path):
    output = tmp_path / "output"
    quantize(decoder, output / "bundle")
    edit_tensors(decoder, lambda tensors: tensors.pop("model.norm.weight"))
    assert_refused(decoder, "model.norm.weight", tmp_path)
    assert list(verify_bundle(read_bundle(output / "bundle")))


def run_quantize(checkpoint: str | Path, output: Path, prelude: str = "", **env: str) -> str:
    """Quantize in a process of its own and return the message of its QuantizeError."""
    code = f"""
import sys
{prelude}
from quantize import QuantizeError, quantize
try:
    quantize(sys.argv[1], sys.argv[2])
except QuantizeError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(checkpoint), str(output)],
        cwd=ROOT,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def test_a_hub_id_while_offline_is_told_to_pass_a_directory(tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    cache = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    message = run_quantize("some-one/some-model", output / "bundle", **cache)
    assert re.search(r"^some-one/some-model: .*pass its directory", message)
    assert contents(output) == {}


def test_a_hub_that_fails_without_a_word_is_reported(monkeypatch, tmp_path):
    import huggingface_hub

    def fail(*args: object, **kwargs: object) -> None:
        raise ConnectionResetError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    assert_refused("some-one/some-model", "some-one/some-model: .*ConnectionReset", tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX resource limits")
@pytest.mark.parametrize("limit", [100, 100_000])
def test_a_file_that_cannot_be_written_whole_leaves_nothing_behind(qwen2, tmp_path, limit):
    output = tmp_path / "output"
    output.mkdir()
    prelude = f"""
import atexit, resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, -1))
atexit.register(resource.setrlimit, resource.RLIMIT_FSIZE, (-1, -1))  # coverage writes at exit
"""
    message = run_quantize(qwen2, output / "bundle", prelude)
    assert re.search(f"^{re.escape(str(output / 'bundle'))}: cannot write.*File too large", message)
    assert contents(output) == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 320 kB: room for one bundle and not for a second."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root can mount a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_called_that_and_leaves_the_old_bundle_in_place(qwen2, small_disk):
    quantize(qwen2, small_disk / "bundle")
    with unchanged(small_disk), pytest.raises(QuantizeError, match=r"bundle: .*the disk is full"):
        quantize(qwen2, small_disk / "bundle")
    with unchanged(small_disk), pytest.raises(QuantizeError, match=r"second: .*the disk is full"):
        quantize(qwen2, small_disk / "second")


def scores_of(bundle: Path) -> np.ndarray:
    return Reranker(bundle, threads=1).score("the capital of France", DOCUMENTS)


def test_a_sharded_bfloat16_checkpoint_scores_as_its_rounded_weights_in_float32(qwen2, tmp_path):
    checkpoint = save_sharded(qwen2, tmp_path / "bfloat16", torch.bfloat16)
    shard = next(checkpoint.glob("*.safetensors"))
    assert {tensor.dtype for tensor in load_file(shard).values()} == {torch.bfloat16}
    widened = shutil.copytree(qwen2, tmp_path / "float32")
    edit_tensors(widened, lambda tensors: tensors.update(rounded(tensors, torch.bfloat16)))

    quantize(checkpoint, tmp_path / "a", precision="fp32")
    quantize(widened, tmp_path / "b", precision="fp32")
    quantize(qwen2, tmp_path / "c", precision="fp32")
    np.testing.assert_allclose(scores_of(tmp_path / "a"), scores_of(tmp_path / "b"), atol=1e-4)
    assert np.abs(scores_of(tmp_path / "a") - scores_of(tmp_path / "c")).max() > 1e-4


def test_a_float16_checkpoint_scores_as_its_rounded_weights_in_float32(cross_encoder, tmp_path):
    checkpoint = shutil.copytree(cross_encoder, tmp_path / "float16")
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint)
    model.to(torch.float16).save_pretrained(checkpoint)
    stored = load_file(checkpoint / WEIGHTS)
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    widened = shutil.copytree(cross_encoder, tmp_path / "float32")
    edit_tensors(widened, lambda tensors: tensors.update(rounded(tensors, torch.float16)))

    quantize(checkpoint, tmp_path / "a", precision="fp32")
    quantize(widened, tmp_path / "b", precision="fp32")
    np.testing.assert_allclose(scores_of(tmp_path / "a"), scores_of(tmp_path / "b"), atol=1e-4)


def rounded(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: tensor.to(dtype).float() for name, tensor in tensors.items()}


def test_an_existing_bundle_is_replaced_whole(qwen2, cross_encoder, tmp_path):
    target = tmp_path / "output" / "bundle"
    quantize(qwen2, target, precision="int8")
    made = quantize(cross_encoder, target, precision="fp32")
    assert made.manifest.family == "cross-encoder"
    assert set(contents(target)) == {"edgerank.json", *made.manifest.files}
    assert [path.name for path in target.parent.iterdir()] == ["bundle"]
    assert scores_of(target).shape == (len(DOCUMENTS),)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
@pytest.mark.parametrize("name", ["qwen2", "cross_encoder", "embedding"])
def test_the_same_checkpoint_gives_the_same_bytes(request, tmp_path, name, precision):
    checkpoint = request.getfixturevalue(name)
    for output in ("first", "second"):
        quantize(checkpoint, tmp_path / output, precision=precision)
    assert contents(tmp_path / "first") == contents(tmp_path / "second")


def test_the_output_may_be_given_as_text_and_its_parents_are_made(qwen2, tmp_path):
    target = tmp_path / "new" / "and" / "deep"
    made = quantize(str(qwen2), str(target))
    assert made.directory == target
    assert sorted(verify_bundle(made)) == sorted(made.manifest.files)


def test_the_progress_bar_is_drawn_on_stderr_and_only_when_asked(qwen2, tmp_path, capfd):
    quantize(qwen2, tmp_path / "bundle")
    assert tuple(capfd.readouterr()) == ("", "")
    quantize(qwen2, tmp_path / "bundle", show_progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "100%" in err


@pytest.mark.parametrize(
    ("card", "license"),
    [
        (b"---\nlicense: mit\n---\nA model.", "mit"),
        (b"A model without metadata.", None),
        (b"---\nlicense: [unclosed\n---\n", None),
        (b"---\n\tlicense: mit\n---\n", None),
        (b"---\n- license\n---\n", None),
        (b"\xff\xfe", None),
        (b"", None),
    ],
    ids=repr,
)
def test_a_model_card_gives_the_licence_and_a_broken_one_gives_none(
    decoder, tmp_path, card, license
):
    (decoder / "README.md").write_bytes(card)
    made = quantize(decoder, tmp_path / "bundle", precision="fp32")
    assert made.manifest.source.license == license
    assert made.manifest.source.model == "checkpoint"


def test_an_identity_activation_is_kept(tmp_path):
    checkpoint = save_cross_encoder(tmp_path / "checkpoint")
    quantize(checkpoint, tmp_path / "sigmoid", precision="fp32")
    for number, settings in enumerate(
        [
            {"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}},
            {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        ]
    ):
        saved = shutil.copytree(checkpoint, tmp_path / f"checkpoint-{number}")
        edit_json(saved / "config.json", lambda config, new=settings: config.update(new))
        quantize(saved, tmp_path / f"identity-{number}", precision="fp32")
        logits = scores_of(tmp_path / f"identity-{number}")
        expected = 1 / (1 + np.exp(-logits))
        np.testing.assert_allclose(scores_of(tmp_path / "sigmoid"), expected, atol=1e-6)
