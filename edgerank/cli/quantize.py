"""``edgerank quantize``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args

import click

from edgerank.cli.extras import needs_extra
from edgerank.cli.inspect import variant_lines
from edgerank.manifest import PrecisionName


@click.command()
@click.argument("checkpoint")
@click.option(
    "-o",
    "--output",
    "bundle",
    required=True,
    type=click.Path(path_type=Path),
    help="The directory of the bundle. A bundle that is there is replaced.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(get_args(PrecisionName)),
    default=["int8"],
    show_default=True,
    multiple=True,
    help="How weights are stored. int8-fine, for decoders, is more exact than int8 and twice as"
    " large; int4 is for machines short of memory. Given several times, each precision becomes a"
    " variant of the bundle, the preferred one first.",
)
@click.option(
    "--calibrate",
    metavar="FILE.jsonl",
    type=click.Path(path_type=Path),
    help='Calibrate with, and measure on, this text: {"query": ..., "document": ...} a line. The'
    " default is a built-in text.",
)
@click.option(
    "--keep-fp32",
    metavar="auto|N|NAMES",
    help="Leave some matrices in float32: those that stand out, the N that lose most, or those with"
    " these names, which may have wildcards and are separated by commas.",
)
@click.option(
    "--family",
    metavar="NAME",
    help="Say which family the checkpoint is of, where its files do not tell. `edgerank families`"
    " lists them.",
)
@click.option(
    "--template",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="Prompt a decoder by this template. Begin with what `edgerank families NAME` prints.",
)
@click.option(
    "--script",
    "scripts",
    metavar="NAME",
    multiple=True,
    help="Say which script the model is made for, such as Latin: whoever asks in another is warned."
    " May be given several times.",
)
@click.option(
    "--min-tau",
    type=click.FloatRange(-1, 1),
    help="Refuse a variant whose Kendall tau against the original is lower.",
)
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write a report of each variant to this directory, as JSON and as HTML.",
)
def quantize(
    checkpoint: str,
    bundle: Path,
    precisions: tuple[PrecisionName, ...],
    calibrate: Path | None,
    keep_fp32: str | None,
    family: str | None,
    template: Path | None,
    scripts: tuple[str, ...],
    min_tau: float | None,
    report: Path | None,
) -> None:
    """Turn a checkpoint into a bundle.

    CHECKPOINT is a directory, or the id of a repository on the Hugging Face hub. The scores of the
    bundle are compared with those of the original in float32, and the bundle holds the figures.
    """
    with needs_extra("quantizing", "quantize"):
        from quantize import quantize as run
    made = run(
        checkpoint,
        bundle,
        precision=precisions,
        calibrate=calibrate,
        keep_fp32=_parse_keep_fp32(keep_fp32),
        min_tau=min_tau,
        family=family,
        template=template,
        scripts=scripts,
        report=report,
        show_progress=sys.stderr.isatty(),
    )
    names = ", ".join(variant.name for variant in made.manifest.variants)
    click.echo(f"{bundle}: {made.manifest.family}, {names}, {made.size / 1e6:,.1f} MB")
    for variant in made.manifest.variants:
        for line in variant_lines(variant):
            click.echo(line)


def _parse_keep_fp32(option: str | None) -> Literal["auto"] | int | list[str]:
    if option is None:
        return []
    if option == "auto":
        return "auto"
    return int(option) if option.isdecimal() else option.split(",")
