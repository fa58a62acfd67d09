"""The command `jaxgne simulate`: days that follow one another, planned with what is known."""

from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import typer

import jaxgne
from jaxgne.simulation import Simulation

from .cli_shared import MOST_SEED, NOT_CLEARED, Json, Quiet, Tol, document, fail, kept
from .cli_source import Source, made, of_source
from .live import LiveSimulation

_MOST_DAYS = 366
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
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for what is done; the same call goes on after it."
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go through days like that of SOURCE: plan a window ahead, do its first steps, and so on.

    Exit codes: 0 all done, 1 bad input, 2 wrong usage, 3 a window did not clear, 130 stopped.
    """
    jax.config.update("jax_enable_x64", True)
    lengths = _lengths(window)
    known = {
        "perfect": jaxgne.forecasts.perfect,
        "persistence": jaxgne.forecasts.persistence,
        "noisy": lambda: jaxgne.forecasts.noisy(
            load_noise, renewable_noise, price_noise, seed=noise_seed
        ),
    }[forecast]()
    day = made(source, asked, quiet)
    if vary_renewable is None:
        vary_renewable = _SUN * bool(np.any(np.asarray(day.prosumers.curtail_max) > 0))
    differ = {"load": vary_load, "renewable": vary_renewable}
    each = jaxgne.scenarios.perturb(day, jax.random.key(vary_seed), days, **differ)
    truth = jaxgne.scenarios.chain(each)
    total = -(-truth.prosumers.load.shape[1] // every)
    with LiveSimulation(total, silent=quiet) as live, kept(out):
        found = jaxgne.simulate(
            truth,
            window=lengths,
            step=every,
            forecast=known,
            terminal=terminal,
            tol=tol,
            elastic=elastic,
            out=out,
            progress=live if live.shown else None,
        )
    told(found, as_json, quiet)


def told(found: Simulation, as_json: bool, quiet: bool) -> None:
    """Print a simulation; the exit where it ended before its time."""
    if as_json:
        document("simulation", found.facts())
    elif not quiet:
        typer.echo("\n".join([str(found), *found.notes]))
    if not found.ok:
        raise fail(found.why, NOT_CLEARED)


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
