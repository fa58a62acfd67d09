"""The command `jaxgne clear`: the equilibrium of one market, and how good it is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import typer

import jaxgne

from .cli_out import Overwrite, check_out
from .cli_shared import (
    INFEASIBLE,
    MOST_STEPS,
    NOT_CLEARED,
    Json,
    Quiet,
    Tol,
    document,
    fail,
    shown,
)
from .cli_show import cleared
from .cli_source import Source, made, of_source
from .indicators import summary
from .io import check_replaceable, save
from .live import Live
from .printed import table

_Solver = Literal["interior-point", "primal-dual", "semidecentralized"]
_SOLVERS: dict[_Solver, Callable[[], jaxgne.AbstractSolver]] = {
    "interior-point": jaxgne.InteriorPoint,
    "primal-dual": jaxgne.PrimalDual,
    "semidecentralized": jaxgne.SemiDecentralized,
}
_NOTHING = "stopped before the first step: there is nothing to keep"


@of_source
def clear(
    source: Source,
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
    warm_start: Annotated[
        Path | None,
        typer.Option(
            metavar="RESULT",
            help="Begin at a saved result of such a market, as one that Ctrl-C stopped.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder to write the market and the result to, also where Ctrl-C stops it.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Clear SOURCE: find its equilibrium, and say how good it is.

    Exit codes: 0 cleared, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible, 130 stopped.
    """
    jax.config.update("jax_enable_x64", True)
    find = _finder(least_norm, one_way, ac)
    if out is not None:
        check_replaceable(out)
    start = None if warm_start is None else _start(warm_start)
    market = made(source, asked, quiet, validated=not explain)
    if out is not None:
        check_out(out, None if one_way or ac else market, overwrite)
    options = {"tol": tol, "max_steps": max_steps, "start": start}
    with Live(tol, silent=quiet) as live, _stoppable(market, out, one_way or ac):
        market, clearing, complaint = _clear(find, market, solver, options, live)
    if out is not None:
        save(out, market, clearing, summary=summary(market, clearing))
    infeasible = jaxgne.status.status_name(clearing.status) == "infeasible"
    relaxed, unknown = _relaxed(market) if explain and infeasible else (None, "")
    if as_json:
        document("clearing", _facts(market, clearing, relaxed))
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
    options: dict[str, Any],
    live: Live,
) -> tuple[jaxgne.Market, jaxgne.Clearing, str]:
    """The market that was cleared, the clearing, and why it is none if it is none."""
    progress, chosen = live if live.shown else None, solver and _SOLVERS[solver]()
    try:
        found = find(market, chosen, progress=progress, **options)
    except jaxgne.NotCleared as stop:
        return stop.market or market, stop.clearing, str(stop)
    return (*found, "") if isinstance(found, tuple) else (market, found, "")


def _start(result: Path) -> jaxgne.Clearing:
    """The clearing to begin at; `ValueError` where it has no plan."""
    _, clearing = cleared(result)
    if jaxgne.status.status_name(clearing.status) == "infeasible":
        raise ValueError(f"{result} was found infeasible: it has no plan to begin at.")
    return clearing


@contextmanager
def _stoppable(market: jaxgne.Market, out: Path | None, other: bool) -> Iterator[None]:
    """Where somebody stops what runs here, keep what there is in `out`, and say how far it was.

    Of a market that is `other` than the one given the same call would ask whether to replace it.
    """
    try:
        yield
    except jaxgne.Stopped as stop:
        words, clearing = str(stop), stop.clearing
        if clearing is None or not int(clearing.steps):
            words = _NOTHING
        elif out is None:
            words += "; nothing is kept without --out"
        else:
            market = stop.market or market
            save(out, market, clearing, summary=summary(market, clearing))
            words += f"; what there is is in {out}, and the same call goes on with --warm-start"
            words += f" {out}" + " --overwrite" * other
        raise KeyboardInterrupt(words) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_NOTHING) from None


def _find_exact(market: jaxgne.Market, solver: Any, **options: Any) -> Any:
    """The linear model about the AC state of a local equilibrium, and its clearing."""
    found = jaxgne.clear_ac(market, solver, **options)
    return found.linear, found.clearing


def _find_one_way(market: jaxgne.Market, solver: Any, **options: Any) -> Any:
    """The market with each battery's other way shut, and its clearing."""
    clearing = jaxgne.clear(market, solver, one_way=True, **options)
    return jaxgne.one_way.narrowed(market, clearing.plan), clearing


def _facts(market: jaxgne.Market, clearing: jaxgne.Clearing, relaxed: Any) -> dict[str, Any]:
    """The summary, with what must give way if that was asked for."""
    facts = summary(market, clearing)
    if relaxed is not None:
        rows = [row._asdict() for row in relaxed.table]
        facts["relax"] = {"cost_eur": float(relaxed.cost), "table": rows}
    return facts


def _show(market: jaxgne.Market, clearing: jaxgne.Clearing, relaxed: Any, out: Path | None) -> None:
    console = shown(table(market, clearing))
    if out is not None:
        console.print(
            f"\nwritten to {out}: jaxgne show, plot, report, bills and export take it from there",
            highlight=False, markup=False,
        )  # fmt: skip
    if relaxed is not None:
        typer.echo(f"\nwhat must give way, at least:\n{relaxed}")
