"""The command `jaxgne show`: a saved result, judged anew and printed as when it was cleared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

import jaxgne
from jaxgne import simulation, simulations

from .batch_report import batch_summary, batch_table
from .cli_shared import (
    INFEASIBLE,
    NOT_CLEARED,
    SUMMARY,
    Json,
    Quiet,
    check_missed,
    document,
    double,
    fail,
    shown,
)
from .cli_simulate import told, told_many
from .cli_tables import check_ended
from .hindsight import days
from .indicators import summary
from .io import load
from .journal import is_simulation
from .printed import table
from .runner import by_numpy, to_device, to_host

_Wrote = Annotated[
    Path,
    typer.Argument(
        metavar="RESULT", help="What clear, batch, simulate, tune, pareto or study --out wrote."
    ),
]
_ROUNDING = 1e-3  # of the tolerance


def show(result: _Wrote, as_json: Json = False, quiet: Quiet = False) -> None:
    """Print what another command wrote to RESULT; a clearing is judged anew.

    Of clear, batch, simulate, tune, pareto and study. Of a market that tune wrote: show
    RESULT/market, of one of pareto's RESULT/point-0.

    Exit codes: 0 cleared, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible.
    """
    if (result / SUMMARY).is_file():
        _show_again(result, as_json, quiet)
        return
    jax.config.update("jax_enable_x64", True)
    if is_simulation(result):
        told(simulation.load(result), as_json, quiet)
        return
    if any(map(is_simulation, result.glob("*"))):
        told_many(simulations.load(result), as_json, quiet)
        return
    market, clearing = cleared(result)
    if np.ndim(clearing.steps):
        if as_json:
            document("batch", batch_summary(market, clearing))
        elif not quiet:
            shown(batch_table(market, clearing))
        missed = int(np.size(clearing.ok) - np.sum(clearing.ok))
        check_missed(missed, f"of {clearing.ok.size} scenarios")
        return
    clearing = _judged(market, clearing)
    if as_json:
        document("clearing", summary(market, clearing))
    elif not quiet:
        shown(table(market, clearing))
    name = jaxgne.status.status_name(clearing.status)
    if name == "infeasible":
        raise fail(clearing.why(market=market), INFEASIBLE)
    if name == "cleared":
        _check(clearing)
    elif name != "uncontrolled":
        raise fail(clearing.why(), NOT_CLEARED)


def _show_again(folder: Path, as_json: bool, quiet: bool) -> None:
    """Print what tune, pareto or study printed, and end as they did."""
    text = (folder / SUMMARY).read_text(encoding="utf-8")
    try:
        facts = json.loads(text)
        name, ended, missed = facts["study"], facts.get("ended", "steps"), facts.get("missed", 0)
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{folder / SUMMARY} is none that jaxgne wrote, or damaged; repeat the command that "
            f"wrote {folder}."
        ) from None
    if as_json:
        typer.echo(text.rstrip("\n"))
    elif not quiet:
        typer.echo((folder / f"{name}.txt").read_text(encoding="utf-8").rstrip("\n"))
        if (folder / "market").is_dir():
            typer.echo(f"(its market: jaxgne show {folder / 'market'})")
    check_ended(ended)
    check_missed(missed)


def cleared(path: Path) -> tuple[jaxgne.Market, jaxgne.Clearing]:
    """Market and clearing of a saved result, of a batch too; `ValueError` where nothing cleared.

    Of a folder that `tune` wrote those of its market, of one that `simulate` wrote its days.
    """
    inner = path / "market"
    path = inner if inner.is_dir() and not (path / "market.json").exists() else path
    if (path / SUMMARY).is_file() and not (path / "market.json").exists():
        raise ValueError(f"{path} holds no market; jaxgne show {path} prints what it holds.")
    if is_simulation(path):
        return days(simulation.load(path))
    market, clearing = load(path)
    if clearing is None:
        raise ValueError(f"{path} holds no clearing; run jaxgne clear {path} --out {path}.")
    return double(market), double(clearing)


def simulation_of(path: Path) -> simulation.Simulation | None:
    """What `simulate` wrote; None of any other result."""
    return simulation.load(path) if is_simulation(path) else None


def baseline_of(baseline: Path | None, no_baseline: bool) -> Any:
    """What bills are compared with: a saved result, nothing, or by default no trading."""
    if baseline is not None and no_baseline:
        raise typer.BadParameter("--baseline and --no-baseline do not go together.")
    if baseline is not None:
        return cleared(baseline)
    return None if no_baseline else "no trading"


def _judged(market: jaxgne.Market, clearing: jaxgne.Clearing) -> jaxgne.Clearing:
    """The clearing with a certificate of its plan and prices; what was sought once stays told."""
    with by_numpy():
        numbers = to_host((market, clearing.plan, clearing.prices))
        found = to_device(jaxgne.certify(*numbers))
    before = clearing.certificate.ways
    if found.ways is not None and before is not None and before.regret is not None:
        found = replace(found, ways=replace(found.ways, regret=before.regret, worst=before.worst))
    return replace(clearing, certificate=found)


def _check(clearing: jaxgne.Clearing) -> None:
    """Exit where plan and prices are not as good as the result says they are."""
    tol = None if clearing.run is None else float(clearing.run.tol)
    error = float(clearing.certificate.error)
    if tol is not None and not error <= (1 + _ROUNDING) * tol:
        words = f"the result says cleared to {tol:.1e}, and its plan has an error of {error:.1e}."
        raise fail(words, NOT_CLEARED)
    if tol is None:
        typer.echo("(which tolerance was asked for is not known)")
