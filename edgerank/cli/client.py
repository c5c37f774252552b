"""``edgerank client``"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

import click

from edgerank.cli.extras import needs_extra
from edgerank.cli.ranking import ranking_options, read_lines, show
from edgerank.errors import InputError
from edgerank.documents import LongDocuments

FILE = click.Path(path_type=Path, dir_okay=False)
TOKEN_VARIABLE = "EDGERANK_TOKEN"


@click.command()
@click.argument("query")
@click.argument("documents", type=click.File("rb"), default="-")
@click.option(
    "--server",
    default="127.0.0.1:50051",
    show_default=True,
    envvar="EDGERANK_SERVER",
    show_envvar=True,
    metavar="ADDRESS",
    help="HOST:PORT or unix:PATH.",
)
@click.option("-m", "--model", help="Its name on the server; the server's first by default.")
@ranking_options
@click.option("--tls", is_flag=True, help="Trust the system's authorities.")
@click.option("--tls-ca", type=FILE, help="Trust this authority instead, PEM.")
@click.option("--tls-cert", type=FILE, help="The client's certificate, PEM.")
@click.option("--tls-key", type=FILE, help="Its key, PEM.")
@click.option(
    "--token-file", type=FILE, help=f"A file with the bearer token; else {TOKEN_VARIABLE}."
)
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=60.0, help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def client(
    query: str,
    documents: BinaryIO,
    server: str,
    model: str | None,
    top_k: int | None,
    instruction: str | None,
    normalize: bool,
    long_documents: LongDocuments | None,
    tls: bool,
    tls_ca: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Rank DOCUMENTS for QUERY on a server.

    DOCUMENTS is a file, or stdin: one document a line, or JSONL with "id" and "text".
    """
    with needs_extra("asking a server", "client"):
        from edgerank.client import Client, TlsFiles
    lines = list(read_lines(documents))
    files = TlsFiles(tls_ca, tls_cert, tls_key) if tls or tls_ca or tls_cert or tls_key else None
    with Client(server, tls=files, token=_token(token_file), timeout_s=timeout) as connection:
        hits = connection.rank(
            query,
            [line.text for line in lines],
            top_k=top_k,
            instruction=instruction,
            normalize=normalize,
            long_documents=long_documents,
            model=model,
        )
    show([(hit.score, lines[hit.index]) for hit in hits], as_json)


def _token(file: Path | None) -> str | None:
    """Read the token; on the command line it would be seen by all users of the machine."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(file), str(error)) from error
