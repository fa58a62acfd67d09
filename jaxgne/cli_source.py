"""What commands take for a market: its name, and the one set of options of whatever has one."""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import typer

import jaxgne

from .cases import CASES
from .cases.builders import Behavior, Graph
from .cli_shared import MOST_PROSUMERS, MOST_SEED, double
from .contracts import read_contracts
from .io import ImportReport, is_book, kind_of, load_market, read_case

_DAY = 24.0  # h
_MOST_HOURS = 24.0 * 366
_MOST_DEGREE = 1e6

_CASE = partial(typer.Option, rich_help_panel="Options of built-in cases (jaxgne cases)")
_NET = partial(typer.Option, rich_help_panel="Options of nets of other programs")
_BOTH = partial(typer.Option, rich_help_panel="Options of built-in cases and of nets")
_ANY = partial(typer.Option, rich_help_panel="Options of any market")
_SHARE = "Share of customers who own {}, 0.6: 60 %."


def sources(incomplete: str) -> list[str]:
    """What a shell completes: built-in cases, and files and folders."""
    folder, _, begun = incomplete.rpartition("/")
    where = Path(folder or ("/" if incomplete.startswith("/") else "."))
    front = f"{folder}/" if "/" in incomplete else ""
    files = []
    if where.is_dir():
        files = [
            f"{front}{path.name}" + "/" * path.is_dir()
            for path in sorted(where.iterdir())
            if path.name.startswith(begun) and (begun or not path.name.startswith("."))
        ]
    return [name for name in CASES if name.startswith(incomplete)] + files


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        autocompletion=sources,
        help="A built-in case, a folder or workbook that jaxgne wrote, a net of pandapower or "
        "power-grid-model (.json), MATPOWER (.m) or OpenDSS (.dss), or a SimBench code.",
    ),
]
_OPTIONS: dict[str, Any] = {
    "prosumers": Annotated[
        int | None, _CASE("--prosumers", min=1, max=MOST_PROSUMERS, help="How many there are.")
    ],
    "stress": Annotated[
        bool | None, _CASE("--stress/--no-stress", help="Let the limits of the grid bind.")
    ],
    "degree": Annotated[
        float | None,
        _CASE("--degree", min=0.0, max=_MOST_DEGREE, help="Trading partners of one, on average."),
    ],
    "connectivity": Annotated[
        float | None,
        _CASE("--connectivity", min=0.0, max=1.0, help="In its place: share of pairs that trade."),
    ],
    "reactive_balance": Annotated[
        bool | None,
        _CASE("--reactive-balance/--no-reactive-balance", help="Is reactive power balanced?"),
    ],
    "buses": Annotated[
        int | None, _CASE("--buses", min=2, max=MOST_PROSUMERS, help="synthetic: of its feeder.")
    ],
    "graph": Annotated[Graph | None, _CASE("--graph", help="synthetic: who trades with whom.")],
    "phases": Annotated[
        int | None, _CASE("--phases", min=1, max=3, help="synthetic: 1, or 3 of its trunk.")
    ],
    "grid": Annotated[
        jaxgne.market.GridModel | None,
        _BOTH("--grid", help="Grid model; lindist3flow of some cases and of OpenDSS circuits."),
    ],
    "behavior": Annotated[
        Behavior | None, _BOTH("--behavior", help="Do prosumers see their effect on prices?")
    ],
    "seed": Annotated[
        int | None,
        _BOTH("--seed", min=0, max=MOST_SEED, help="Seed of what a market draws by chance."),
    ],
    "hours": Annotated[
        float | None,
        _BOTH("--hours", min=0.0, max=_MOST_HOURS, help="How long the market is, h."),
    ],
    "hour_length": Annotated[
        float | None,
        _BOTH("--step", min=0.0, max=_DAY, help="Length of a step, h: 0.25 for quarter hours."),
    ],
    "start": Annotated[
        str | None, _NET("--start", help="When the market begins: 2026-01-20 is its midnight.")
    ],
    "zone": Annotated[
        str | None, _NET("--zone", help="Whose clocks that is, Europe/Berlin; else UTC.")
    ],
    "populate": Annotated[
        int | None,
        _NET(
            "--populate",
            min=1,
            max=MOST_PROSUMERS,
            help="So many customers take over part of its loads; else its loads are they.",
        ),
    ],
    "photovoltaic": Annotated[
        float | None,
        _NET("--photovoltaic", "--pv", min=0.0, max=1.0, help=_SHARE.format("panels")),
    ],
    "heat_pump": Annotated[
        float | None,
        _NET("--heat-pump", "--heat-pumps", min=0.0, max=1.0, help=_SHARE.format("one")),
    ],
    "battery": Annotated[
        float | None,
        _ANY("--battery", "--batteries", min=0.0, max=1.0, help=_SHARE.format("a battery")),
    ],
    "vehicle": Annotated[
        float | None,
        _ANY("--vehicle", "--vehicles", min=0.0, max=1.0, help=_SHARE.format("a car")),
    ],
    "connection_max": Annotated[
        float | None,
        _ANY(
            "--connection-max",
            min=0.0,
            help="What the house connection of each customer with a load carries, kVA.",
        ),
    ],
    "tariff": Annotated[
        Path | None,
        _ANY("--tariff", help="File of contracts (docs/tariffs.md), in place of the prices."),
    ],
}
_WORDS = {"hour_length": "step"}  # of options, where they are not the names
_DEVICES = ("photovoltaic", "heat_pump", "battery", "vehicle")
_EQUIPPED = ("battery", "vehicle")  # on the customers that there are; all go with `populate`
_LATER = (*_EQUIPPED, "connection_max", "tariff")  # what any market takes


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
        asked = {name: given.pop(name) for name in _OPTIONS}
        command(asked={name: x for name, x in asked.items() if x is not None}, **given)

    vars(run)["__signature__"] = signature.replace(parameters=added)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in added}
    return run


