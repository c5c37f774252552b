"""Fixtures of all rooms. Nothing heavy is imported here: tests/unit runs without torch."""

from __future__ import annotations

import os

import pytest

pytest.register_assert_rewrite("tests.support")
pytest_plugins = ["tests.support.bundles"]


def pytest_configure() -> None:
    """Keep each process of pytest-xdist on a core of its own.

    Threads that share cores with those of other processes spin while they wait for each other.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
