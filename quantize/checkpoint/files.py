"""Hugging Face checkpoints on disk: config.json and safetensors, one tensor in memory at a time.

The safetensors header is read here, because the library has no bfloat16 and no rows for NumPy:
eight bytes of length, a JSON table of dtype, shape and offsets, then the data
(https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantize.errors import QuantizeError

Floats = NDArray[np.float32]
T = TypeVar("T")

STORED_DTYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),  # NumPy has no bfloat16: its bits
}
HEADER_LIMIT_BYTES = 100_000_000  # the limit of the format


class _HeaderEntry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


@dataclass(frozen=True)
class StoredTensor:
    """The location of a tensor."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int  # bytes from the start of the file


@dataclass(frozen=True)
class Checkpoint:
    """A directory with config.json, tokenizer.json and safetensors, opened but not loaded."""

    directory: Path
    config: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @property
    def tokenizer_path(self) -> Path:
        return self.directory / "tokenizer.json"

    def config_as(self, shape: type[T]) -> T:
        """Read the fields of config.json that ``shape``, a msgspec struct, names.

        :raises QuantizeError: a field is missing or has a value that the struct does not allow
        """
        return _convert(self.directory / "config.json", self.config, shape)

    def json_as(self, name: str, shape: type[T]) -> T | None:
        """Read an optional JSON file as ``shape``; None if it does not exist.

        :raises QuantizeError: it is not JSON, or has a value that the shape does not allow
        """
        path = self.directory / name
        return _convert(path, read_json(path), shape) if path.exists() else None

    def tensor(self, name: str, *shape: int) -> NDArray[np.float32]:
        """Load one tensor as float32.

        :raises QuantizeError: it is missing, has another shape, or holds NaN or infinity
        """
        return self._load(name, shape, None)

    def rows(self, name: str, indices: Sequence[int], *shape: int) -> NDArray[np.float32]:
        """Load some rows of a tensor as float32, without reading the others."""
        return self._load(name, shape, list(indices))

    def _load(
        self, name: str, shape: tuple[int, ...], indices: list[int] | None
    ) -> NDArray[np.float32]:
        stored = self.tensors.get(name)
        if stored is None:
            raise QuantizeError(
                f"{self.directory}: the checkpoint has no tensor {name!r}, only {len(self.tensors)}"
                " others; is it complete, and is config.json the one it came with?"
            )
        if stored.shape != shape:
            raise QuantizeError(
                f"{stored.path}: tensor {name!r} has shape {list(stored.shape)}, but config.json"
                f" implies {list(shape)}"
            )
        mapped = np.memmap(
            stored.path, STORED_DTYPES[stored.dtype], "r", offset=stored.offset, shape=shape
        )
        values = _to_float32(mapped if indices is None else mapped[indices], stored.dtype)
        with np.errstate(invalid="ignore"):  # infinities of both signs add up to NaN
            total = values.sum(dtype=np.float64)
        if not np.isfinite(total):  # NaN and infinity survive a sum
            raise QuantizeError(
                f"{stored.path}: tensor {name!r} holds NaN or infinity; the checkpoint is damaged"
            )
        return values


def one_label(checkpoint: Checkpoint, name: str, hidden: int) -> NDArray[np.float32]:
    """Load the classifier's only row: [hidden].

    :raises QuantizeError: it has several labels, or is missing
    """
    stored = checkpoint.tensors.get(name)
    if stored is not None and stored.shape[0] != 1:
        raise QuantizeError(
            f"{checkpoint.directory}: the classifier has {stored.shape[0]} labels; a reranker needs"
            " exactly one"
        )
    row: NDArray[np.float32] = checkpoint.tensor(name, 1, hidden)[0]
    return row