def is_saved(source: str | Path) -> bool:
    """Whether a name is of a folder or workbook of jaxgne's."""
    return str(source) not in CASES and (is_book(source) or Path(source, "market.json").exists())


def options_of(source: str) -> list[str]:
    """The options that a market takes by its name, as they are typed."""
    return [_word(name) for name in _OPTIONS if name in _names(source)]


def _names(source: str) -> set[str]:
    if source in CASES:
        return {*inspect.signature(CASES[source]).parameters, *_LATER}
    if kind_of(source):
        shared = ("grid", "behavior", "seed", "hours", "hour_length", "start", "zone", "populate")
        return {*shared, *_DEVICES, *_LATER}
    return {*_LATER, "seed"}


def _word(name: str) -> str:
    return "--" + _WORDS.get(name, name).replace("_", "-")


def market_of(
    source: str, asked: dict[str, Any], *, validated: bool = True
) -> tuple[jaxgne.Market, ImportReport | None]:
    """The market of a source with the options `asked` of `of_source`, and what became of a net.

    A saved one may be read without asking whether it has a plan: not `validated`. House connections
    and contracts come last. Raises `ValueError` for an option that the source does not take, naming
    those that it takes, and for what does not go together.
    """
    known = source in CASES or kind_of(source) or is_saved(source)
    strange = [name for name in asked if known and name not in _names(source)]
    if strange:
        kind = " is a saved market, which" if is_saved(source) else ""
        takes = ", ".join(options_of(source))
        raise ValueError(f"{source}{kind} takes no {_word(strange[0])}; it takes {takes}.")
    own = {name: asked[name] for name in asked if name not in _LATER and name not in _DEVICES}
    shares = {name: asked[name] for name in _DEVICES if name in asked}
    if source in CASES and {"hours", "hour_length"} & own.keys():
        own["hours"] = _steps(**own)
    if "populate" in own:
        own, shares = own | shares, {}
    lost = [name for name in shares if name not in _EQUIPPED]
    if lost:
        raise ValueError(
            f"{_word(lost[0])} goes with --populate: it is of the customers put on a net."
        )
    seed = asked.get("seed", 0)
    if is_saved(source) and shares:
        own.pop("seed", None)  # it is of who owns what
    contracts = read_contracts(asked["tariff"]) if "tariff" in asked else None
    if is_saved(source) and not validated:
        market, report = load_market(source), None
    else:
        market, report = read_case(source, **own)
    for kind, share in shares.items():
        if share:
            market = jaxgne.equip(market, **{kind: share}, seed=seed)
    if "connection_max" in asked:
        market = jaxgne.equip(market, connection_max=asked["connection_max"])
    if contracts is not None:
        market = jaxgne.with_contracts(market, contracts)
    return market, report


def made(
    source: str, asked: dict[str, Any], quiet: bool = False, *, validated: bool = True
) -> jaxgne.Market:
    """The market of a source in float64; what became of a net is told on stderr."""
    market, report = market_of(source, asked, validated=validated)
    if report is not None and not quiet:
        typer.echo(told(report), err=True)
    return double(market)


def _steps(hours: float = _DAY, hour_length: float = 1.0, **_: Any) -> int:
    """How many steps a built-in case has, by default those of a day."""
    steps = hours / hour_length if hour_length else 0.0
    if not steps >= 1 or not abs(steps - round(steps)) < 1e-9 * steps:
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
