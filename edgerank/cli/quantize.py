"""``edgerank quantize``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from edgerank.cli.extras import needs_extra
from edgerank.cli.inspect import fidelity_lines


@click.command()
@click.argument("checkpoint")
@click.option(
    "-o", "--output", "bundle", required=True, type=click.Path(path_type=Path), help="The bundle."
)
@click.option(
    "--precision",
    type=click.Choice(["int8", "int4", "fp32"]),
    default="int8",
    show_default=True,
    help="How numbers are held; int4 is for boxes short of memory.",
)
@click.option(
    "--calibrate",
    metavar="FILE.jsonl",
    type=click.Path(path_type=Path),
    help='Your own text, {"query": ..., "document": ...} a line, to calibrate with and measure on.',
)
@click.option(
    "--keep-fp32",
    metavar="auto|N|NAMES",
    help="Matrices to leave in float32: those that stand out, the N worst, or names with"
    " wildcards, separated by commas.",
)
@click.option(
    "--family",
    metavar="NAME",
    help="The checkpoint's family, where its files do not tell; see `edgerank families`.",
)
@click.option(
    "--template",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="How to ask a decoder; begin with what `edgerank families NAME` prints.",
)
@click.option("--min-tau", type=click.FloatRange(-1, 1), help="Refuse a lower Kendall tau.")
@click.option(
    "--report",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Write report.json and report.html there.",
)
def quantize(
    checkpoint: str,
    bundle: Path,
    precision: str,
    calibrate: Path | None,
    keep_fp32: str | None,
    family: str | None,
    template: Path | None,
    min_tau: float | None,
    report: Path | None,
) -> None:
    """Turn CHECKPOINT, a directory or a Hugging Face hub id, into a bundle.

    The bundle is measured against the original in float32 and carries the figures.
    """
    with needs_extra("quantizing", "quantize"):
        from quantize import quantize as run
    made = run(
        checkpoint,
        bundle,
        precision=precision,
        calibrate=calibrate,
        keep_fp32=_kept(keep_fp32),
        min_tau=min_tau,
        family=family,
        template=template,
        report=report,
        show_progress=sys.stderr.isatty(),
    )
    click.echo(f"{bundle}: {made.manifest.family}, {precision}, {made.size / 1e6:,.1f} MB")
    for line in fidelity_lines(made.manifest):
        click.echo(line)


def _kept(option: str | None) -> Literal["auto"] | int | list[str]:
    if option is None:
        return []
    if option == "auto":
        return "auto"
    return int(option) if option.isdecimal() else option.split(",")
