"""Fixtures of all rooms. Nothing heavy is imported here: tests/unit runs without torch."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.support")
pytest_plugins = ["tests.support.bundles"]
