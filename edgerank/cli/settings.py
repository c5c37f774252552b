"""Settings of a command from a file: TOML, its keys named like the flags."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from edgerank.errors import InputError
from edgerank.extras import needs_extra

Value = str | list[str]


def read_settings(context: click.Context, option: click.Parameter, path: Path | None) -> None:
    """Read settings from a file, which the command line and the environment override.

    :raises InputError: the file cannot be read, or a setting in it is unknown or unusable
    """
    if path is None:
        return
    options = {
        flag.removeprefix("--"): parameter
        for parameter in context.command.params
        if parameter is not option
        for flag in parameter.opts
        if flag.startswith("--")
    }
    settings: dict[str, Value] = {}
    for key, value in _read(path).items():
        if key not in options:
            raise InputError(str(path), f"{key} is no setting; there are: {', '.join(options)}")
        name = options[key].name
        assert name is not None
        settings[name] = _checked(context, options[key], value, f"{path}: {key}")
    context.default_map = settings


def _read(path: Path) -> dict[str, object]:
    try:
        with needs_extra("a settings file", "server"):
            return msgspec.toml.decode(path.read_bytes(), type=dict[str, object])
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(str(path), f"it cannot be read as TOML: {error}") from error


def _checked(context: click.Context, option: click.Parameter, value: object, place: str) -> Value:
    """Return a value as it would be written on the command line."""
    values = value if isinstance(value, list) else [value]
    if any(isinstance(item, dict | list) for item in values):
        raise InputError(place, "it must be a plain value or a list of them")
    if isinstance(value, list) and not option.multiple:
        raise InputError(place, "it takes one value")
    texts = [str(item) for item in values]
    written: Value = texts if option.multiple else texts[0]
    try:
        option.type_cast_value(context, written)
    except click.BadParameter as error:
        raise InputError(place, error.message) from error
    return written
