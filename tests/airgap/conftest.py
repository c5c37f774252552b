"""Keys, and a wheelhouse that takes the place of an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgerank.airgap.wheels import parse_platforms
from edgerank.signing import make_keys
from tests.airgap.stubs import make_pack, write_wheelhouse


@pytest.fixture(scope="session")
def keys(tmp_path_factory) -> tuple[Path, Path]:
    key = tmp_path_factory.mktemp("keys") / "site.key"
    return key, make_keys(key)


@pytest.fixture(scope="session")
def other_keys(tmp_path_factory) -> tuple[Path, Path]:
    key = tmp_path_factory.mktemp("keys") / "other.key"
    return key, make_keys(key)


@pytest.fixture(scope="session")
def own_stub(tmp_path_factory) -> Path:
    """A stub of edgerank's wheel, beside stubs of what it needs."""
    return write_wheelhouse(tmp_path_factory.mktemp("wheelhouse"))


@pytest.fixture(scope="module")
def stubs(own_stub) -> Iterator[Path]:
    """The same, where pip takes what it is asked for from them alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(own_stub.parent.parent))
        yield own_stub


@pytest.fixture(scope="module")
def own_pack(stubs, keys, tmp_path_factory) -> Path:
    """A pack of stubs for the Python and the machine that run the tests."""
    path = tmp_path_factory.mktemp("own") / "pack"
    return make_pack(path, stubs, *parse_platforms((), ()), key=keys[0])
