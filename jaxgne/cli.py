"""The command `jaxgne`: clear and study markets from the shell, list the built-in cases.

Exit codes: 0 cleared, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible.
"""

import importlib.metadata
import inspect
import json
import platform
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import typer
from rich.console import Console

import jaxgne

from .batch_report import batch_summary, batch_table
from .cases import CASES
from .cli_plot import plot
from .cli_tune import tune
from .io import check_replaceable, load_case, save
from .live import Live, LiveBatch
from .report import summary, table

WIDTH = 100  # columns, where the terminal has them
BAD_INPUT, NOT_CLEARED, INFEASIBLE = 1, 3, 4

app = typer.Typer(
    help="Clear peer-to-peer energy markets on distribution grids.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Entry point of the command `jaxgne` and of `python -m jaxgne`."""
    app(prog_name="jaxgne")


def _fail(sentence: str, code: int) -> typer.Exit:
    """Say what is wrong on stderr; the exit to raise."""
    typer.echo(f"jaxgne: {sentence}", err=True)
    return typer.Exit(code)


_SOLVERS = {
    "interior-point": jaxgne.InteriorPoint,
    "primal-dual": jaxgne.PrimalDual,
    "semidecentralized": jaxgne.SemiDecentralized,
}

_STUDIES: dict[str, dict[str, Any]] = {  # with options of a built-in case unless they are given
    **{name: {} for name in (*jaxgne.studies.ON_MARKETS, *jaxgne.studies.ON_CASES)},
    "line-limits": {"stress": True},
    "connectivity": {"prosumers": 50},
}


def _double(tree: Any) -> Any:
    """`tree` in float64: a market may have been saved in float32."""
    return jax.tree.map(
        lambda a: a.astype(jnp.float64) if jnp.issubdtype(a.dtype, jnp.floating) else a, tree
    )


@app.command()
def clear(
    case: Annotated[
        str, typer.Argument(metavar="CASE", help="A built-in case, or a folder that jaxgne wrote.")
    ],
    prosumers: Annotated[int | None, typer.Option(min=1, help="How many prosumers.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything drawn by chance.")] = None,
    grid: Annotated[
        Literal["copperplate", "paper", "lindistflow"] | None, typer.Option(help="Grid model.")
    ] = None,
    behaviour: Annotated[
        Literal["nash", "wardrop"] | None,
        typer.Option("--behaviour", "--behavior", help="Do prosumers see their effect on prices?"),
    ] = None,
    stress: Annotated[
        bool | None, typer.Option("--stress/--no-stress", help="Let the limits of the grid bind.")
    ] = None,
    solver: Annotated[
        Literal["interior-point", "primal-dual", "semidecentralized"] | None,
        typer.Option(help="How to solve; by default what is fastest for the size."),
    ] = None,
    tol: Annotated[float, typer.Option(help="Relative KKT error to reach.")] = 1e-6,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps to give up after; default by solver.")
    ] = None,
    least_norm: Annotated[
        bool, typer.Option("--least-norm", help="Of all equilibria, that of least trades.")
    ] = False,
    ac_safe: Annotated[
        bool,
        typer.Option(
            "--ac-safe",
            help="Tighten limits until an AC power flow finds the plan safe; the market with "
            "these margins is what is shown and written.",
        ),
    ] = False,
    ac_margin: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="--ac-safe from this margin on: voltages in pu, ratings as share."
        ),
    ] = None,
    one_way: Annotated[
        bool,
        typer.Option(
            "--one-way",
            help="Let each battery charge or discharge in an hour, never both; the market with the "
            "other way shut is what is shown and written.",
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the market and the result to.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of tables.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing if cleared.")] = False,
) -> None:
    """Clear CASE: find its equilibrium, and say how good it is.

    The options from --prosumers to --stress are for built-in cases.

    Exit codes: 0 cleared, 1 bad input, 2 wrong usage, 3 not cleared, 4 infeasible.
    """
    jax.config.update("jax_enable_x64", True)
    given: dict[str, Any] = {
        "prosumers": prosumers,
        "seed": seed,
        "grid": grid,
        "behaviour": behaviour,
        "stress": stress,
    }
    ac_safe = ac_safe or ac_margin is not None
    if least_norm + ac_safe + one_way > 1:
        raise typer.BadParameter("--least-norm, --ac-safe and --one-way do not go together.")
    try:
        if out is not None:
            check_replaceable(out)
        market = _double(load_case(case, **{k: v for k, v in given.items() if v is not None}))
        with Live(silent=quiet or as_json) as live:
            find = jaxgne.least_norm if least_norm else jaxgne.clear
            if ac_safe:
                find = partial(_find_safe, ac_margin=ac_margin or 0.0)
            if one_way:
                find = _find_one_way
            market, clearing, complaint = _clear(find, market, solver, tol, max_steps, live)
        if out is not None:
            save(out, market, clearing, summary=summary(market, clearing))
    except (ValueError, OSError) as error:
        raise _fail(str(error), BAD_INPUT) from error
    if as_json:
        typer.echo(json.dumps(summary(market, clearing), indent=2, ensure_ascii=False))
    elif not quiet:
        _show(market, clearing, out)
    if complaint:
        infeasible = jaxgne.clearing.status_name(clearing.status) == "infeasible"
        raise _fail(complaint, INFEASIBLE if infeasible else NOT_CLEARED)


def _clear(
    find: Any,
    market: jaxgne.Market,
    solver: str | None,
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


def _find_safe(market: jaxgne.Market, solver: Any, **options: Any) -> Any:
    """The market with margins, and its AC-safe clearing."""
    found = jaxgne.clear_ac_safe(market, solver, **options)
    return found.market, found.clearing


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


def _show(market: jaxgne.Market, clearing: jaxgne.Clearing, out: Path | None) -> None:
    console = _print(table(market, clearing))
    if out is not None:
        console.print(f"\nwritten to {out}", highlight=False, markup=False)


@app.command()
def batch(
    case: Annotated[
        str, typer.Argument(metavar="CASE", help="A built-in case, or a folder that jaxgne wrote.")
    ],
    scenarios: Annotated[int, typer.Option(min=1, help="How many variants of it.")] = 100,
    load_noise: Annotated[
        float, typer.Option(help="Standard deviation of loads, 0.1: 10 %.")
    ] = 0.0,
    renewable_noise: Annotated[float, typer.Option(help="The same of renewables.")] = 0.0,
    price_noise: Annotated[float, typer.Option(help="The same of the main grid's prices.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    solver: Annotated[
        Literal["interior-point", "primal-dual"] | None,
        typer.Option(help="How to solve; by default what is fastest for the size."),
    ] = None,
    tol: Annotated[float, typer.Option(help="Relative KKT error to reach.")] = 1e-6,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for finished chunks; the same call goes on after them."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of tables.")
    ] = False,
) -> None:
    """Clear many random variants of CASE, and tell how costs and prices spread.

    Exit codes: 0 all cleared, 1 bad input, 2 wrong usage, 3 some did not clear.
    """
    jax.config.update("jax_enable_x64", True)
    noise = {"load": load_noise, "renewable": renewable_noise, "price": price_noise}
    try:
        market = _double(load_case(case))
        markets = jaxgne.scenarios.perturb(market, jax.random.key(seed), scenarios, **noise)
        chosen = solver and _SOLVERS[solver]()
        with LiveBatch("scenarios", silent=as_json) as live:
            progress = live if live.shown else None
            found = jaxgne.clear_many(markets, chosen, tol=tol, folder=out, progress=progress)
    except (ValueError, OSError) as error:
        raise _fail(str(error), BAD_INPUT) from error
    if as_json:
        typer.echo(json.dumps(batch_summary(found), indent=2))
    else:
        _print(batch_table(found))
    missed = scenarios - int(found.ok.sum())
    if missed:
        raise _fail(f"{missed} of {scenarios} scenarios did not clear.", NOT_CLEARED)


@app.command()
def compare(
    case: Annotated[
        str, typer.Argument(metavar="CASE", help="A built-in case, or a folder that jaxgne wrote.")
    ],
    tol: Annotated[float, typer.Option(help="Relative KKT error to reach.")] = 1e-6,
    grid_carbon: Annotated[
        float, typer.Option(min=0.0, help="kg of CO2 per kWh of the main grid.")
    ] = 0.0,
    generator_carbon: Annotated[
        float, typer.Option(min=0.0, help="kg of CO2 per kWh of a generator.")
    ] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON document instead of a table.")
    ] = False,
) -> None:
    """Compare CASE with itself without trades, without storage, with price takers, at its optimum.

    Exit codes: 0 all cleared, 1 bad input, 2 wrong usage, 3 or 4 one of them did not clear.
    """
    jax.config.update("jax_enable_x64", True)
    found: dict[str, Any] = {}
    try:
        market = _double(load_case(case))
        with Live(silent=as_json) as live:
            for name, variant in jaxgne.comparison.baselines(market).items():
                _, clearing, complaint = _clear(jaxgne.clear, variant, None, tol, None, live)
                if complaint:
                    infeasible = jaxgne.clearing.status_name(clearing.status) == "infeasible"
                    raise _fail(f"{name}: {complaint}", INFEASIBLE if infeasible else NOT_CLEARED)
                found[name] = (market, clearing)
    except (ValueError, OSError) as error:
        raise _fail(str(error), BAD_INPUT) from error
    table_ = jaxgne.compare(found, grid_carbon=grid_carbon, generator_carbon=generator_carbon)
    typer.echo(json.dumps(table_.rows, indent=2) if as_json else str(table_))


