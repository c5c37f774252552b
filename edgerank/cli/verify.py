"""``edgerank verify``"""

from __future__ import annotations

from pathlib import Path

import click

from edgerank.bundle import DEFAULT_BUNDLE, read_bundle, verify_bundle
from edgerank.cli.options import trust_option
from edgerank.manifest import MANIFEST_NAME


@click.command()
@click.argument(
    "directory", metavar="[DIRECTORY]", default=DEFAULT_BUNDLE, type=click.Path(path_type=Path)
)
@click.option(
    "--installed",
    is_flag=True,
    help="Check an installation from a pack: no file may be altered, missing or added.",
)
@trust_option
def verify(directory: Path, installed: bool, trust: Path | None) -> None:
    """Compare every file of a bundle with its sha256.

    With --installed, DIRECTORY is an installation from a pack. The default DIRECTORY is the model
    in the package.
    """
    if installed:
        verify_installed(directory, trust)
        return
    bundle = read_bundle(directory, trust)
    if trust is not None:
        click.echo(f"signed  {MANIFEST_NAME}")
    for name in verify_bundle(bundle):
        click.echo(f"intact  {name}")


def verify_installed(directory: Path, trust: Path | None) -> None:
    """Check an installation, and print its contents if all of it is intact."""
    from edgerank.airgap.contents import MANIFEST
    from edgerank.airgap.installed import verify_installation

    found = verify_installation(directory, trust)
    if trust is not None:
        click.echo(f"signed  {MANIFEST}")
    click.echo(f"intact  edgerank {found.manifest.edgerank}, {found.files:,} files")
    for bundle in found.manifest.bundles:
        click.echo(f"model   {bundle.name}, digest {bundle.digest}")
    click.echo(f"python  {found.python}, which runs it and was not in the pack")
