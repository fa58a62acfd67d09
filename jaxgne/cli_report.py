"""The command `jaxgne report`: a saved result as one page to open, read and hand on."""

import time
from pathlib import Path
from typing import Annotated, Any

import jax
import typer

import jaxgne

from .cli_shared import Json, Result, document
from .cli_show import cleared


def report(
    result: Result,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="HTML file to write, complete or not at all.")
    ] = Path("report.html"),
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="RESULT",
            help="A result of the same households that bills are compared with; by default the "
            "market without trades, which is cleared.",
        ),
    ] = None,
    no_baseline: Annotated[
        bool, typer.Option("--no-baseline", help="Compare bills with nothing; clears nothing.")
    ] = False,
    title: Annotated[
        str | None, typer.Option(help="Title of the page; by default the name of RESULT.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write RESULT as one HTML file that needs no network: certificate, map, prices, bills.

    Exit codes: 0 written, 1 bad input, 2 wrong usage.
    """
    if baseline is not None and no_baseline:
        raise typer.BadParameter("--baseline and --no-baseline do not go together.")
    jax.config.update("jax_enable_x64", True)
    market, clearing = cleared(result)
    against: Any = None if no_baseline else "no trading"
    if baseline is not None:
        against = cleared(baseline)
    begun = time.perf_counter()
    name = result.resolve().name if title is None else title
    jaxgne.report(market, clearing, baseline=against, out=out, title=name)
    took, size = time.perf_counter() - begun, out.stat().st_size
    if as_json:
        document("written", {"written": str(out), "bytes": size, "seconds": round(took, 2)})
        return
    words = "" if against != "no trading" else ", most of it to clear the market without trades"
    typer.echo(f"written to {out} ({size / 1e6:.1f} MB in {took:.0f} s{words})")