app.command()(plot)
app.command()(tune)


@app.command()
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"One of {', '.join(_STUDIES)}.")],
    case: Annotated[
        str, typer.Argument(metavar="[CASE]", help="A built-in case, or a folder, of one market.")
    ] = "ieee37",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for tables, picture and runs; the same call goes on after them."),
    ] = None,
    values: Annotated[
        str | None,
        typer.Option(
            help="What to sweep, with commas: ratings' factors, batteries' costs, charges, shares "
            "of pairs, numbers of prosumers."
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Markets a value: connectivity, prosumers.")
    ] = None,
    prosumers: Annotated[int | None, typer.Option(min=1, help="How many prosumers.")] = None,
    hours: Annotated[int | None, typer.Option(min=1, help="How many steps.")] = None,
    hour_length: Annotated[float | None, typer.Option(help="Hours of a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the case.")] = None,
    stress: Annotated[
        bool | None, typer.Option("--stress/--no-stress", help="Let the limits of the grid bind.")
    ] = None,
    tol: Annotated[float | None, typer.Option(help="Relative KKT error to reach.")] = None,
) -> None:
    """Do a study of the paper on CASE: print what it finds, write tables and a picture.

    By default on ieee37, for line-limits with --stress, for connectivity with 50 prosumers.

    Exit codes: 0 all cleared, 1 bad input, 2 wrong usage, 3 some did not clear.
    """
    jax.config.update("jax_enable_x64", True)
    case_options = {
        "prosumers": prosumers,
        "hours": hours,
        "hour_length": hour_length,
        "seed": seed,
        "stress": stress,
    }
    given = {key: value for key, value in case_options.items() if value is not None}
    if name not in _STUDIES:
        raise typer.BadParameter(f"no study {name!r}; take one of {', '.join(_STUDIES)}.")
    grown = name in jaxgne.studies.ON_CASES
    do = (jaxgne.studies.ON_CASES if grown else jaxgne.studies.ON_MARKETS)[name]
    words = {"values": values, "seeds": seeds, "tol": tol}
    options: dict[str, Any] = {key: word for key, word in words.items() if word is not None}
    strange = options.keys() - inspect.signature(do).parameters.keys()
    strange |= {"seed", name} & given.keys() if grown else set()
    if strange:
        raise typer.BadParameter(f"the study {name} takes no --{min(strange)}.")
    if case in CASES:
        given = _STUDIES[name] | given
    try:
        if values is not None:
            options["values"] = _numbers(values)
        of = partial(load_case, case, **given) if grown else _double(load_case(case, **given))
        with LiveBatch("runs") as live:
            watch = live if live.shown else None
            found = do(of, folder=out, progress=watch, **options)
        if out is not None:
            found.save(out)
    except (ValueError, OSError) as error:
        raise _fail(str(error), BAD_INPUT) from error
    typer.echo(str(found))
    if out is not None:
        try:
            jaxgne.studies.draw(found, out / f"{name}.png")
        except ImportError as missing:
            typer.echo(f"jaxgne: no picture: {missing}", err=True)
        typer.echo(f"\nwritten to {out}")
    if found.missed:
        raise _fail(f"{found.missed} markets did not clear.", NOT_CLEARED)


def _numbers(words: str) -> list[float]:
    try:
        return [float(word) for word in words.split(",")]
    except ValueError as error:
        raise ValueError(f"--values {words}: give numbers with commas between them.") from error


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
