"""``edgerank inspect`` and ``edgerank verify``"""

from __future__ import annotations

from pathlib import Path

import click

from edgerank.bundle import MANIFEST_NAME, read_bundle, sha256_of, verify_bundle

BUNDLE = click.argument("directory", metavar="BUNDLE", type=click.Path(path_type=Path))


@click.command()
@BUNDLE
@click.option("--json", "as_json", is_flag=True, help="Print the manifest itself.")
def inspect(directory: Path, as_json: bool) -> None:
    """Say what BUNDLE is: its model, its recipe, its limits and its files."""
    bundle = read_bundle(directory)
    manifest = bundle.manifest
    if as_json:
        click.echo((directory / MANIFEST_NAME).read_text("utf-8"), nl=False)
        return
    facts = {
        "model": manifest.source.model,
        "revision": manifest.source.revision or "unknown",
        "licence": manifest.source.license or "unknown",
        "family": f"{manifest.family} ({manifest.architecture})",
        "precision": f"{manifest.precision}: {manifest.recipe}",
        "score": f"{manifest.scoring.rule}, {manifest.scoring.activation}",
        "length": f"{manifest.max_length} tokens by default, at most {manifest.max_length_limit}",
        "digest": sha256_of(directory / MANIFEST_NAME),
        "size": f"{bundle.size / 1e6:,.1f} MB",
    }
    for name, value in facts.items():
        click.echo(f"{name:<10} {value}")
    for name, file in manifest.files.items():
        click.echo(f"{'file':<10} {name}, {file.size:,} bytes, sha256 {file.sha256}")


@click.command()
@BUNDLE
def verify(directory: Path) -> None:
    """Compare every file of BUNDLE with its sha256."""
    for name in verify_bundle(read_bundle(directory)):
        click.echo(f"intact  {name}")
