"""The command `jaxgne validate`: one page about a market, before anyone believes its prices."""

from typing import Annotated, Any

import jax
import typer

from .checking import check
from .cli_shared import BAD_INPUT, INFEASIBLE, NOT_CLEARED, Json, Quiet, document
from .cli_source import Source, made, of_source


@of_source
def validate(
    source: Source,
    asked: Any = None,
    clearing: Annotated[
        bool, typer.Option("--clear/--no-clear", help="Find out whether there is a plan.")
    ] = True,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell what is wrong with SOURCE, what is doubtful, whether it has a plan, and what binds.

    All mistakes are told at once; files by line and column.

    Exit codes: 0 it clears, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible.
    """
    jax.config.update("jax_enable_x64", True)
    market = made(source, asked, quiet, validated=False)
    found = check(market, cleared=clearing)
    if as_json:
        document("validation", found.facts())
    elif not quiet or found.wrong or found.status not in ("", "cleared"):
        typer.echo(str(found))
    if found.wrong:
        raise typer.Exit(BAD_INPUT)
    if found.status not in ("", "cleared"):
        raise typer.Exit(INFEASIBLE if found.status == "infeasible" else NOT_CLEARED)
