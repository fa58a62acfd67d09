"""The command `jaxgne tune`: ready studies of a market's tariffs and of its grid's limits."""

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import typer

import jaxgne

from . import plots
from .cli_shared import SUMMARY, Json, Quiet, Tol, document, kept
from .cli_source import Source, made, of_source
from .cli_tables import check_ended, kept_text, named, rows_shown, written
from .files import whole
from .io import save
from .live import LiveTuning

Study = Literal[
    "trading-tariff", "price-slope", "locational-tariff", "base-price", "reinforcement", "envelope"
]  # the keys of `mechanisms.TUNED` and `mechanisms.READ`
Objective = Literal[
    "peak", "transformer-peak", "total-cost", "worst-cost", "social-cost", "welfare-loss",
    "congestion-rent", "gini", "revenue", "self-sufficiency",
]  # fmt: skip  # the keys of `mechanisms.OBJECTIVES`

_MAPS = {
    "reinforcement": ("value_eur_per_kva", "worth of one more kVA (EUR)", "lines"),
    "envelope": ("draw_kw", "power that it may draw more in every hour (kW)", "buses"),
}  # of which table's column, what it tells, and where
_LEAST = {"envelope": "draw_kw"}  # whose least rows matter, not the largest


@of_source
def tune(
    study: Annotated[Study, typer.Argument(help="What to tune, or to read off the multipliers.")],
    source: Source,
    asked: Any = None,
    objective: Annotated[
        Objective | None,
        typer.Option(help="What to make small, revenue and self-sufficiency large; by study."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=1_000_000, help="Steps of the optimizer.")] = 50,
    tol: Tol = 1e-6,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for tables and the tuned market; the same call goes on there.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tune a tariff of SOURCE, or tell what its lines and buses are short of.

    trading-tariff: one tariff for all trades, for the highest revenue of the operator.
    price-slope: the slope of the main grid's price by hour for the lowest peak, while it receives
    no less and prosumers pay no more than today.
    locational-tariff: a tariff on trades by bus for the least congestion, that brings no less.
    base-price: the main grid's price by hour for the least that all pay, while it receives no less.
    reinforcement: what one more kVA of each line is worth.
    envelope: how much more each bus may draw or feed in, by hour.

    Exit codes: 0 done, 1 bad input, 2 wrong usage, 3 a market did not clear, 4 infeasible.
    """
    jax.config.update("jax_enable_x64", True)
    mechanisms = jaxgne.mechanisms
    if study in mechanisms.READ and objective is not None:
        raise typer.BadParameter(f"--objective goes with {', '.join(mechanisms.TUNED)} only.")
    market = made(source, asked, quiet)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    history = None
    if study in mechanisms.READ:
        table = mechanisms.READ[study](market, tol=tol)
        ended = "steps"
    else:
        run, tabulate = mechanisms.TUNED[study]
        options: dict[str, Any] = {"steps": steps, "tol": tol, "folder": out}
        if objective is not None:
            options["objective"] = mechanisms.OBJECTIVES[objective]
        with LiveTuning(steps, silent=quiet) as live, kept(out):
            market, history = run(market, progress=live, **options)
        table, ended = tabulate(market), history.stopped
        if out is not None:
            written(out / "history.csv", _history(history))
            save(out / "market", market, jaxgne.clear(market, tol=tol))
    table = named(market, table)
    told = None if history is None else _history(history)
    facts = {"study": study, "ended": ended, "table": table, "history": told}
    text = "" if history is None else f"{history}\n"
    text += rows_shown(table, _LEAST.get(study))
    if out is not None:
        written(out / f"{study}.csv", table)
        if study in _MAPS:
            _draw(out / f"{study}.png", market, study, table)
        kept_text(out / f"{study}.txt", text)
        document("tuning", facts, to=out / SUMMARY)
    if as_json:
        document("tuning", facts)
    elif not quiet:
        typer.echo(text)
        if out is not None:
            typer.echo(f"written to {out}")
    check_ended(ended)


def _draw(target: Path, market: jaxgne.Market, study: str, table: Mapping[str, Any]) -> None:
    """A map of a study's table, where matplotlib is there to draw it: by bus the least hour."""
    if importlib.util.find_spec("matplotlib") is None:
        typer.echo('no map without matplotlib: pip install "jaxgne[plot]"', err=True)
        return
    os.environ.setdefault("MPLBACKEND", "Agg")  # no window, also where there is a display
    column, label, of = _MAPS[study]
    values = np.asarray(table[column])
    if of == "buses":
        values = values.reshape(market.grid.passive.shape).min(axis=1)
    figure: Any = plots.grid_map(market, values, label, of=of).figure
    with whole(target) as fresh:
        figure.savefig(fresh, dpi=150)


def _history(history: Any) -> dict[str, np.ndarray]:
    names = ("value", "violation", "gradient", "foretold", "solver_steps")
    columns = {name: np.asarray(getattr(history, name)) for name in names}
    return {"step": np.arange(len(history.value)), **columns}
