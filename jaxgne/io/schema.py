"""Which file, column and entry holds what of a market or a clearing; units are in the names."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ..curves import FAMILIES
from ..fields import ROWS, described
from ..grids import MODELS, AbstractGridModel, LinDistFlow
from ..kinds import KINDS
from ..market import FIELDS
from ..status import STATUSES
from .entries import amounts, digests, flag, indices, number, one_of, sizes, text, whole

FORMAT = "jaxgne market"
VERSION = 3  # of the format; raised when an older reader would read wrong numbers
NOTES = "README.txt"  # for people: kept, and not read
OPTIONAL = {"cap", "term", "site", "coupling", "terminal", "zone"}  # whose tables may not be there
OWNERS = "owners."  # of a certificate: those of its market
TIME = ("hour_length", "clock.start")  # of a certificate: those of its market
KIND_OF = {field.dotted: KINDS[field.row] for field in FIELDS.values() if field.of == "kind"}
WHOLE = {field.column for field in FIELDS.values() if field.of and field.of != "kind"}
NOBODY = {f.dotted for f in FIELDS.values() if f.of in ("payer", "bus or none")}  # may say -1
TOGETHER = ("imports and trades", "imports", "trades")
CAPS = "caps."  # of a certificate: those of its market


class Added(NamedTuple):
    """A field that the format did not always have."""

    version: int  # of the format, the first that has it
    value: float  # what it is where an older folder lacks its column, or the whole table


_EACH = {  # numbers of a certificate that each prosumer has
    "gap_eur": "certificate.residuals.gap",
    "size_kw": "certificate.residuals.own.size",
    "own_bill_eur": "certificate.residuals.own.bill",
    "missed_kw": "certificate.residuals.own.missed",
    "missed_kwh": "certificate.residuals.own.content",
    "price_error_eur_per_kwh": "certificate.residuals.own.price",
    "own_error": "certificate.residuals.own.share",
}
ADDED: Mapping[str, Added] = {  # by dotted field
    "grid.feeder_voltage": Added(2, 1.0),
    "grid.tap": Added(3, 1.0),
}
WITHOUT: Mapping[str, float] = {  # what may be left out, and is then this: by dotted field
    "prosumers.import_adder": 0.0,
    "prosumers.export_adder": 0.0,
    "trading.reluctance": 0.0,
    **dict.fromkeys(("zones.base", "zones.slope", "zones.export"), 0.0),
}


class Entry(NamedTuple):
    """One entry of a JSON file."""

    convert: Callable[[Any], Any]  # to what is used; raises ValueError saying what it must be
    since: int | None = 1  # version of the format, folders from before may lack it; None: all may


MARKET_ENTRIES: Mapping[str, Entry] = {
    "format": Entry(one_of(FORMAT)),
    "version": Entry(one_of(*range(1, VERSION + 1))),
    "rows": Entry(
        sizes(*(row for row in ROWS.values() if row != "feeder"), optional=OPTIONAL), None
    ),  # else tables are as long as they are
    "dtype": Entry(one_of("float32", "float64")),
    "hour_length_h": Entry(number, None),  # else it is a column of tariff.csv
    "start": Entry(text, None),
    "zone": Entry(text, None),
    "anticipation": Entry(number),
    "grid_model": Entry(one_of(*MODELS)),
    "reactive_balance": Entry(flag),
    "feeder_buses": Entry(indices),
    "committed": Entry(one_of(*TOGETHER), None),  # beside moments of tariff.csv
    "uncommitted_prosumers": Entry(indices, None),
}

CLEARING_ENTRIES: Mapping[str, Entry] = {
    "status": Entry(one_of(*STATUSES)),
    "steps": Entry(whole),
    "solver": Entry(text),
    "tol": Entry(number),
    "runner": Entry(one_of("numpy", "jax")),
    "certificate": Entry(amounts),
    "sha256": Entry(digests),
}


class Table(NamedTuple):
    """One CSV file: what a line stands for, and which field each column holds."""

    file: str
    row: str
    columns: Mapping[str, str]  # column: dotted field
    hourly: bool = False
    names: Mapping[str, str] = {}  # columns of text, which may be missing: dotted field
    spare: Mapping[str, str] = {}  # columns of numbers, which may be missing: dotted field
    curves: Mapping[str, str] = {}  # columns of numbers, likewise; all of a family or none
    either: Mapping[str, str] = {}  # columns that stand here, or in the table by hour of these rows
    derived: tuple[str, ...] = ()  # columns that follow from others, for whoever opens the table


def _market_tables() -> Iterator[Table]:
    """A file of all fields with the same rows, and one of those that also have hours."""
    columns: dict[tuple[str, bool], dict[str, str]] = {}
    either: dict[str, dict[str, str]] = {}
    for field in FIELDS.values():
        if field.dotted in _SPARED or field.dotted in KIND_OF:
            continue
        if field.either:
            either.setdefault(field.row, {})[field.column] = field.dotted
            for hourly in (False, True):
                columns.setdefault((field.row, hourly), {})
        elif field.axes and field.axes != ("F",):  # those are in market.json
            columns.setdefault((field.row, len(field.axes) > 1), {})[field.column] = field.dotted
    for (row, hourly), found in columns.items():
        file = f"{row}_hours.csv" if hourly else f"{_MANY.get(row, f'{row}s')}.csv"
        spare, curves = _SPARE.get(file, {}), CURVES if file == "generators.csv" else {}
        names, also = _NAMES.get(file, {}), either.get(row, {})
        yield Table(file, row, found, hourly, names, spare, curves, also)


_NAMES = {
    "buses.csv": {"name": "grid.names"},
    "lines.csv": {"name": "grid.line_names"},
    "prosumers.csv": {"name": "prosumers.names"},
    "generators.csv": {"name": "generators.names", "kind": "generators.kind"},
    "buffers.csv": {"name": "buffers.names", "kind": "buffers.kind"},
    "caps.csv": {"name": "caps.names", "unit": "caps.units"},
    "zones.csv": {"name": "zones.names"},
}
CURVES: Mapping[str, str] = {  # like isoelastic_price_eur_per_kwh
    f"{family}_{field.column}": f"{family}.{name.split('.')[1]}"
    for family, kind in FAMILIES.items()
    for name, field in described(kind).items()
}
FAMILY_OF = {kind: family for family, kind in FAMILIES.items()}
_SPARE = {
    "prosumers.csv": {"zone": "prosumers.zone"},
    "buses.csv": {"zone": "grid.zone"},
    "caps.csv": {"carbon": "caps.carbon"},
    "generators.csv": {"bus": "generators.bus"},
    "buffers.csv": {"bus": "buffers.bus"},
    "tariff.csv": {
        "hour_length_h": "hour_length",
        "weight": "weight",
        "before": "before",
        "moment": "moment",
    },
}
_SPARED = {field for columns in _SPARE.values() for field in columns.values()}
_MANY = {"bus": "buses", "hour": "tariff"}  # what a file is called by its rows, without an s
MARKET = tuple(_market_tables())


def ac_tables(model: AbstractGridModel) -> tuple[Table, ...]:
    """The tables of a market whose grid's model is about an AC state (`Tangent`), as `clear_ac`'s.

    They are there both or neither.
    """
    if not model.networked:
        return ()
    unit = {"voltage": "pu2" if model.squared else "pu", "angle": "rad"}
    offsets = {f"{s}_offset_{unit[s]}": f"grid.tangent.offset.{s}" for s in model.states}
    buses = {"losses_kw": "grid.tangent.losses", "losses_kvar": "grid.tangent.losses_reactive"}
    lines = {
        "rating_kva": "grid.tangent.rating",
        "active_cost_eur_per_kwh": "grid.tangent.active",
        "reactive_cost_eur_per_kvarh": "grid.tangent.reactive",
    }
    return (
        Table("ac_bus_hours.csv", "bus", buses, hourly=True),
        Table("ac_line_hours.csv", "line", offsets | lines, hourly=True),
    )


def clearing_tables(model: AbstractGridModel) -> tuple[Table, ...]:
    """The tables of a clearing; of some grid models a plan holds squared voltages.

    Fields of `certificate` with one number per row stand here, all others in clearing.json.
    """
    volt = "voltage_squared_pu2" if model.squared else "voltage_pu"
    return (
        Table(
            "prosumers.csv",
            "prosumer",
            {"objective_eur": "costs", **_EACH},
            derived=("bill_eur", "cost_eur"),
        ),
        Table(
            "hours.csv",
            "hour",
            {
                "contracted_import_kw": "aggregate",
                "limit_price_eur_per_kwh": "prices.aggregate",
                "exchange_price_eur_per_kwh": "prices.exchange",
            },
            derived=("grid_price_eur_per_kwh", "transformer_kw"),
        ),
        Table(
            "prosumer_hours.csv",
            "prosumer",
            {
                "imports_kw": "plan.imports",
                "exports_kw": "plan.exports",
                "curtailed_kw": "plan.curtailed",
                "own_energy_value_eur_per_kwh": "prices.balance",
            },
            hourly=True,
            derived=("energy_price_eur_per_kwh",),
        ),
        Table(
            "generator_hours.csv", "generator", {"generation_kw": "plan.generation"}, hourly=True
        ),
        Table(
            "buffer_hours.csv",
            "buffer",
            {
                "charge_kw": "plan.charge",
                "discharge_kw": "plan.discharge",
                "energy_kwh": "plan.energy",
                "content_value_eur_per_kwh": "prices.energy",
            },
            hourly=True,
        ),
        Table(
            "pair_hours.csv",
            "pair",
            {"trade_kw": "plan.trades"},
            hourly=True,
            derived=("price_eur_per_kwh",),
        ),
        Table(
            "line_hours.csv",
            "line",
            {
                "active_kw": "plan.active",
                "reactive_kvar": "plan.reactive",
                "voltage_drop_price_eur_per_pu": "prices.voltage",
                "angle_price_eur_per_rad": "prices.angle",
            },
            hourly=True,
        ),
        Table(
            "bus_hours.csv",
            "bus",
            {
                volt: "plan.voltage",
                "angle_rad": "plan.angle",
                "compensation_kvar": "plan.compensation",
                "price_eur_per_kwh": "prices.bus",
                "reactive_price_eur_per_kvarh": "prices.bus_reactive",
            },
            hourly=True,
            derived=("voltage_pu",) if model.squared else (),
        ),
        Table("feeder_hours.csv", "feeder", {"exchange_kw": "plan.exchange"}, hourly=True),
        Table(
            "cap_hours.csv",
            "cap",
            {
                "level": "plan.level",
                "rise": "plan.rise",
                "spare": "plan.spare",
                "price_eur": "prices.cap",
                "level_price_eur": "prices.level",
            },
            hourly=True,
        ),
    )


def ordered(table: Table) -> dict[str, str]:
    """Its columns with those that may stand there, in the order of the market's fields."""
    order = {field.dotted: k for k, field in enumerate(FIELDS.values())}
    every = {**table.columns, **table.either}
    return dict(sorted(every.items(), key=lambda column: order.get(column[1], 0)))


def present(tables: tuple[Table, ...], sizes: Mapping[str, int]) -> tuple[Table, ...]:
    """Those of `tables` that a market with so many rows has."""
    return tuple(t for t in tables if t.row not in OPTIONAL or sizes.get(t.row))


OURS = {  # by folder
    "": {table.file for table in (*MARKET, *ac_tables(LinDistFlow()))}
    | {"market.json", "clearing", NOTES},
    "clearing": {table.file for table in clearing_tables(LinDistFlow())}
    | {"clearing.json", "summary.json"},
}
