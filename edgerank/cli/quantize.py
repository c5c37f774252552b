"""``edgerank quantize``"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, get_args

import click

from edgerank.cli.inspect import variant_lines
from edgerank.extras import needs_extra
from edgerank.manifest import PrecisionName

Precision = PrecisionName | Literal["half"]  # as quantize.recipe has it; "quantize" may be missing
PRECISIONS = (*get_args(PrecisionName), "half")


@click.command()
@click.argument("checkpoint")
@click.option(
    "-o",
    "--output",
    "bundle",
    required=True,
    type=click.Path(path_type=Path),
    help="Write the bundle to this directory. A bundle that is already there is replaced.",
)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(PRECISIONS),
    default=["int8"],
    show_default=True,
    multiple=True,
    help="Store the weights in this precision. int8-fine is more exact than int8, slower, and"
    " takes twice the space. int4 takes the least memory, and is slower and less exact than int8."
    " fp32 keeps the weights of the original. fp16 and bf16 are for NVIDIA GPUs; half is fp16, or"
    " bf16 if activations are too large for fp16. Give the option several times to make a variant"
    " in each precision, the preferred one first.",
)
@click.option(
    "--calibrate",
    metavar="FILE.jsonl",
    type=click.Path(path_type=Path),
    help="Calibrate with the texts of this file, and measure the fidelity on some of them. Each"
    ' line is {"query": ..., "document": ...}. The default is a text that comes with edgerank.',
)
@click.option(
    "--keep-fp32",
    metavar="auto|N|NAMES",
    help="Keep some matrices of int8 and int4 in float32: those whose error stands out (auto), the"
    " N matrices with the largest errors, or those with these names. Names are separated by commas"
    " and may have wildcards.",
)
@click.option(
    "--family",
    metavar="NAME",
    help="Treat the checkpoint as a model of this family, if its files do not show the family."
    " `edgerank families` lists the names.",
)
@click.option(
    "--template",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="Use the prompt and the scoring of this template for a decoder. To write one, begin with"
    " the output of `edgerank families NAME`.",
)
@click.option(
    "--script",
    "scripts",
    metavar="NAME",
    multiple=True,
    help="Record that the model is made for this script, such as Latin. Queries in another script"
    " cause a warning. May be given several times.",
)
@click.option(
    "--min-tau",
    type=click.FloatRange(-1, 1),
    help="Fail if the Kendall tau of a variant against the original is lower than this.",
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
    precisions: tuple[Precision, ...],
    calibrate: Path | None,
    keep_fp32: str | None,
    family: str | None,
    template: Path | None,
    scripts: tuple[str, ...],
    min_tau: float | None,
    report: Path | None,
) -> None:
    """Turn a checkpoint into a bundle.

    CHECKPOINT is a directory, or the id of a repository on the Hugging Face hub. The command
    compares the scores of the bundle with those of the original in float32, and stores the result
    in the bundle.
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
