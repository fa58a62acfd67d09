"""The command `jaxgne report`: a saved result as one page to open, read and hand on."""

import time
from pathlib import Path
from typing import Annotated

import jax
import typer

import jaxgne

from .cli_shared import Baseline, Json, NoBaseline, Quiet, Result, wrote
from .cli_show import baseline_of, cleared, simulation_of
from .hindsight import days


def report(
    result: Result,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="HTML file to write, complete or not at all.")
    ] = Path("report.html"),
    baseline: Baseline = None,
    no_baseline: NoBaseline = False,
    title: Annotated[
        str | None, typer.Option(help="Title of the page; by default the name of RESULT.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write RESULT as one HTML file that needs no network: certificate, map, prices, bills.

    Exit codes: 0 written, 1 bad input, 2 wrong usage.
    """
    jax.config.update("jax_enable_x64", True)
    against = baseline_of(baseline, no_baseline)
    about = simulation_of(result)
    market, clearing = cleared(result) if about is None else days(about)
    begun = time.perf_counter()
    name = result.resolve().name if title is None else title
    jaxgne.report(market, clearing, baseline=against, out=out, title=name, about=about)
    took, size = time.perf_counter() - begun, out.stat().st_size
    facts = {"written": str(out), "bytes": size, "seconds": round(took, 2)}
    words = "" if against != "no trading" else ", most of it to clear the market without trades"
    words = f"written to {out} ({size / 1e6:.1f} MB in {took:.0f} s{words})"
    wrote(facts, words, as_json, quiet)
