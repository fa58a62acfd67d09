"""The command `jaxgne plot`: figures of saved results as PNG or SVG."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import typer

from . import plots
from .cli_shared import MOST_STEPS, Json, Quiet, wrote
from .cli_show import cleared as saved
from .files import whole

Kind = Literal[
    "prices",
    "bus-prices",
    "voltages",
    "energy",
    "storage",
    "feeder",
    "duration",
    "costs",
    "level",
    "sigma",
    "transformer",
]  # what one result gives; the functions of `plots` by name

_OF_MANY = ("sigma", "transformer")
_DOTS_PER_INCH = 150


def plot(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULT...", help="What jaxgne clear --out wrote; many for sigma, transformer."
        ),
    ],
    kind: Annotated[Kind, typer.Option(help="What to draw.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="File to write, .png or .svg; by default RESULT-KIND.png, here."
        ),
    ] = None,
    prosumer: Annotated[
        str | None,
        typer.Option(help="Number or name; of this one only: energy, storage."),
    ] = None,
    hour: Annotated[
        float | None,
        typer.Option(min=0, max=MOST_STEPS, help="Hour to draw: feeder; by default the fullest."),
    ] = None,
    cap: Annotated[
        str | None, typer.Option(help="Name of the cap to draw: level; by default the first.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw saved results: prices, voltages, power, storage, grid, loadings, costs, levels of caps.

    Exit codes: 0 written, 1 bad input, 2 wrong usage.
    """
    given: dict[str, tuple[Any, tuple[str, ...]]] = {
        "prosumer": (prosumer, ("energy", "storage")),
        "hour": (hour, ("feeder",)),
        "cap": (cap, ("level",)),
    }
    options = {name: value for name, (value, _) in given.items() if value is not None}
    for name in options:
        if kind not in given[name][1]:
            raise typer.BadParameter(f"--{name} goes with {', '.join(given[name][1])} only.")
    if len(results) > 1 and kind not in _OF_MANY:
        raise typer.BadParameter(
            f"{kind} is drawn of one result; {' and '.join(_OF_MANY)} of many."
        )
    target = Path(f"{results[0].resolve().name}-{kind}.png") if out is None else out
    if target.suffix not in (".png", ".svg"):
        raise typer.BadParameter(f"--out {target}: end the name in .png or .svg.")
    jax.config.update("jax_enable_x64", True)
    os.environ.setdefault("MPLBACKEND", "Agg")  # no window, also where there is a display
    _write(_drawn(results, kind, options), target)
    wrote({"written": str(target)}, f"written to {target}", as_json, quiet)


def _drawn(results: list[Path], kind: Kind, options: dict[str, Any]) -> Any:
    """The axes of the figure."""
    cleared = {}
    for path in results:
        market, clearing = saved(path)
        if clearing.steps.ndim:
            raise ValueError(
                f"{path} holds a batch of {clearing.steps.size} scenarios; draw one: save it with "
                "jaxgne.save, or plot batches with jaxgne.plots.fan."
            )
        cleared[str(path)] = (market, clearing)
    if kind in _OF_MANY:
        return getattr(plots, kind)(cleared)
    draw: Callable[..., Any] = getattr(plots, kind.replace("-", "_"))
    market, clearing = cleared[str(results[0])]
    who = options.get("prosumer", "")
    if who.isdecimal() and who not in market.prosumers.names:
        options |= {"prosumer": int(who)}
    return draw(market, clearing, **options)


def _write(axes: Any, target: Path) -> None:
    """Write the figure of `axes`, complete or not at all."""
    with whole(target) as fresh:
        axes.figure.savefig(fresh, dpi=_DOTS_PER_INCH)
