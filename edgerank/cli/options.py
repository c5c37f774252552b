"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path

import click

from edgerank.bundle import DEFAULT_BUNDLE
from edgerank.kernels import VARIABLE

bundle_option = click.option(
    "-m",
    "--model",
    default=DEFAULT_BUNDLE,
    envvar="EDGERANK_MODEL",
    show_envvar=True,
    type=click.Path(path_type=Path),
    help="Rank with this bundle. The default is the model in the package.",
)
trust_option = click.option(
    "--trust",
    metavar="PUB",
    type=click.Path(path_type=Path),
    help="Refuse a bundle that this public key has not signed, or that was altered since.",
)
kernels_option = click.option(
    "--kernels",
    help="Compute with these kernels: the fastest compiled ones (auto), the operators of ONNX"
    " Runtime (stock), or those of an instruction set that `edgerank doctor` lists. The default is"
    f" the value of {VARIABLE}, or auto.",
)
