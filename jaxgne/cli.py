"""The command `jaxgne`: clear and study markets from the shell, list the built-in cases.

Exit codes: 0 cleared, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible, 130 stopped.
"""

import importlib.metadata
import inspect
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import typer
from rich.console import Console

import jaxgne

from .batch_report import batch_summary, batch_table
from .cases import CASES
from .cases.builders import Behavior
from .cli_check import check
from .cli_compare import compare
from .cli_convert import convert
from .cli_new import new
from .cli_plot import plot
from .cli_shared import (
    INFEASIBLE,
    MOST_SEED,
    MOST_STEPS,
    NOT_CLEARED,
    Case,
    Commands,
    Json,
    Prosumers,
    Stress,
    Tol,
    double,
    fail,
)
from .cli_source import Source, market_of, of_source, told
from .cli_study import study
from .cli_tune import tune
from .indicators import summary
from .io import check_replaceable, load_case, save
from .live import Live, LiveBatch
from .printed import table

WIDTH = 100  # columns, where the terminal has them
_MOST_SCENARIOS = 1_000_000
_MOST_NOISE = 10.0  # standard deviations of factors with mean 1

app = typer.Typer(
    cls=Commands,
    help="Clear peer-to-peer energy markets on distribution grids.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the command `jaxgne` and of `python -m jaxgne`."""
    app(prog_name="jaxgne")


_Solver = Literal["interior-point", "primal-dual", "semidecentralized"]
_SOLVERS: dict[_Solver, Callable[[], jaxgne.AbstractSolver]] = {
    "interior-point": jaxgne.InteriorPoint,
    "primal-dual": jaxgne.PrimalDual,
    "semidecentralized": jaxgne.SemiDecentralized,
}


@app.command()
@of_source
def clear(
    source: Source,
    prosumers: Prosumers = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MOST_SEED, help="Seed of everything drawn by chance.")
    ] = None,
    behavior: Annotated[
        Behavior | None,
        typer.Option("--behavior", help="Do prosumers see their effect on prices?"),
    ] = None,
    stress: Stress = None,
    asked: Any = None,
    solver: Annotated[
        _Solver | None,
        typer.Option(help="How to solve; by default what is fastest for the size."),
    ] = None,
    tol: Tol = 1e-6,
    max_steps: Annotated[
        int | None,
        typer.Option(min=1, max=MOST_STEPS, help="Steps to give up after; default by solver."),
    ] = None,
    least_norm: Annotated[
        bool, typer.Option("--least-norm", help="Of all equilibria, that of least trades.")
    ] = False,
    ac: Annotated[
        bool,
        typer.Option(
            "--ac",
            help="Clear on AC power flow equations, with losses bought and priced; the market that "
            "is linear about that AC state is what is written.",
        ),
    ] = False,
    one_way: Annotated[
        bool,
        typer.Option(
            "--one-way",
            help="Let each battery charge or discharge in an hour, never both; the market with the "
            "other way shut is what is shown and written.",
        ),
    ] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Where no plan meets all limits: what must give way."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the market and the result to.")
    ] = None,
    as_json: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing if cleared.")] = False,
) -> None:
    """Clear SOURCE: find its equilibrium, and say how good it is.

    The options from --prosumers to --stress are for built-in cases, --populate for nets.

    Exit codes: 0 cleared, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible.
    """
    jax.config.update("jax_enable_x64", True)
    own = {"prosumers": prosumers, "seed": seed, "behavior": behavior, "stress": stress}
    find = _finder(least_norm, one_way, ac)
    if out is not None:
        check_replaceable(out)
    market, report = market_of(source, own, asked)
    if report is not None and not quiet:
        typer.echo(told(report), err=True)
    market = double(market)
    with Live(silent=quiet or as_json) as live:
        market, clearing, complaint = _clear(find, market, solver, tol, max_steps, live)
    if out is not None:
        save(out, market, clearing, summary=summary(market, clearing))
    infeasible = jaxgne.status.status_name(clearing.status) == "infeasible"
    relaxed, unknown = _relaxed(market) if explain and infeasible else (None, "")
    if as_json:
        typer.echo(json.dumps(_facts(market, clearing, relaxed), indent=2, ensure_ascii=False))
    elif not quiet:
        _show(market, clearing, relaxed, out)
        if ac and not complaint:
            typer.echo(
                "A local equilibrium of the game on AC power flow equations, judged on the linear "
                "model about its AC state."
            )
    if unknown:
        typer.echo(f"jaxgne: {unknown}", err=True)
    if complaint:
        raise fail(complaint, INFEASIBLE if infeasible else NOT_CLEARED)


def _finder(least_norm: bool, one_way: bool, ac: bool) -> Any:
    """The function that finds what was asked for."""
    if least_norm + one_way + ac > 1:
        raise typer.BadParameter("--least-norm, --ac and --one-way do not go together.")
    if ac:
        return _find_exact
    if one_way:
        return _find_one_way
    return jaxgne.least_norm if least_norm else jaxgne.clear


def _relaxed(market: jaxgne.Market) -> tuple[Any, str]:
    """What must give way, or why that is not known."""
    try:
        return jaxgne.relax(market), ""
    except ValueError as error:
        return None, str(error)


