"""Helpers of the tests, no tests.

They import what they need where they need it: ``tests/conftest.py`` loads nothing heavy.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
