"""The command `jaxgne batch`: many random variants of a market, and how they spread."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import typer

import jaxgne

from .batch_report import batch_summary, batch_table
from .cli_shared import (
    MOST_SEED,
    Json,
    Quiet,
    Scheduler,
    Tol,
    check_missed,
    document,
    kept,
    shown,
    workers,
)
from .cli_source import Source, made, of_source
from .live import LiveBatch

_MOST_SCENARIOS = 1_000_000
_MOST_NOISE = 10.0  # standard deviations of factors with mean 1
_SOLVERS = {"interior-point": jaxgne.InteriorPoint, "primal-dual": jaxgne.PrimalDual}


@of_source
def batch(
    source: Source,
    asked: Any = None,
    scenarios: Annotated[
        int, typer.Option(min=1, max=_MOST_SCENARIOS, help="How many variants.")
    ] = 100,
    load_noise: Annotated[
        float,
        typer.Option(min=0.0, max=_MOST_NOISE, help="Standard deviation of loads, 0.1: 10 %."),
    ] = 0.0,
    renewable_noise: Annotated[
        float, typer.Option(min=0.0, max=_MOST_NOISE, help="The same of renewables.")
    ] = 0.0,
    price_noise: Annotated[
        float, typer.Option(min=0.0, max=_MOST_NOISE, help="The same of the main grid's prices.")
    ] = 0.0,
    noise_seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the noise.")] = 0,
    solver: Annotated[
        Literal["interior-point", "primal-dual"] | None,
        typer.Option(help="How to solve; by default what is fastest for the size."),
    ] = None,
    tol: Tol = 1e-6,
    patience: Annotated[
        float,
        typer.Option(
            min=1.0,
            help="Times the steps of the slowest that cleared, after which a variant that stalls "
            "is stopped; inf: never.",
        ),
    ] = 10.0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for finished chunks; the same call goes on after them."
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(min=1, help="Scenarios of a chunk; by default what memory and caches like."),
    ] = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Clear many random variants of SOURCE, and tell how costs and prices spread.

    Exit codes: 0 all cleared, 1 bad input, 2 wrong usage, 3 some did not clear.
    """
    jax.config.update("jax_enable_x64", True)
    noise = {"load": load_noise, "renewable": renewable_noise, "price": price_noise}
    market = made(source, asked, quiet)
    _check_room(market, scenarios)
    chosen = solver and _SOLVERS[solver]()
    with (
        workers(scheduler) as client,
        LiveBatch("scenarios", scenarios, silent=quiet) as live,
        kept(out),
    ):
        markets = jaxgne.scenarios.perturb(market, jax.random.key(noise_seed), scenarios, **noise)
        progress = live if live.shown else None
        found = jaxgne.clear_many(
            markets, chosen, tol=tol, patience=patience, width=width, folder=out,
            progress=progress, client=client,
        )  # fmt: skip
    if as_json:
        document("batch", batch_summary(markets, found))
    elif not quiet:
        shown(batch_table(markets, found))
    check_missed(scenarios - int(found.ok.sum()), f"of {scenarios} scenarios")


def _check_room(market: jaxgne.Market, scenarios: int) -> None:
    """Raise `ValueError` where so many markets do not fit the memory."""
    needed = scenarios * sum(np.asarray(a).nbytes for a in jax.tree.leaves(market))
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed > free:
        raise ValueError(
            f"{scenarios} scenarios of this market take about {needed / 1e9:.0f} GB, of which "
            f"{free / 1e9:.0f} GB are free; ask for fewer, or take the work apart."
        )