def open_checkpoint(directory: Path) -> Checkpoint:
    """Open a checkpoint directory; tensors are read later, one by one.

    :raises QuantizeError: a file is missing or malformed
    """
    if not directory.is_dir():
        raise QuantizeError(f"{directory}: no such directory")
    if not (directory / "config.json").exists():
        raise QuantizeError(f"{directory}: no config.json; is this a Hugging Face checkpoint?")
    if not (directory / "tokenizer.json").exists():
        raise QuantizeError(
            f"{directory}: no tokenizer.json; save the fast tokenizer beside the weights with"
            " AutoTokenizer.from_pretrained(...).save_pretrained(DIRECTORY)"
        )
    return _opened(directory)


def open_module(checkpoint: Checkpoint, path: str) -> Checkpoint:
    """Open a module of sentence-transformers beside a checkpoint: config.json and safetensors.

    :raises QuantizeError: it lies elsewhere, or a file is missing or malformed
    """
    if not re.fullmatch(r"\w+", path):
        raise QuantizeError(
            f"{checkpoint.directory / 'modules.json'}: {path!r} lies outside the checkpoint"
        )
    return _opened(checkpoint.directory / path)


def _opened(directory: Path) -> Checkpoint:
    config_path = directory / "config.json"
    config = read_json(config_path)
    if not isinstance(config, dict):
        raise QuantizeError(f"{config_path}: not a JSON object")
    tensors: dict[str, StoredTensor] = {}
    for path in _weight_files(directory):
        try:
            tensors.update(_read_header(path))
        except OSError as error:
            raise QuantizeError(f"{path}: {error.strerror or error}") from error
    return Checkpoint(directory, config, tensors)


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    :raises QuantizeError: it cannot be read or is not JSON
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise QuantizeError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise QuantizeError(f"{path}: not valid JSON: {error}") from error


def _convert(path: Path, value: Any, shape: type[T]) -> T:
    try:
        return msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        raise QuantizeError(f"{path}: not supported: {error}") from error


def _weight_files(directory: Path) -> list[Path]:
    index_path = directory / "model.safetensors.index.json"
    if index_path.exists():
        index = read_json(index_path)
        weight_map = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(weight_map, dict):
            raise QuantizeError(f"{index_path}: no weight_map; download the file again")
        files = [directory / name for name in sorted({str(name) for name in weight_map.values()})]
    else:
        files = [directory / "model.safetensors"]
    for path in files:
        if path.parent != directory:
            raise QuantizeError(f"{index_path}: {path.name!r} lies outside the checkpoint")
        if not path.is_file():
            raise QuantizeError(
                f"{directory}: no {path.name}; weights in other formats must be saved as"
                " safetensors first (model.save_pretrained(DIRECTORY))"
            )
    return files


def _read_header(path: Path) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(HEADER_LIMIT_BYTES, size - 8):
            raise QuantizeError(
                f"{path}: not a safetensors file, or truncated; download the file again"
            )
        try:
            header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
            header.pop("__metadata__", None)
            entries = {
                name: msgspec.json.decode(raw, type=_HeaderEntry) for name, raw in header.items()
            }
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise QuantizeError(
                f"{path}: broken safetensors header: {error}; download the file again"
            ) from error
    tensors = {}
    for name, entry in entries.items():
        if entry.dtype not in STORED_DTYPES:
            continue  # skip integer buffers such as position_ids
        begin, end = entry.data_offsets
        expected = math.prod(entry.shape) * STORED_DTYPES[entry.dtype].itemsize
        if begin < 0 or end - begin != expected or 8 + length + end > size:
            raise QuantizeError(f"{path}: tensor {name!r} is truncated; download the file again")
        renamed = name.replace("LayerNorm.gamma", "LayerNorm.weight")  # as some versions save it
        renamed = renamed.replace("LayerNorm.beta", "LayerNorm.bias")
        tensors[renamed] = StoredTensor(path, entry.dtype, entry.shape, 8 + length + begin)
    return tensors


def _to_float32(stored: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of a float32
        widened = np.empty(stored.shape, np.uint32)
        np.left_shift(stored, 16, out=widened, dtype=np.uint32, casting="unsafe")
        return widened.view(np.float32)
    return stored.astype(np.float32)
