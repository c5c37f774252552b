"""``edgerank quantize``"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from edgerank.errors import EdgerankError


@click.command()
@click.argument("checkpoint")
@click.option(
    "-o", "--output", "bundle", required=True, type=click.Path(path_type=Path), help="The bundle."
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "fp32"]),
    default="int8",
    show_default=True,
    help="How numbers are held.",
)
def quantize(checkpoint: str, bundle: Path, precision: str) -> None:
    """Turn CHECKPOINT, a directory or a Hugging Face hub id, into a bundle."""
    try:
        from quantize import quantize as run
    except ModuleNotFoundError as error:
        raise EdgerankError(
            f"quantizing needs {error.name}: pip install 'edgerank[quantize]'"
        ) from error
    made = run(checkpoint, bundle, precision=precision, show_progress=sys.stderr.isatty())
    click.echo(f"{bundle}: {made.manifest.family}, {precision}, {made.size / 1e6:,.1f} MB")
