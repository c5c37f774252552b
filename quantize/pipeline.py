"""A checkpoint becomes a bundle: recognise the family, write the graph, describe the result."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer
from tqdm import tqdm

from edgerank.bundle import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    MIN_LENGTH,
    Bundle,
    Manifest,
    describe_files,
    read_bundle,
    write_manifest,
)
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.errors import QuantizeError
from quantize.families import Family, recognize
from quantize.graph import Graph
from quantize.hub import locate
from quantize.precision import PRECISIONS, Precision

RECIPES = {
    "fp32": "float32 weights and activations",
    "int8": "int8 weights per output channel, no neighbouring pair above 128; uint8 activations"
    " per token; int8 embedding per block of a row",
}


def quantize(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    precision: str = "int8",
    show_progress: bool = False,
) -> Bundle:
    """Turn a Hugging Face checkpoint into a bundle.

    :param checkpoint: a directory with config.json, tokenizer.json and safetensors, or a hub id
    :param bundle: the directory to create; an existing bundle there is replaced
    :param precision: "int8" or "fp32"
    :param show_progress: draw a progress bar on stderr
    :raises QuantizeError: the checkpoint is unusable or the bundle cannot be written; nothing is
        left behind
    """
    if precision not in PRECISIONS:
        raise QuantizeError(f"precision {precision!r} is unknown; choose {' or '.join(PRECISIONS)}")
    source, directory = locate(checkpoint)
    opened = open_checkpoint(directory)
    tokenizer = _load_tokenizer(opened)
    family = recognize(opened, tokenizer)
    if family.max_length < MIN_LENGTH:
        raise QuantizeError(
            f"{directory}: config.json's max_position_embeddings and the tokenizer's settings leave"
            f" {family.max_length} tokens for the texts; at least {MIN_LENGTH} are needed"
        )
    with _atomic_directory(Path(bundle)) as staging:
        model = staging / f"model.{precision}.onnx"
        with _progress(opened, family, enabled=show_progress) as observed:
            _write_graph(model, observed, family, PRECISIONS[precision])
        shutil.copyfile(opened.tokenizer_path, staging / "tokenizer.json")
        manifest = Manifest(
            format_version=FORMAT_VERSION,
            source=source,
            family=family.name,
            architecture=family.architecture,
            precision=precision,
            recipe=RECIPES[precision],
            max_length=family.max_length,
            max_length_limit=family.max_length_limit,
            prompt=family.prompt,
            truncation=family.truncation,
            scoring=family.scoring,
            model=model.name,
            tokenizer="tokenizer.json",
            files=describe_files(staging),
        )
        write_manifest(staging, manifest)
    return read_bundle(bundle)


def _load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_path))
    except Exception as error:  # the library raises bare Exception
        raise QuantizeError(
            f"{checkpoint.tokenizer_path}: not a fast tokenizer: {error}"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def _progress(checkpoint: Checkpoint, family: Family, *, enabled: bool) -> Iterator[Checkpoint]:
    """Yield the checkpoint with a bar that advances by the bytes read from it."""
    total = sum(tensor.num_bytes for tensor in checkpoint.tensors.values())
    with tqdm(total=total, unit="B", unit_scale=True, desc=family.name, disable=not enabled) as bar:
        yield replace(checkpoint, on_read=bar.update)


def _write_graph(path: Path, checkpoint: Checkpoint, family: Family, precision: Precision) -> None:
    graph = Graph(path)
    try:
        family.write(graph, checkpoint, precision)
        graph.save()
    finally:
        graph.close()


@contextmanager
def _atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a directory beside ``target`` that takes its place if all goes well.

    :raises QuantizeError: ``target`` is something else than a bundle, or cannot be written
    """
    staging: Path | None = None
    made: list[Path] = []
    try:
        if target.exists() and not (target / MANIFEST_NAME).exists():
            raise QuantizeError(f"{target}: exists and is not a bundle; choose another name")
        made += [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        staging.chmod(0o755)
        yield staging
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise QuantizeError(f"{target}: cannot write the bundle: {what}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # they are not empty if all went well
            for parent in made:
                parent.rmdir()
