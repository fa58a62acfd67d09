"""The command `jaxgne envelopes`: how much everyone may draw and feed in, safely together."""

import importlib.util
import os
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import jaxgne

from . import plots
from .cli_shared import Json, Quiet, Tol, document, fail
from .cli_source import Source, made, of_source
from .cli_tables import named, rows_shown, written
from .envelopes import Rule
from .files import whole

_MOST_CORNERS = 100_000


@of_source
def envelopes(
    source: Source,
    asked: Any = None,
    rule: Annotated[
        Rule,
        typer.Option(help="Equal, proportional or max-min fair limits, or the most room in all."),
    ] = "equal",
    ac: Annotated[
        bool, typer.Option("--ac", help="Tighten limits until an AC power flow agrees.")
    ] = False,
    corners: Annotated[
        int,
        typer.Option(min=0, max=_MOST_CORNERS, help="Random corners that AC is asked beside."),
    ] = 0,
    beside: Annotated[
        bool,
        typer.Option("--beside", help="Clear the market with the network, without, and within."),
    ] = False,
    tol: Tol = 1e-6,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV file of limits by prosumer and hour.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option("--map", help="PNG or SVG file of a map of import limits.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell how much each prosumer of SOURCE may draw and feed in whatever all others do.

    equal: the same limits for all. proportional: to what each can draw or feed in. fair: equal, and
    more for those whom no limit of the grid holds. most: the largest sum of limits. All are safe
    together on the linear grid; an AC power flow at the worst corners says what else there is.
    --beside tells what it costs to trade within them and without the network (docs/envelopes.md).

    Exit codes: 0 done, 1 bad input, 2 wrong usage, 3 a market did not clear, 4 infeasible.
    """
    jax.config.update("jax_enable_x64", True)
    if picture is not None and importlib.util.find_spec("matplotlib") is None:
        raise fail('no map without matplotlib: pip install "jaxgne[plot]"', 1)
    market = made(source, asked, quiet)
    found = jaxgne.envelopes.joint(market, rule, ac=ac)
    facts: dict[str, Any] = {"rule": rule, "hours": found.hours, "held": found.held, "ac": None}
    lines = [str(found)]
    if market.grid.model.networked:
        seen = jaxgne.envelopes.check(market, found, corners=corners)
        words = seen.worst(market)
        facts["ac"] = {"safe": seen.safe, "corners": seen.corners, "worst": words}
        told = "AC-safe" if seen.safe else "NOT AC-safe"
        lines.append(f"{told} at {seen.corners} corners: {words}")
    table = named(market, jaxgne.envelopes.table(market, found))
    costs = None
    if beside:
        cleared = jaxgne.envelopes.beside(market, [rule], ac=ac, tol=tol)
        costs = jaxgne.envelopes.decoupling(cleared)
        lines += ["", rows_shown(costs)]
    if out is not None:
        written(out, table)
        lines.append(f"written to {out}")
    if picture is not None:
        _draw(picture, market, found)
        lines.append(f"written to {picture}")
    if as_json:
        document("envelopes", facts | {"table": table, "beside": costs})
    elif not quiet:
        typer.echo("\n".join(lines))


def _draw(target: Path, market: jaxgne.Market, found: Any) -> None:
    os.environ.setdefault("MPLBACKEND", "Agg")  # no window, also where there is a display
    figure: Any = plots.envelope_map(market, found).figure
    with whole(target) as fresh:
        figure.savefig(fresh, dpi=150)
