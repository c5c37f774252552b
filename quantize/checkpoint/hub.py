"""Finds a checkpoint: a local directory, or a download from the Hugging Face hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edgerank.manifest import Source
from quantize.errors import QuantizeError

HUB_ID = re.compile(r"(\w[\w.-]*/)?\w[\w.-]*")
FILES = ["*.jinja", "*.json", "*.safetensors", "README.md"]


def locate(checkpoint: str | os.PathLike[str]) -> tuple[Source, Path]:
    """Find a checkpoint's directory, downloading a hub id if need be.

    :raises QuantizeError: there is no such directory and no such model can be fetched
    """
    directory = Path(checkpoint)
    if os.path.isdir(directory):  # also False for a name that cannot be a path
        return Source(directory.resolve().name, license=_license(directory)), directory
    if not HUB_ID.fullmatch(str(checkpoint)):
        raise QuantizeError(f"{checkpoint}: no such directory")
    directory = _download(str(checkpoint))
    revision = directory.name  # a snapshot's directory in the cache is named after its commit
    return Source(str(checkpoint), revision, _license(directory)), directory


def _download(model_id: str) -> Path:
    """Fetch a snapshot into the hub's cache; HF_HUB_OFFLINE=1 takes it from there alone."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model_id, allow_patterns=FILES))
    except Exception as error:  # network, cache and authorisation errors share no base class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise QuantizeError(
            f"{model_id}: no such directory, and the hub could not provide it ({reason}); to work"
            " offline, download the model elsewhere and pass its directory"
        ) from error


def _license(directory: Path) -> str | None:
    """Read the licence from the model card, if there is one."""
    from huggingface_hub import metadata_load

    card = directory / "README.md"
    if not card.exists():
        return None
    try:
        name = (metadata_load(card) or {}).get("license")
    except Exception:  # not UTF-8, not YAML, not a mapping: a card is written by hand
        return None
    return None if name is None else str(name)
