"""The command `jaxgne show`: a saved result, judged anew and printed as when it was cleared."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import typer

import jaxgne

from .batch_report import batch_summary, batch_table
from .cli_shared import INFEASIBLE, NOT_CLEARED, Json, Result, document, double, fail, shown
from .indicators import summary
from .io import load
from .printed import table
from .runner import by_numpy, to_device, to_host

_ROUNDING = 1e-3  # of the tolerance


def show(result: Result, as_json: Json = False) -> None:
    """Print what clear, batch or tune wrote to RESULT; a clearing is judged anew.

    Exit codes: 0 cleared, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible.
    """
    jax.config.update("jax_enable_x64", True)
    market, clearing = cleared(result)
    if np.ndim(clearing.steps):
        if as_json:
            document("batch", batch_summary(market, clearing))
        else:
            shown(batch_table(market, clearing))
        missed = int(np.size(clearing.ok) - np.sum(clearing.ok))
        if missed:
            raise fail(f"{missed} of {clearing.ok.size} scenarios did not clear.", NOT_CLEARED)
        return
    clearing = _judged(market, clearing)
    if as_json:
        document("clearing", summary(market, clearing))
    else:
        shown(table(market, clearing))
    name = jaxgne.status.status_name(clearing.status)
    if name == "infeasible":
        raise fail(clearing.why(market=market), INFEASIBLE)
    if name == "cleared":
        _check(clearing)
    elif name != "uncontrolled":
        raise fail(clearing.why(), NOT_CLEARED)


def cleared(path: Path) -> tuple[jaxgne.Market, jaxgne.Clearing]:
    """Market and clearing of a saved result, of a batch too; `ValueError` where nothing cleared.

    Of a folder that `tune` wrote those of its market.
    """
    inner = path / "market"
    path = inner if inner.is_dir() and not (path / "market.json").exists() else path
    market, clearing = load(path)
    if clearing is None:
        raise ValueError(f"{path} holds no clearing; run jaxgne clear {path} --out {path}.")
    return double(market), double(clearing)


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
