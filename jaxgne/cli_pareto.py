"""The command `jaxgne pareto`: what two objectives cost one another, as a tariff is tuned."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import typer

import jaxgne

from . import plots
from .batch import BatchProgress
from .cli_shared import MOST_SEED, SUMMARY, Json, Quiet, Scheduler, Tol, document, kept, workers
from .cli_source import Source, made, of_source
from .cli_tables import kept_text, written
from .cli_tune import Objective
from .files import whole
from .io import save
from .live import LiveBatch

Knob = Literal[
    "trading-tariff", "price-slope", "locational-tariff", "base-price"
]  # keys of `mechanisms.KNOBS`

_LARGE = ("revenue", "self-sufficiency")  # of which less is what is made small
_MOST = 1000  # points, starts


@of_source
def pareto(
    study: Annotated[Knob, typer.Argument(help="What is tuned, as of jaxgne tune.")],
    source: Source,
    asked: Any = None,
    first: Annotated[
        Objective, typer.Option(help="What to make small, revenue and self-sufficiency large.")
    ] = "peak",
    second: Annotated[Objective, typer.Option(help="The same, of what that costs.")] = "total-cost",
    points: Annotated[int, typer.Option(min=2, max=_MOST, help="Points of the front.")] = 5,
    starts: Annotated[
        int, typer.Option(min=1, max=_MOST, help="Tunings of each point; all but one at random.")
    ] = 2,
    starts_seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of these.")] = 0,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Steps of a tuning.")] = 30,
    tol: Tol = 1e-6,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for table, picture and markets; the same call goes on there.",
        ),
    ] = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Trade off two objectives of SOURCE by a tariff: none can be better without the other worse.

    Each point is the least of the first objective with the second at most at a level.

    Exit codes: 0 done, 1 bad input, 2 wrong usage, 3 a market did not clear, 4 infeasible, 130
    stopped.
    """
    if first == second:
        raise typer.BadParameter(f"--first and --second are both {first}; give two objectives.")
    jax.config.update("jax_enable_x64", True)
    mechanisms = jaxgne.mechanisms
    market = made(source, asked, quiet)
    both = [mechanisms.OBJECTIVES[word] for word in (first, second)]
    knob = mechanisms.KNOBS[study](market, tol=tol)
    with workers(scheduler) as client, LiveBatch("tunings", silent=quiet) as live, kept(out):
        found = jaxgne.pareto(
            market, both, **knob._asdict(), points=points, starts=starts, seed=starts_seed,
            steps=steps, tol=tol, folder=out, client=client,
            progress=lambda at: live(BatchProgress(at.tuning + 1, at.total, at.seconds)),
        )  # fmt: skip
    found = replace(found, names=(_name(first), _name(second)))
    table = found.table()
    facts = {"study": study, "first": found.names[0], "second": found.names[1], "table": table}
    facts |= {"asked": found.asked, "tunings": len(found.stopped)}
    if out is not None:
        written(out / f"{study}.csv", table)
        kept_text(out / f"{study}.txt", str(found))
        _draw(out / f"{study}.png", found)
        for k, (each, clearing) in enumerate(zip(found.markets, found.clearings, strict=True)):
            save(out / f"point-{k}", each, clearing)
        document("front", facts, to=out / SUMMARY)
    if as_json:
        document("front", facts)
    elif not quiet:
        typer.echo(str(found))
        if out is not None:
            typer.echo(f"written to {out}")


def _name(objective: Objective) -> str:
    """What a column is called."""
    return "minus_" * (objective in _LARGE) + objective.replace("-", "_")


def _draw(target: Path, found: Any) -> None:
    """The front, where matplotlib is there to draw it."""
    if importlib.util.find_spec("matplotlib") is None:
        typer.echo('no picture without matplotlib: pip install "jaxgne[plot]"', err=True)
        return
    os.environ.setdefault("MPLBACKEND", "Agg")  # no window, also where there is a display
    figure: Any = plots.front(found).figure
    with whole(target) as fresh:
        figure.savefig(fresh, dpi=150)
