"""The command `jaxgne study`: the studies of the paper."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import typer

import jaxgne

from .cases import CASES
from .cli_shared import SUMMARY, Json, Quiet, Scheduler, check_missed, document, kept, workers
from .cli_source import made, of_source, sources
from .live import LiveBatch

_STUDIES: dict[str, dict[str, Any]] = {  # with options of a built-in case unless they are given
    **{name: {} for name in (*jaxgne.studies.ON_MARKETS, *jaxgne.studies.ON_CASES)},
    "line-limits": {"stress": True},
    "connectivity": {"prosumers": 50},
    "stackelberg": {"prosumers": 12, "hours": 24.0, "hour_length": 4.0},
    "near-potential": {"prosumers": 12, "hours": 24.0, "hour_length": 4.0},
    "phases": {"grid": "lindist3flow", "hours": 24.0, "hour_length": 4.0},
}
_CASES = {"phases": "ieee13"}  # else ieee37

_MOST_SEEDS = 10_000
_MOST_VALUE = 1e9  # of what a study sweeps


def _names(incomplete: str) -> list[str]:
    """What a shell completes."""
    return [name for name in _STUDIES if name.startswith(incomplete)]


@of_source
def study(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", autocompletion=_names, help=f"One of {', '.join(_STUDIES)}."
        ),
    ],
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            autocompletion=sources,
            help="A built-in case, a folder or workbook, or a net.",
        ),
    ] = None,
    asked: Any = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for tables, picture and runs; the same call goes on after them.",
        ),
    ] = None,
    values: Annotated[
        str | None,
        typer.Option(
            help="What to sweep, with commas: ratings' factors, batteries' costs, charges, shares "
            "of pairs, numbers of prosumers, factors of loads, hours ahead, elasticities, spreads, "
            "what --of says."
        ),
    ] = None,
    of: Annotated[
        str | None,
        typer.Option(help="phases: what grows, load or sun; uncertainty: what is swept."),
    ] = None,
    exact: Annotated[
        bool | None,
        typer.Option("--exact/--no-exact", help="phases: clear on AC equations as well."),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=_MOST_SEEDS,
            help="Markets a value: connectivity, prosumers; horizon: of noise.",
        ),
    ] = None,
    tol: Annotated[float | None, typer.Option(help="Relative KKT error to reach.")] = None,
    scheduler: Scheduler = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do a study of the paper on SOURCE: print what it finds, write tables and a picture.

    By default on ieee37, for line-limits with --stress, for connectivity with 50 prosumers, for
    stackelberg and near-potential with 12 in six steps of 4 h; phases on ieee13 in three phases, in
    as many.

    Exit codes: 0 all cleared, 1 bad input, 2 wrong usage, 3 some did not clear.
    """
    jax.config.update("jax_enable_x64", True)
    if name not in _STUDIES:
        raise typer.BadParameter(f"no study {name!r}; take one of {', '.join(_STUDIES)}.")
    grown = name in jaxgne.studies.ON_CASES
    do = (jaxgne.studies.ON_CASES if grown else jaxgne.studies.ON_MARKETS)[name]
    source = source or _CASES.get(name, "ieee37")
    words = {"values": values, "of": of, "exact": exact, "seeds": seeds, "tol": tol}
    options: dict[str, Any] = {key: word for key, word in words.items() if word is not None}
    strange = options.keys() - inspect.signature(do).parameters.keys()
    strange |= {"seed", name} & asked.keys() if grown else set()
    if strange:
        raise typer.BadParameter(f"the study {name} takes no --{min(strange)}.")
    if source in CASES:
        asked = _STUDIES[name] | asked
    if values is not None:
        options["values"] = _numbers(values)

    def build(**more: Any) -> jaxgne.Market:
        return made(source, asked | more, quiet)

    with (
        workers(scheduler) as client,
        LiveBatch("runs", silent=quiet) as live,
        kept(out),
    ):
        options |= {"folder": out, "progress": live if live.shown else None, "client": client}
        found = do(build if grown else build(), **options)
    facts = {"study": name, "finding": found.finding, "missed": found.missed}
    facts["tables"] = found.tables
    if out is not None:
        found.save(out)
        document("study", facts, to=out / SUMMARY)
    if as_json:
        document("study", facts)
    elif not quiet:
        typer.echo(str(found))
    if out is not None:
        try:
            jaxgne.studies.draw(found, out / f"{name}.png")
        except ImportError as missing:
            typer.echo(f"jaxgne: no picture: {missing}", err=True)
        if not (quiet or as_json):
            typer.echo(f"\nwritten to {out}")
    check_missed(found.missed)


def _numbers(words: str) -> list[float]:
    try:
        numbers = [float(word) for word in words.split(",")]
    except ValueError:
        numbers = [np.nan]
    if not np.all(np.abs(numbers) <= _MOST_VALUE):
        raise ValueError(
            f"--values {words[:40]}: give numbers with commas between them, up to {_MOST_VALUE:g}."
        )
    return numbers
