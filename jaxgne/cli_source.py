"""What commands take for a market: its name, and what is put on a net of another program."""

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

import jaxgne

from .cases import CASES
from .cli_shared import MOST_PROSUMERS
from .contracts import read_contracts
from .io import ImportReport, read_case

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A built-in case, a folder or workbook that jaxgne wrote, a net of pandapower or "
        "power-grid-model (.json), MATPOWER (.m) or OpenDSS (.dss), or a SimBench code.",
    ),
]
Populate = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_PROSUMERS,
        help="On a net: so many customers take over part of its loads; else its loads are they.",
    ),
]
_GRID = "Grid model; lindist3flow of some cases and of OpenDSS circuits."
GridOption = Annotated[jaxgne.market.GridModel | None, typer.Option("--grid", help=_GRID)]
_SHARE = "Share of customers who own {}, 0.6: 60 %."
Photovoltaic = Annotated[
    float | None,
    typer.Option("--photovoltaic", "--pv", min=0.0, max=1.0, help=_SHARE.format("panels")),
]
Battery = Annotated[
    float | None,
    typer.Option("--battery", "--batteries", min=0.0, max=1.0, help=_SHARE.format("a battery")),
]
Vehicle = Annotated[
    float | None,
    typer.Option("--vehicle", "--vehicles", min=0.0, max=1.0, help=_SHARE.format("a car")),
]
HeatPump = Annotated[
    float | None,
    typer.Option("--heat-pump", "--heat-pumps", min=0.0, max=1.0, help=_SHARE.format("one")),
]
Start = Annotated[
    str | None, typer.Option(help="When the market begins: 2026-01-20 is its midnight.")
]
Zone = Annotated[str | None, typer.Option(help="Whose clocks that is, Europe/Berlin; else UTC.")]
Hours = Annotated[float | None, typer.Option(min=0.0, help="How long the market is, h.")]
HourLength = Annotated[
    float | None, typer.Option(min=0.0, help="Length of a step, h: 0.25 for quarter hours.")
]
ConnectionMax = Annotated[
    float | None,
    typer.Option(
        min=0.0, help="What the house connection of each customer with a load carries, kVA."
    ),
]
TariffFile = Annotated[
    Path | None,
    typer.Option("--tariff", help="File of contracts (docs/tariffs.md), in place of the prices."),
]

_OPTIONS = {
    "grid": GridOption,
    "populate": Populate,
    "photovoltaic": Photovoltaic,
    "battery": Battery,
    "vehicle": Vehicle,
    "heat_pump": HeatPump,
    "connection_max": ConnectionMax,
    "start": Start,
    "zone": Zone,
    "hours": Hours,
    "hour_length": HourLength,
    "tariff": TariffFile,
}
_DEVICES = ("photovoltaic", "battery", "vehicle", "heat_pump")
_TIMES = ("start", "zone", "hours", "hour_length")
_EQUIPPED = ("battery", "vehicle")  # on the customers that there are; all go with `populate`


def of_source(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of `market_of` in the place of its argument `asked`."""
    signature, added = inspect.signature(command), []
    for parameter in signature.parameters.values():
        if parameter.name == "asked":
            added += [
                inspect.Parameter(name, parameter.kind, default=None, annotation=kind)
                for name, kind in _OPTIONS.items()
            ]
        else:
            added.append(parameter)

    @wraps(command)
    def run(**given: Any) -> None:
        command(asked={name: given.pop(name) for name in _OPTIONS}, **given)

    vars(run)["__signature__"] = signature.replace(parameters=added)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in added}
    return run


def market_of(
    source: str, own: dict[str, Any], asked: dict[str, Any]
) -> tuple[jaxgne.Market, ImportReport | None]:
    """The market of a source, and what became of a net. What is None was not asked for.

    `own` are the options of built-in cases, `asked` those of `of_source`, of which house
    connections and contracts come last. Raises `ValueError` for what does not go together.
    """
    own, asked = (
        {name: value for name, value in given.items() if value is not None}
        for given in (own, asked)
    )
    shares, when = (
        {name: asked[name] for name in names if name in asked} for names in (_DEVICES, _TIMES)
    )
    if source in CASES and "hours" in when:
        when["hours"] = _steps(**when)
    own |= when
    if "grid" in asked:
        own["grid"] = asked["grid"]
    if "populate" in asked:
        own |= {"populate": asked["populate"], **shares}
        shares = {}
    strange = [name for name in shares if name not in _EQUIPPED]
    if strange:
        word = strange[0].replace("_", "-")
        raise ValueError(f"--{word} goes with --populate: it is of the customers put on a net.")
    contracts = read_contracts(asked["tariff"]) if "tariff" in asked else None
    market, report = read_case(source, **own)
    for kind, share in shares.items():
        if share:
            market = jaxgne.equip(market, **{kind: share}, seed=own.get("seed", 0))
    if "connection_max" in asked:
        market = jaxgne.equip(market, connection_max=asked["connection_max"])
    if contracts is not None:
        market = jaxgne.with_contracts(market, contracts)
    return market, report


def _steps(hours: float, hour_length: float = 1.0, **_: Any) -> int:
    """How many steps a built-in case has."""
    steps = hours / hour_length if hour_length else 0.0
    if steps < 1 or steps != round(steps):
        raise ValueError(f"--hours {hours:g}: give whole steps of {hour_length:g} h.")
    return round(steps)


def told(report: ImportReport) -> str:
    """A report in few lines: what of the source is lost, assumed, merged, and worth a look."""
    buses, load = report.totals["buses"], report.totals["net load"]
    lines = [
        f"{report.source}: {buses.before:g} buses -> {buses.after:g}, net load {load.after:,.6g} kW"
    ]
    lines += [
        f"  {kind}: {note.brief}"
        for kind in ("lost", "assumed", "merged", "taken")
        for note in report.of(kind)
    ]
    return "\n".join(lines)
