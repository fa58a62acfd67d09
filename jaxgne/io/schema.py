"""Which file, column and entry holds what of a market or a clearing; units are in the names."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

from ..market import GridModel
from ..status import STATUSES
from .entries import amounts, digests, flag, indices, number, one_of, sizes, text, whole

FORMAT = "jaxgne market"
VERSION = 2  # of the format; raised when an older reader would read wrong numbers
OWNERS = "owners."  # of a certificate: those of its market
TIME = ("hour_length", "clock.start")  # of a certificate: those of its market
WHOLE = {"owner", "bus", "buyer", "seller", "source", "target"}


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
ADDED: Mapping[str, Added] = {"grid.feeder_voltage": Added(2, 1.0)}  # by dotted field


class Entry(NamedTuple):
    """One entry of a JSON file."""

    convert: Callable[[Any], Any]  # to what is used; raises ValueError saying what it must be
    since: int | None = 1  # version of the format, folders from before may lack it; None: all may


MARKET_ENTRIES: Mapping[str, Entry] = {
    "format": Entry(one_of(FORMAT)),
    "version": Entry(one_of(*range(1, VERSION + 1))),
    "rows": Entry(sizes("prosumer", "generator", "buffer", "pair", "line", "bus", "hour"), 2),
    "dtype": Entry(one_of("float32", "float64")),
    "hour_length_h": Entry(number),
    "start": Entry(text, None),
    "zone": Entry(text, None),
    "anticipation": Entry(number),
    "grid_model": Entry(one_of(*get_args(GridModel))),
    "reactive_balance": Entry(flag),
    "feeder_buses": Entry(indices),
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
    derived: tuple[str, ...] = ()  # columns that follow from others, for whoever opens the table


MARKET = (
    Table("prosumers.csv", "prosumer", {"bus": "prosumers.bus"}),
    Table(
        "prosumer_hours.csv",
        "prosumer",
        {
            "load_kw": "prosumers.load",
            "reactive_kvar": "prosumers.reactive",
            "import_max_kw": "prosumers.import_max",
            "export_max_kw": "prosumers.export_max",
            "curtail_max_kw": "prosumers.curtail_max",
        },
        hourly=True,
    ),
    Table(
        "generators.csv",
        "generator",
        {
            "owner": "generators.owner",
            "quadratic_eur_per_kw2h": "generators.quadratic",
            "linear_eur_per_kwh": "generators.linear",
        },
    ),
    Table(
        "generator_hours.csv",
        "generator",
        {"power_min_kw": "generators.power_min", "power_max_kw": "generators.power_max"},
        hourly=True,
    ),
    Table(
        "buffers.csv",
        "buffer",
        {
            "owner": "buffers.owner",
            "energy_start_kwh": "buffers.energy_start",
            "retention": "buffers.retention",
            "charge_efficiency": "buffers.charge_efficiency",
            "discharge_efficiency": "buffers.discharge_efficiency",
            "quadratic_eur_per_kw2h": "buffers.quadratic",
            "linear_eur_per_kwh": "buffers.linear",
            "final_value_eur_per_kwh": "buffers.final_value",
        },
    ),
    Table(
        "buffer_hours.csv",
        "buffer",
        {
            "charge_max_kw": "buffers.charge_max",
            "discharge_max_kw": "buffers.discharge_max",
            "energy_min_kwh": "buffers.energy_min",
            "energy_max_kwh": "buffers.energy_max",
            "drain_kwh": "buffers.drain",
        },
        hourly=True,
    ),
    Table(
        "pairs.csv",
        "pair",
        {
            "buyer": "trading.buyer",
            "seller": "trading.seller",
            "limit_kw": "trading.limit",
            "fee_buyer_eur_per_kwh": "trading.fee_buyer",
            "fee_seller_eur_per_kwh": "trading.fee_seller",
            "charge_eur_per_kwh": "trading.charge",
            "quadratic_eur_per_kw2h": "trading.quadratic",
        },
    ),
    Table(
        "lines.csv",
        "line",
        {
            "source": "grid.source",
            "target": "grid.target",
            "resistance_pu_per_kw": "grid.resistance",
            "reactance_pu_per_kw": "grid.reactance",
            "rating_kva": "grid.rating",
        },
    ),
    Table(
        "buses.csv",
        "bus",
        {
            "voltage_min_pu": "grid.voltage_min",
            "voltage_max_pu": "grid.voltage_max",
            "angle_min_rad": "grid.angle_min",
            "angle_max_rad": "grid.angle_max",
        },
        names={"name": "grid.names"},
    ),
    Table(
        "bus_hours.csv",
        "bus",
        {
            "passive_kw": "grid.passive",
            "passive_reactive_kvar": "grid.passive_reactive",
            "compensation_max_kvar": "grid.compensation_max",
        },
        hourly=True,
    ),
    Table("feeder_hours.csv", "feeder", {"voltage_pu": "grid.feeder_voltage"}, hourly=True),
    Table(
        "tariff.csv",
        "hour",
        {
            "base_eur_per_kwh": "tariff.base",
            "slope_eur_per_kwh_per_kw": "tariff.slope",
            "export_eur_per_kwh": "tariff.export",
            "total_min_kw": "tariff.total_min",
            "total_max_kw": "tariff.total_max",
        },
    ),
)


def clearing_tables(model: GridModel) -> tuple[Table, ...]:
    """The tables of a clearing; under lindistflow a plan holds squared voltages.

    Fields of `certificate` with one number per row stand here, all others in clearing.json.
    """
    squared = model == "lindistflow"
    volt = "voltage_squared_pu2" if squared else "voltage_pu"
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
            derived=("voltage_pu",) if squared else (),
        ),
        Table("feeder_hours.csv", "feeder", {"exchange_kw": "plan.exchange"}, hourly=True),
    )


OURS = {  # by folder
    "": {table.file for table in MARKET} | {"market.json", "clearing"},
    "clearing": {table.file for table in clearing_tables("lindistflow")}
    | {"clearing.json", "summary.json"},
}
