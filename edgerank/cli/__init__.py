"""The command line: ``edgerank quantize | rerank | batch | eval | inspect | serve | ...``."""

from __future__ import annotations

import io
import os
import sys

import click

import edgerank
from edgerank.cli.batch import batch
from edgerank.cli.client import client
from edgerank.cli.doctor import doctor
from edgerank.cli.eval import eval_command
from edgerank.cli.families import families
from edgerank.cli.inspect import inspect
from edgerank.cli.keys import keygen, sign
from edgerank.cli.pack import pack, unpack
from edgerank.cli.quantize import quantize
from edgerank.cli.rerank import rerank
from edgerank.cli.serve import serve
from edgerank.cli.store import store
from edgerank.cli.verify import verify
from edgerank.cli.wording import WORDING
from edgerank.errors import EdgerankError, InputError

BAD_INPUT = 2
NO_TELEMETRY = ("DO_NOT_TRACK", "HF_HUB_DISABLE_TELEMETRY")  # of libraries; "0" allows it


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(edgerank.__version__)
def cli() -> None:
    """Rank documents by relevance to a query, on ordinary CPUs and without a network.

    `edgerank COMMAND --help` describes a command and its options.
    """


COMMANDS = (
    quantize,
    families,
    rerank,
    batch,
    store,
    eval_command,
    inspect,
    verify,
    doctor,
    serve,
    client,
    keygen,
    sign,
    pack,
    unpack,
)
for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line; bad input is one line on stderr and exit status 2."""
    for variable in NO_TELEMETRY:
        os.environ.setdefault(variable, "1")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for terminals without all of Unicode
    try:
        sys.exit(cli.main(prog_name="edgerank", standalone_mode=False))
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        sys.exit(BAD_INPUT)
    except click.ClickException as error:
        _fail(error.format_message())
    except InputError as error:
        _fail(f"{WORDING.path(error)}: {WORDING.description(error)}")
    except EdgerankError as error:
        _fail(str(error))
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader has gone, as in `edgerank rerank ... | head`
        _discard_output()
        sys.exit(0)
    except OSError as error:  # stdin cannot be read or stdout not be written
        _discard_output()
        _fail(str(error))


def _discard_output() -> None:
    """Discard the rest of stdout's buffer, which would fail again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> None:
    click.echo(f"edgerank: error: {' '.join(message.split())}", err=True)
    sys.exit(BAD_INPUT)
