"""python -m benchmarks NAME [OPTIONS] [--json FILE]: measure, print tables, keep a record."""

from __future__ import annotations

import shlex
import sys
from functools import cache
from pathlib import Path
from typing import Any

import click
import msgspec
import rich.box
from rich.console import Console
from rich.table import Table

from benchmarks import catalogue
from benchmarks.common.record import Row, new_record, write_record
from benchmarks.common.tables import tables
from edgerank.errors import EdgerankError

JSON = click.Option(
    ["--json", "json_path"],
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a record of the run: machine, commit, parameters and figures.",
)


class Benchmark(click.Command):
    """A function of the catalogue as a command: it measures, the command prints and records."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["command"] = shlex.join(["python", "-m", "benchmarks", str(self.name), *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> None:
        json_path = ctx.params.pop("json_path")
        parameters = {name: _plain(value) for name, value in ctx.params.items()}
        rows: list[Row] = []
        try:
            record = new_record(str(self.name), ctx.meta["command"], parameters)
            for row in super().invoke(ctx):
                rows.append(row)
                if json_path is not None:  # at every row: a long run that breaks off leaves some
                    write_record(json_path, msgspec.structs.replace(record, rows=rows))
        except EdgerankError as error:
            raise click.ClickException(str(error)) from error
        finally:
            _print(rows)


class Benchmarks(click.Group):
    """All benchmarks; a module is imported when its benchmark is run."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for _, name in catalogue.names()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        groups = {name: group for group, name in catalogue.names()}
        return _command(groups[cmd_name], cmd_name) if cmd_name in groups else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group, members in catalogue.GROUPS.items():
            with formatter.section(f"{group} ({catalogue.TITLES[group]})"):
                formatter.write_dl([(name, catalogue.question(group, name)) for name in members])


@click.command(
    cls=Benchmarks, invoke_without_command=True, subcommand_metavar="NAME [OPTIONS] [--json FILE]"
)
@click.pass_context
def main(ctx: click.Context) -> None:
    """Measure edgerank. Each benchmark answers one question; NAME --help says how."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


@cache  # click takes a function's options away when it makes a command of it
def _command(group: str, name: str) -> click.Command:
    module = catalogue.load(group, name)
    command = click.command(name, cls=Benchmark, help=module.__doc__)(module.measure)
    command.params.append(JSON)
    return command


def _plain(value: Any) -> Any:
    """Turn paths into text, for JSON."""
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return value.name if isinstance(value, Path) else value  # where it lies is the machine's own


def _print(rows: list[Row]) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 200)
    for table in tables(rows):
        printed = Table(box=rich.box.SIMPLE_HEAD)
        for place, column in enumerate(table.columns):
            is_label = place < table.num_labels
            printed.add_column(column, justify="left" if is_label else "right", overflow="fold")
        for cells in table.rows:
            printed.add_row(*cells)
        console.print(printed)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
