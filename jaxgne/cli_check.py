"""The command `jaxgne check`: one page about a market, before anyone believes its prices."""

import json
from pathlib import Path
from typing import Annotated

import jax
import typer

from .checking import check as check_market
from .cli_shared import BAD_INPUT, INFEASIBLE, NOT_CLEARED, Json, double
from .cli_source import Hours, Source, Start, market_of
from .io import is_book, load_market


def check(
    source: Source,
    start: Start = None,
    hours: Hours = None,
    clearing: Annotated[
        bool, typer.Option("--clear/--no-clear", help="Find out whether there is a plan.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Tell what is wrong with SOURCE, what is doubtful, whether it has a plan, and what binds.

    All mistakes are told at once; files by line and column.

    Exit codes: 0 it clears, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible.
    """
    jax.config.update("jax_enable_x64", True)
    if is_book(source) or Path(source, "market.json").exists():
        market = load_market(source)
    else:
        market, _ = market_of(source, {}, {"start": start, "hours": hours})
    found = check_market(double(market), cleared=clearing)
    text = json.dumps(found.facts(), indent=2, ensure_ascii=False) if as_json else str(found)
    typer.echo(text)
    if found.wrong:
        raise typer.Exit(BAD_INPUT)
    if found.status not in ("", "cleared"):
        raise typer.Exit(INFEASIBLE if found.status == "infeasible" else NOT_CLEARED)
