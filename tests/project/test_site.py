"""The site of ``make docs`` is built without a warning, works offline, and is complete."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import msgspec
import pytest

from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.cli import cli
from edgerank.serving.metrics import Metrics
from edgerank.serving.settings import SETTINGS
from tests.support import ROOT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mkdocs") is None, reason="needs mkdocs: pip install 'edgerank[docs]'"
)

ASSET = re.compile(r"""<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=["']?([^"' >]+)""")
STYLE_ASSET = re.compile(r"""(?:url\(|@import )["']?((?:https?:)?//[^"')]+)""")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    directory = tmp_path_factory.mktemp("docs") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", directory],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return directory


def text_of(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text("utf-8"))


def test_no_page_asks_another_site_for_anything(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        assets = ASSET.findall(page.read_text("utf-8"))
        assert assets
        assert [asset for asset in assets if asset.startswith(("http:", "https:", "//"))] == [], (
            page
        )
    styles = list(site.rglob("*.css"))
    assert styles
    assert [found for style in styles for found in STYLE_ASSET.findall(style.read_text())] == []


def test_every_page_of_docs_is_in_the_navigation(site):
    home = (site / "index.html").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f'href="{page.stem}.html"' in home, page.name


def test_the_configuration_has_every_setting(site):
    page = text_of(site / "reference/configuration.html")
    for setting in SETTINGS:
        assert setting.variable in page
        assert setting.flag in page


def test_the_command_line_has_every_option_of_every_command(site):
    page = text_of(site / "reference/command-line.html")
    for name, command in cli.commands.items():
        assert f"Usage: edgerank {name}" in page
        options = [option for option in command.params if isinstance(option, click.Option)]
        assert all(option.opts[-1] in page for option in options), name


def test_the_schema_describes_the_bundle_in_the_package(site):
    jsonschema = pytest.importorskip("jsonschema")
    schema = msgspec.json.decode((site / "reference/manifest.schema.json").read_bytes())
    manifest = msgspec.json.decode((DEFAULT_BUNDLE / "edgerank.json").read_bytes())
    jsonschema.validate(manifest, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**manifest, "variants": 7}, schema)
    page = text_of(site / "reference/manifest.html")
    assert all(name in page for name in manifest)


def test_the_python_api_has_the_methods_with_their_parameters(site):
    page = text_of(site / "reference/python.html")
    for name in ("score_pairs", "score_stream", "long_documents", "min_tau", "evaluate_bundles"):
        assert name in page


def test_every_metric_is_on_the_page_of_metrics_and_in_operations(site):
    names = {metric.name for metric in Metrics().registry.collect()}
    ours = {name for name in names if name.startswith("edgerank_")}
    assert len(ours) > 8
    operations = (ROOT / "docs/operations.md").read_text()
    generated = text_of(site / "reference/metrics.html")
    for name in ours:
        assert f"`{name}" in operations
        assert name in generated
