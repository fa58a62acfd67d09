"""The command `jaxgne compare`: today as it is, the market, and the market without parts of it."""

import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import typer

import jaxgne

from .cli_shared import Json, Quiet, Tol, document
from .cli_source import Source, made, of_source
from .files import whole
from .io.tables import write_table
from .live import Live

_MOST_CARBON = 1e6  # kg a kWh
_MOST_FEE = 1e6  # EUR a kWh
_MUCH = 1e-3  # of what is used: by how much storage may end differently without a word

Reference = Literal[
    "no trading", "today", "market", "no storage", "price taking", "social optimum"
]  # the keys of `alternatives.side_by_side`


@of_source
def compare(
    source: Source,
    asked: Any = None,
    tol: Tol = 1e-6,
    reference: Annotated[
        Reference, typer.Option(help="What benefits are measured against.")
    ] = "no trading",
    until: Annotated[
        Literal["due", "full"],
        typer.Option(help="Today cars charge until what is due, or until they are full."),
    ] = "due",
    same_end: Annotated[
        bool,
        typer.Option("--same-end", help="Storage ends as full as today, in all of them."),
    ] = False,
    auctions: Annotated[
        bool,
        typer.Option("--auctions", help="Beside them, auctions of what everyone alone has left."),
    ] = False,
    network_fee: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=_MOST_FEE,
            help="EUR per kWh of the main grid that are for the network.",
        ),
    ] = 0.0,
    grid_carbon: Annotated[
        float, typer.Option(min=0.0, max=_MOST_CARBON, help="kg of CO2 per kWh of the main grid.")
    ] = 0.0,
    generator_carbon: Annotated[
        float, typer.Option(min=0.0, max=_MOST_CARBON, help="kg of CO2 per kWh of a generator.")
    ] = 0.0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="CSV file to write the table to.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare SOURCE with today as it is, and with itself without parts of it.

    today: cars charge on arrival, heat pumps hold their temperature, batteries keep the own sun, at
    the tariff alone. no trading, no storage, price taking (nobody sees the own effect on prices)
    and social optimum: the market without these.

    One of them that does not clear is left out. --auctions adds alone (everyone plans at the tariff
    as if there were no network), uniform auction and pay as bid (docs/auctions.md).

    Exit codes: 0 cleared, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible.
    """
    jax.config.update("jax_enable_x64", True)
    market = made(source, asked, quiet)
    with Live(tol, silent=quiet) as live:
        progress = live if live.shown else None
        found = jaxgne.side_by_side(
            market, tol=tol, until=until, same_end=same_end, progress=progress
        )
        if auctions:
            try:
                found |= jaxgne.auctions.auctioned(market, tol=tol)
            except jaxgne.NotCleared as stop:
                warnings.warn(f"auctions are left out, not all can do alone: {stop}", stacklevel=2)
    compared = jaxgne.compare(
        found,
        reference=reference,
        network_fee=network_fee,
        grid_carbon=grid_carbon,
        generator_carbon=generator_carbon,
    )
    if out is not None:
        keys = list(next(iter(compared.rows.values())))
        columns: dict[str, list[Any]] = {"market": list(compared.rows)}
        columns |= {key: [row[key] for row in compared.rows.values()] for key in keys}
        with whole(out) as fresh:
            write_table(fresh, columns)
    if as_json:
        document("comparison", {"reference": reference, "markets": compared.rows})
    if as_json or quiet:
        return
    typer.echo(str(compared))
    lacks = jaxgne.unmet.unmet(market, found["today"][1].plan)
    if not lacks.fulfilled:
        typer.echo(f"\ntoday, what is asked is not all met:\n{lacks}")
    more = compared.outcomes["today"].stored - compared.outcomes["market"].stored
    if more > _MUCH * compared.outcomes["today"].consumed:
        typer.echo(
            f"\ntoday storage holds {float(more):.4g} kWh more in the end than in the market; "
            "--same-end asks all for as much."
        )
    if out is not None:
        typer.echo(f"written to {out}")
