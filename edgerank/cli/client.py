"""``edgerank client``"""

from __future__ import annotations

import os
from pathlib import Path

import click

from edgerank.cli.ranking import named_documents, ranking_options, read_documents, show
from edgerank.documents import LongDocuments
from edgerank.errors import InputError
from edgerank.extras import needs_extra

FILE = click.Path(path_type=Path, dir_okay=False)
TOKEN_VARIABLE = "EDGERANK_TOKEN"


@click.command()
@click.argument("query")
@click.argument("documents", default="-")
@click.option(
    "--server",
    default="127.0.0.1:50051",
    show_default=True,
    envvar="EDGERANK_SERVER",
    show_envvar=True,
    metavar="ADDRESS",
    help="Ask the server at this address: HOST:PORT or unix:PATH.",
)
@click.option(
    "-m", "--model", help="Ask the model of this name. The default is the server's first model."
)
@ranking_options
@click.option(
    "--tls", is_flag=True, help="Use TLS, and trust the certificate authorities of the system."
)
@click.option(
    "--tls-ca", type=FILE, help="Use TLS, and trust the certificate authority in this PEM file."
)
@click.option(
    "--tls-cert", type=FILE, help="Use TLS, and present the client certificate in this PEM file."
)
@click.option(
    "--tls-key", type=FILE, help="Use the private key in this PEM file for the client certificate."
)
@click.option(
    "--token-file",
    type=FILE,
    help="Read the bearer token from this file. The default is the token in the variable"
    f" {TOKEN_VARIABLE}.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    default=60.0,
    show_default=True,
    help="Give up after this many seconds.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the ranking as a JSON array.")
def client(
    query: str,
    documents: str,
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
    """Rank documents by relevance to a query, on a server.

    DOCUMENTS is a file, by default stdin, with one document a line: plain text, or a JSON object
    with "text" and, optionally, "title", "id" and other fields.
    """
    with needs_extra("asking a server", "client"):
        from edgerank.client import Client, TlsFiles
    lines = list(read_documents(documents))
    files = TlsFiles(tls_ca, tls_cert, tls_key) if tls or tls_ca or tls_cert or tls_key else None
    with (
        Client(server, tls=files, token=_token(token_file), timeout=timeout) as connection,
        named_documents(lines),
    ):
        ranking = connection.rank(
            query,
            [line.text for line in lines],
            top_k=top_k,
            instruction=instruction,
            normalize=normalize,
            long_documents=long_documents,
            model=model,
        )
    show([(hit.score, lines[hit.index]) for hit in ranking], as_json)


def _token(file: Path | None) -> str | None:
    """Read the token; on the command line it would be seen by all users of the machine."""
    if file is None:
        return os.environ.get(TOKEN_VARIABLE)
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(str(file), str(error)) from error
