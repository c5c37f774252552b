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
    help="Use the model in this bundle. The default is the model in the package.",
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
max_length_option = click.option(
    "--max-length",
    type=int,
    help="Read at most this many tokens of a query and a document together. The default is the"
    " bundle's.",
)
threads_option = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Compute with this many threads. The default is the number of physical cores that this"
    " process may use, or OMP_NUM_THREADS if that is fewer.",
)
instruction_option = click.option(
    "--instruction",
    help="Tell the model in a sentence what relevance means. Only some models take an instruction.",
)
normalize_option = click.option(
    "--normalize",
    is_flag=True,
    help="Convert every score to the range from 0 to 1. The order stays the same.",
)