def _clear(
    find: Any,
    market: jaxgne.Market,
    solver: _Solver | None,
    tol: float,
    max_steps: int | None,
    live: Live,
) -> tuple[jaxgne.Market, jaxgne.Clearing, str]:
    """The market that was cleared, the clearing, and why it is none if it is none."""
    progress, chosen = live if live.shown else None, solver and _SOLVERS[solver]()
    try:
        found = find(market, chosen, tol=tol, max_steps=max_steps, progress=progress)
    except jaxgne.NotCleared as stop:
        return stop.market or market, stop.clearing, str(stop)
    return (*found, "") if isinstance(found, tuple) else (market, found, "")


def _find_exact(market: jaxgne.Market, solver: Any, **options: Any) -> Any:
    """The linear model about the AC state of a local equilibrium, and its clearing."""
    found = jaxgne.clear_ac(market, solver, **options)
    return found.linear, found.clearing


def _find_one_way(market: jaxgne.Market, solver: Any, **options: Any) -> Any:
    """The market with each battery's other way shut, and its clearing."""
    clearing = jaxgne.clear(market, solver, one_way=True, **options)
    return jaxgne.one_way.narrowed(market, clearing.plan), clearing


def _print(tables: Any) -> Console:
    """Print tables, as wide as the terminal but at most `WIDTH`."""
    console = Console()
    console.width = min(console.width, WIDTH) if console.is_terminal else WIDTH
    console.print(tables, highlight=False)
    return console


def _facts(market: jaxgne.Market, clearing: jaxgne.Clearing, relaxed: Any) -> dict[str, Any]:
    """The summary, with what must give way if that was asked for."""
    facts = summary(market, clearing)
    if relaxed is not None:
        rows = [row._asdict() for row in relaxed.table]
        facts["relax"] = {"cost_eur": float(relaxed.cost), "table": rows}
    return facts


def _show(market: jaxgne.Market, clearing: jaxgne.Clearing, relaxed: Any, out: Path | None) -> None:
    console = _print(table(market, clearing))
    if out is not None:
        console.print(f"\nwritten to {out}", highlight=False, markup=False)
    if relaxed is not None:
        typer.echo(f"\nwhat must give way, at least:\n{relaxed}")


@app.command()
def batch(
    case: Case,
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
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the noise.")] = 0,
    solver: Annotated[
        Literal["interior-point", "primal-dual"] | None,
        typer.Option(help="How to solve; by default what is fastest for the size."),
    ] = None,
    tol: Tol = 1e-6,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for finished chunks; the same call goes on after them."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Clear many random variants of CASE, and tell how costs and prices spread.

    Exit codes: 0 all cleared, 1 bad input, 2 wrong usage, 3 some did not clear.
    """
    jax.config.update("jax_enable_x64", True)
    noise = {"load": load_noise, "renewable": renewable_noise, "price": price_noise}
    market = double(load_case(case))
    _check_room(market, scenarios)
    markets = jaxgne.scenarios.perturb(market, jax.random.key(seed), scenarios, **noise)
    chosen = solver and _SOLVERS[solver]()
    with LiveBatch("scenarios", silent=as_json) as live:
        progress = live if live.shown else None
        found = jaxgne.clear_many(markets, chosen, tol=tol, folder=out, progress=progress)
    if as_json:
        typer.echo(json.dumps(batch_summary(markets, found), indent=2))
    else:
        _print(batch_table(markets, found))
    missed = scenarios - int(found.ok.sum())
    if missed:
        raise fail(f"{missed} of {scenarios} scenarios did not clear.", NOT_CLEARED)


def _check_room(market: jaxgne.Market, scenarios: int) -> None:
    """Raise `ValueError` where so many markets do not fit the memory."""
    needed = scenarios * sum(np.asarray(a).nbytes for a in jax.tree.leaves(market))
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if needed > free:
        raise ValueError(
            f"{scenarios} scenarios of this market take about {needed / 1e9:.0f} GB, of which "
            f"{free / 1e9:.0f} GB are free; ask for fewer, or take the work apart."
        )


app.command()(new)
app.command()(check)
app.command()(convert)
app.command()(compare)
app.command()(plot)
app.command()(tune)
app.command()(study)


@app.command()
def cases() -> None:
    """List the built-in cases and their options."""
    for name, builder in CASES.items():
        about = (inspect.getdoc(builder) or "").split("\n", 1)[0]
        typer.echo(f"{name}: {about}")
        options = [
            f"{option.name}={option.default!r}"
            if option.default is not inspect.Parameter.empty
            else option.name
            for option in inspect.signature(builder).parameters.values()
        ]
        typer.echo(f"    options: {', '.join(options)}")


@app.command()
def version() -> None:
    """Tell the versions of jaxgne, JAX and Python, and the device."""
    device = jax.devices()[0]
    typer.echo(f"jaxgne {importlib.metadata.version('jaxgne')}")
    typer.echo(f"jax {jax.__version__}")
    typer.echo(f"python {platform.python_version()}")
    typer.echo(f"device {device.platform} ({device.device_kind})")
