"""The command `jaxgne simulate`: days that follow one another, planned with what is known."""

from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import typer
from rich.table import Table

import jaxgne
from jaxgne.simulation import Simulation

from .cli_shared import (
    MOST_SEED,
    NOT_CLEARED,
    Json,
    Quiet,
    Scheduler,
    Tol,
    document,
    fail,
    kept,
    shown,
    workers,
)
from .cli_source import Source, made, of_source
from .live import LiveSimulation

_MOST_DAYS, _MOST_RUNS = 366, 10_000
_SUN = 0.3  # by which the sun differs from day to day
_MOST_NOISE = 10.0
_NOISE: Any = {"min": 0.0, "max": _MOST_NOISE}


@of_source
def simulate(
    source: Source,
    asked: Any = None,
    days: Annotated[
        int, typer.Option(min=1, max=_MOST_DAYS, help="How often the market's day comes.")
    ] = 7,
    vary_load: Annotated[
        float, typer.Option(**_NOISE, help="How much loads differ from day to day, 0.1: 10 %.")
    ] = 0.1,
    vary_renewable: Annotated[
        float | None, typer.Option(**_NOISE, help="The same of the sun; 0.3 where there is some.")
    ] = None,
    vary_seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of that.")] = 0,
    window: Annotated[
        str,
        typer.Option(help="Steps planned ahead: 24, or 4x1+23x4 for 4 single ones and 23 of 4."),
    ] = "24",
    every: Annotated[int, typer.Option(min=1, help="Steps of them that are done.")] = 1,
    forecast: Annotated[
        Literal["perfect", "persistence", "noisy"],
        typer.Option(help="What is known: all, the day before, or the truth with noise."),
    ] = "perfect",
    load_noise: Annotated[
        float, typer.Option(**_NOISE, help="Of noisy: deviation of loads a day ahead.")
    ] = 0.1,
    renewable_noise: Annotated[float, typer.Option(**_NOISE, help="The same of the sun.")] = 0.2,
    price_noise: Annotated[
        float, typer.Option(**_NOISE, help="The same of the main grid's price.")
    ] = 0.0,
    noise_seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the noise.")] = 0,
    terminal: Annotated[
        Literal["water", "market"],
        typer.Option(help="What content is worth beyond a window: as it was, or final_value."),
    ] = "water",
    elastic: Annotated[
        bool, typer.Option("--elastic", help="Let limits give way where a window has no plan.")
    ] = False,
    tol: Tol = 1e-6,
    runs: Annotated[
        int,
        typer.Option(
            min=1, max=_MOST_RUNS, help="Simulations, each with seeds one higher than the last."
        ),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for what is done; the same call goes on after it."
        ),
    ] = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go through days like that of SOURCE: plan a window ahead, do its first steps, and so on.

    With --runs many times, of which --scheduler hands out one at a time.

    Exit codes: 0 all done, 1 bad input, 2 wrong usage, 3 a window did not clear, 130 stopped.
    """
    jax.config.update("jax_enable_x64", True)
    lengths = _lengths(window)
    if scheduler is not None and runs == 1:
        raise typer.BadParameter("--scheduler hands out simulations; give --runs, how many.")

    def known(run: int) -> jaxgne.forecasts.Forecast:
        if forecast == "noisy":
            noise = (load_noise, renewable_noise, price_noise)
            return jaxgne.forecasts.noisy(*noise, seed=noise_seed + run)
        return getattr(jaxgne.forecasts, forecast)()

    day = made(source, asked, quiet)
    if vary_renewable is None:
        vary_renewable = _SUN * bool(np.any(np.asarray(day.prosumers.curtail_max) > 0))
    differ = {"load": vary_load, "renewable": vary_renewable}

    def truth(run: int) -> jaxgne.Market:
        each = jaxgne.scenarios.perturb(day, jax.random.key(vary_seed + run), days, **differ)
        return jaxgne.scenarios.chain(each)

    options = {"window": lengths, "step": every, "terminal": terminal, "tol": tol}
    options |= {"elastic": elastic, "out": out}
    first = truth(0)
    total = runs * -(-first.prosumers.load.shape[1] // every)
    with (
        workers(scheduler) as client,
        LiveSimulation(total, silent=quiet) as live,
        kept(out),
    ):
        options["progress"] = live if live.shown else None
        if runs == 1:
            found = jaxgne.simulate(first, forecast=known(0), **options)
        else:
            own = {str(k): {"truth": truth(k), "forecast": known(k)} for k in range(runs)}
            found = jaxgne.simulate_many(first, own, client=client, **options)
    if isinstance(found, Simulation):
        told(found, as_json, quiet)
    else:
        told_many(found, as_json, quiet)


def told(found: Simulation, as_json: bool, quiet: bool) -> None:
    """Print a simulation; the exit where it ended before its time."""
    if as_json:
        document("simulation", found.facts())
    elif not quiet:
        typer.echo("\n".join([str(found), *found.notes]))
    if not found.ok:
        raise fail(found.why, NOT_CLEARED)


_COLUMNS = {  # of a table of simulations, by what `facts` calls them
    "steps": "steps",
    "all pay, EUR": "bill_total_eur",
    "bought beyond plans, kWh": "imbalance_bought_kwh",
    "less or sold, kWh": "imbalance_sold_kwh",
    "of that, EUR": "imbalance_cost_eur",
    "unserved, kWh": "unserved_kwh",
    "gave way": "windows_that_gave_way",
}


def told_many(found: dict[str, Simulation], as_json: bool, quiet: bool) -> None:
    """Print simulations, a line each and what they spread over; the exit where any ended early."""
    facts = {name: one.facts() for name, one in found.items()}
    if as_json:
        document("simulations", {"runs": facts})
    elif not quiet:
        table = Table("run", box=None)
        for head in _COLUMNS:
            table.add_column(head, justify="right")
        numbers = np.array([[each[key] for key in _COLUMNS.values()] for each in facts.values()])
        for name, row in zip(facts, numbers, strict=True):
            table.add_row(name, *map(_cell, row))
        for name, of in (("mean", np.mean), ("least", np.min), ("most", np.max)):
            table.add_row(name, *map(_cell, of(numbers, axis=0)))
        shown(table)
    ended = [f"{name}: {one.why}" for name, one in found.items() if not one.ok]
    if ended:
        raise fail(f"{len(ended)} of {len(found)} ended early, the first {ended[0]}", NOT_CLEARED)


def _cell(number: float) -> str:
    """A number of a table; of what a tolerance makes 0."""
    return f"{round(float(number), 2) + 0.0:.2f}".removesuffix(".00")


def _lengths(text: str) -> int | tuple[int, ...]:
    """A window as it is typed."""
    try:
        if "x" not in text:
            return int(text)
        parts = [part.split("x") for part in text.split("+")]
        return tuple(int(length) for count, length in parts for _ in range(int(count)))
    except ValueError:
        raise ValueError(
            f"--window {text}: give a number of steps, such as 24, or counts and lengths, such as "
            "4x1+23x4."
        ) from None
