"""``edgerank keygen`` and ``edgerank sign``"""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgerank.bundle import read_bundle, sign_bundle

PASSWORD_VARIABLE = "EDGERANK_KEY_PASSWORD"


@click.command()
@click.argument("key", type=click.Path(path_type=Path))
@click.option(
    "--password",
    is_flag=True,
    help="Encrypt the secret key with a password. The command asks for it, unless the variable"
    f" {PASSWORD_VARIABLE} is set.",
)
def keygen(key: Path, password: bool) -> None:
    """Make a pair of keys for signatures.

    The secret key is written to the file KEY, and the public key to KEY.pub. The files have the
    format of minisign (Ed25519).
    """
    from edgerank.signing import make_keys

    public = make_keys(key, ask_password(confirm=True) if password else None)
    click.echo(f"{key}: secret; keep it where packs are made, and nowhere else")
    click.echo(f"{public}: public; give it to those who check")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    help="Sign with this secret key, made by `edgerank keygen` or minisign.",
)
def sign(bundle: Path, key: Path) -> None:
    """Check the files of a bundle, and sign it.

    An existing signature is replaced.
    """
    from edgerank.signing import open_key

    path = sign_bundle(read_bundle(bundle), open_key(key, ask_password))
    click.echo(f"signed  {path}")


def ask_password(*, confirm: bool = False) -> str:
    """Take the password of a key from the environment, or ask for it."""
    given = os.environ.get(PASSWORD_VARIABLE)
    if given is not None:
        return given
    answer: str = click.prompt(
        "password of the key", hide_input=True, confirmation_prompt=confirm, err=True
    )
    return answer
