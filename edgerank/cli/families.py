"""``edgerank families``"""

from __future__ import annotations

import click

from edgerank.errors import InputError
from edgerank.extras import needs_extra


@click.command()
@click.argument("name", required=False)
def families(name: str | None) -> None:
    """List the families of models that `quantize` knows.

    With NAME, print the template of that family as JSON. Change it to write your own template.
    """
    with needs_extra("listing families", "quantize"):
        from quantize.families.families import FAMILIES, describe
        from quantize.families.templates import write_template
    if name is None:
        for family in FAMILIES:
            for line in describe(family):
                click.echo(line)
        return
    template = next((family.template for family in FAMILIES if family.name == name), None)
    if template is None:
        names = ", ".join(family.name for family in FAMILIES if family.template)
        raise InputError("name", f"family {name!r} has no template; those with one: {names}")
    click.echo(write_template(template))
