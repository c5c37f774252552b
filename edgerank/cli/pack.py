"""``edgerank pack`` and ``edgerank unpack``"""

from __future__ import annotations

from pathlib import Path

import click

from edgerank.bundle import DEFAULT_BUNDLE, sha256_of
from edgerank.cli.keys import ask_password
from edgerank.cli.models import named_directories
from edgerank.extras import needs_extra


@click.command()
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "-m",
    "--model",
    "models",
    metavar="[NAME=]BUNDLE",
    multiple=True,
    default=[f"default={DEFAULT_BUNDLE}"],
    help="Pack this bundle, under its directory's name unless another is given. May be given"
    " several times. The default is the model in the package.",
)
@click.option(
    "--variant",
    "variants",
    metavar="NAME",
    multiple=True,
    help="Pack this variant of the bundles. May be given several times. The default is all variants"
    " except those for a GPU.",
)
@click.option(
    "--extra",
    "extras",
    multiple=True,
    help="Install this extra of edgerank too, such as server or http. May be given several times.",
)
@click.option(
    "--python",
    "pythons",
    metavar="3.N",
    multiple=True,
    help="Pack for machines with this version of Python. May be given several times. The default is"
    " the version that runs this command.",
)
@click.option(
    "--platform",
    "platforms",
    metavar="PLATFORM",
    multiple=True,
    help="Pack for machines of this platform, such as manylinux_2_28_x86_64 or"
    " manylinux_2_28_aarch64: a Linux with glibc 2.28 or newer. May be given several times. The"
    " default is the platform of this machine.",
)
@click.option(
    "--wheel",
    "wheels",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Pack this wheel of edgerank. Give one for each platform. By default, pip fetches them.",
)
@click.option(
    "--lock",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Pack exactly the versions and hashes in this file of requirements.",
)
@click.option(
    "--constraint",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Restrict the versions that pip chooses by this file of constraints.",
)
@click.option(
    "--sign",
    "key",
    metavar="KEY",
    type=click.Path(path_type=Path),
    help="Sign the pack and the bundles in it with this secret key, made by `edgerank keygen`.",
)
def pack(
    output: Path,
    models: tuple[str, ...],
    variants: tuple[str, ...],
    extras: tuple[str, ...],
    pythons: tuple[str, ...],
    platforms: tuple[str, ...],
    wheels: tuple[Path, ...],
    lock: Path | None,
    constraint: Path | None,
    key: Path | None,
) -> None:
    """Make one file for a site without internet access.

    The file OUT has bundles, wheels of edgerank and its dependencies, a bill of materials, licence
    texts and an installer. pip fetches the wheels from the index that it is configured for.
    """
    with needs_extra("packing", "pack"):
        from edgerank.airgap.pack import pack as run
        from edgerank.airgap.wheelhouse import Sources
        from edgerank.airgap.wheels import parse_platforms
    from edgerank.signing import open_key

    targets = parse_platforms(pythons, platforms)
    secret = None if key is None else open_key(key, ask_password)
    wanted = tuple(dict.fromkeys((*extras, "sign")))  # signatures of bundles are checked there
    sources = Sources(wanted, wheels, lock, constraint)
    made = run(output, named_directories("model", models), targets, sources, secret, variants)
    signed = "signed" if secret is not None else "not signed: `edgerank unpack` will refuse it"
    click.echo(f"{output}: {output.stat().st_size / 1e6:,.1f} MB, {signed}")
    click.echo(f"sha256 {sha256_of(output)}")
    for bundle in made.bundles:
        click.echo(f"model  {bundle.name}, digest {bundle.digest}")
    for target in made.targets:
        click.echo(f"target Python {target.python}, {target.platform}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--trust",
    metavar="PUB",
    required=True,
    type=click.Path(path_type=Path),
    help="Refuse a pack that this public key has not signed.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="Write the content of the pack to this new directory.",
)
def unpack(file: Path, trust: Path, output: Path) -> None:
    """Check a pack and unpack it.

    The signature is checked before anything is read. If the pack was altered or has an entry that
    is not allowed, nothing is written.
    """
    with needs_extra("unpacking", "sign"):
        from edgerank.airgap.archive import unpack as run

    manifest = run(file, trust, output)
    click.echo(f"{output}: edgerank {manifest.edgerank}, {len(manifest.files)} files, intact")
    for bundle in manifest.bundles:
        click.echo(f"model  {bundle.name}, {bundle.license or 'unknown licence'}, {bundle.model}")
    for target in manifest.targets:
        click.echo(f"target Python {target.python}, {target.platform}")
    click.echo(f"next   python3 {output / 'install.py'} DIRECTORY")
