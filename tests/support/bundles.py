"""The checkpoints and bundles that many tests share: each is made once in a run, when asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgerank.bundle import Bundle
    from edgerank.manifest import Variant
    from edgerank.prompt import Encoded, PromptEncoder

PRECISIONS = ("fp32", "int8")


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]
) -> Path:
    """Return a directory that the first process of the run to ask for it makes.

    The processes of pytest-xdist share it: the others wait until it is there.
    """
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    target = base / "shared" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        done = Path(f"{target}.done")
        if not done.exists():
            make(target)
            done.touch()
    return target


@pytest.fixture(scope="session")
def qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random mxbai-rerank v2 checkpoint with a small tokenizer."""
    from tests.support.checkpoints import bpe_tokenizer, save_qwen2

    return made_once(tmp_path_factory, "qwen2", lambda path: save_qwen2(path, bpe_tokenizer()))


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT cross-encoder checkpoint."""
    from tests.support.checkpoints import save_cross_encoder

    return made_once(tmp_path_factory, "cross-encoder", save_cross_encoder)


@pytest.fixture(scope="session")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT embedding checkpoint."""
    from tests.support.checkpoints import save_embedding

    return made_once(tmp_path_factory, "embedding", save_embedding)


@pytest.fixture(scope="session")
def bundles(
    tmp_path_factory: pytest.TempPathFactory, qwen2: Path, cross_encoder: Path, embedding: Path
) -> Path:
    """A directory of bundles called <checkpoint>.<precision>."""
    from quantize import quantize

    wanted = list(product((qwen2, cross_encoder, embedding), PRECISIONS))
    if os.environ.get("PYTEST_XDIST_WORKER") == "gw1":
        wanted.reverse()  # two processes meet in the middle
    for checkpoint, precision in wanted:
        made = made_once(
            tmp_path_factory,
            f"bundles/{checkpoint.name}.{precision}",
            partial(quantize, checkpoint, precision=precision),
        )
    return made.parent


def prompt_encoder(bundle: Bundle, max_length: int) -> PromptEncoder:
    """Open the prompt of a bundle."""
    from edgerank.prompt import PromptEncoder
    from edgerank.tokenization import open_tokenizer

    manifest, tokenizer = bundle.manifest, open_tokenizer(bundle.tokenizer_path)
    return PromptEncoder(manifest.prompt, manifest.truncation, tokenizer, max_length)


def encode_documents(
    encoder: PromptEncoder, query: str, documents: Sequence[str], instruction: str | None = None
) -> Encoded:
    """Turn a query and distinct documents into tokens."""
    from edgerank.documents import Pair

    pairs = {text: Pair(query, text, index) for index, text in enumerate(documents)}
    return encoder.encode(query, pairs, instruction)


def only_variant(directory: Path) -> Variant:
    """Return what a bundle's manifest says of its only variant."""
    from edgerank.bundle import read_bundle

    (variant,) = read_bundle(directory).manifest.variants
    return variant
