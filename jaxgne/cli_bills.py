"""The command `jaxgne bills`: a page and a CSV for each household of a saved result."""

from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import jaxgne

from .cli_shared import Json, Result, document
from .cli_show import cleared
from .contracts import read_contracts


def bills(
    result: Result,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write to.")] = Path("bills"),
    tariff: Annotated[
        Path | None,
        typer.Option(
            help="File of the contracts that RESULT was cleared with (docs/tariffs.md): lines net, "
            "with fixed fees and VAT."
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="RESULT",
            help="A result of the same households to compare with; by default the market without "
            "trades, which is cleared.",
        ),
    ] = None,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Compare with nothing; clears nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a bill for each household of RESULT: one page to print and one CSV, in whole cents.

    Exit codes: 0 written, 1 bad input, 2 wrong usage.
    """
    if baseline is not None and no_baseline:
        raise typer.BadParameter("--baseline and --no-baseline do not go together.")
    jax.config.update("jax_enable_x64", True)
    market, clearing = cleared(result)
    against: Any = None if no_baseline else "no trading"
    if baseline is not None:
        against = cleared(baseline)
    contracts = None if tariff is None else read_contracts(tariff)
    pages = jaxgne.write_bills(market, clearing, contracts=contracts, baseline=against, out=out)
    if as_json:
        document("written", {"written": [str(page) for page in pages]})
    else:
        typer.echo(f"{len(pages)} bills and bills.csv written to {out}")
