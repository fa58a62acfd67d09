"""Tidy pandas tables of a cleared market; pandas is imported when one is made.

Each function takes a market and its clearing and gives one row per thing and step: `hour` is when
it begins, in hours since the start, and `time` is that on the market's clock, if it has one. Units
are in the column names, which are those of the files that `save` writes; prosumers, devices,
buses and lines are told by name where the market has names, else by index. A batch and its clearing
(`clear_many`) give the same columns behind `scenario` and `status`, with NaN for infeasible
scenarios; of one market that is infeasible there is no table: `ValueError`. What stopped at
`max_steps` is given as it stands. `jaxgne.families` says what the columns are; the same as arrays
are `clearing.to_xarray(market)`.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from . import families
from .arguments import of_tables
from .clock import hours_of
from .comparison import Comparison
from .families import Column, Family, Told
from .front import Front
from .market import Market
from .result import Clearing
from .tight import spots
from .tracking import Tracking

if TYPE_CHECKING:
    from pandas import DataFrame


@of_tables
def prosumers(market: Market, clearing: Clearing) -> "DataFrame":
    """What each prosumer does, and what energy is worth to it.

    load + curtailed - generation + charge - discharge = net = imports - exports + bought.
    `energy_price_eur_per_kwh` is pi_i + mu_pb of the bus (model.md: Prices).
    """
    return _frame(families.PROSUMERS, _told(market, clearing))


@of_tables
def generators(market: Market, clearing: Clearing) -> "DataFrame":
    """What each generator of a prosumer (`owner`) makes, between its bounds."""
    return _frame(families.GENERATORS, _told(market, clearing))


@of_tables
def buffers(market: Market, clearing: Clearing) -> "DataFrame":
    """What each buffer of a prosumer (`owner`) does; its content is that at the hour's end."""
    return _frame(families.BUFFERS, _told(market, clearing))


@of_tables
def trades(market: Market, clearing: Clearing) -> "DataFrame":
    """What the buyer of each pair buys from its seller (negative the other way), at which price.

    `price_eur_per_kwh` is mu_tr. Cash changes hands at `settled_eur_per_kwh`, which is the same
    where the pair has no fees, and makes `paid_eur`, from buyer to seller; both pay the network
    `toll_eur_per_kwh`, and `network_eur_per_kwh` is what it asks more at the buyer's bus.
    """
    return _frame(families.TRADES, _told(market, clearing))


@of_tables
def buses(market: Market, clearing: Clearing) -> "DataFrame":
    """What each bus draws, its voltage, and the price of active energy there.

    `voltage_pu` is the grid model's, NaN where that does not determine it (`paper` without a
    reactive balance), `ac_voltage_pu` that of an AC power flow (`ac_power_flow`), NaN where that
    does not converge; copperplate has neither. The price is what passive consumers
    pay; `price_parts` says what it is made of.
    """
    return _frame(families.BUSES, _told(market, clearing))


@of_tables
def lines(market: Market, clearing: Clearing, kv: Any = None) -> "DataFrame":
    """What each line carries from source to target, by the grid model and by an AC power flow.

    Loading is the share of the rating in use, NaN where that is 0; by the AC power flow that is the
    current's. Reactive power and loading are NaN where the grid model does not determine them
    (`paper` without a reactive balance; active power too if lines close loops), `ac_` columns in
    hours in which the AC power flow does not converge. With the nominal voltage `kv` (line to line,
    one number or one a line), which a grid does not hold, also in ampere: `rating_a` and
    `ac_current_a`. `ValueError` for a copperplate market, which has no lines.
    """
    told = _told(market, clearing)
    _present(families.LINES, told)
    return _frame(families.LINES, told, () if kv is None else families.in_ampere(kv))


@of_tables
def hot_spots(market: Market, clearing: Clearing, top: int = 10) -> "DataFrame":
    """The `top` fullest lines and outermost voltages by an AC power flow, each at its worst.

    `spots` of `jaxgne.tight` defines the columns; `hour` is that of the worst step. Of one market.
    """
    columns = spots(market, clearing.plan, top)
    _told(market, clearing)
    steps = np.array(columns["step"], int)
    when: dict[str, Any] = {"hour": hours_of(market)[steps]}
    if market.clock is not None:
        when["time"] = market.clock.moments(when["hour"].tolist())
    return _pandas().DataFrame(columns | when)


@of_tables
def hours(market: Market, clearing: Clearing) -> "DataFrame":
    """Totals and shared prices by hour, and what main grid and operator receive.

    `transformer_kw` is what flows in, net of exports; below 0 it flows out.
    `limit_price_eur_per_kwh` is lambda, of the limit on the total exchange; `losses_eur` is what
    the operator pays of the `sales_eur`, about an AC state; `rent_eur` is what its limits and
    tariff are worth: at an equilibrium its receipts less the losses.
    """
    return _frame(families.HOURS, _told(market, clearing))


@of_tables
def caps(market: Market, clearing: Clearing) -> "DataFrame":
    """The level of each cap between its bounds, in the cap's `unit`, and what a unit more costs.

    `rise` is the level's change, `spare` the part of it that no member makes. `price_eur` is what a
    unit counted costs, `level_price_eur` what a unit of level does. No rows where there are none.
    """
    return _frame(families.CAPS, _told(market, clearing))


@of_tables
def zones(market: Market, clearing: Clearing) -> "DataFrame":
    """What each price zone buys of the main grid, kW, and at which price; one row a zone and step.

    No rows where the market has no table of zones.
    """
    return _frame(families.ZONES, _told(market, clearing))


@of_tables
def bills(market: Market, clearing: Clearing) -> "DataFrame":
    """What everyone pays and for what (`settle`), EUR; negative where they are paid.

    `payer` is "prosumer", or "passive" for the passive consumers at a bus, who have no number
    in `prosumer`. `total_eur` over all payers, and `passive_caps_eur` and `losses_eur` of `hours`,
    is what main grid, operator, whoever asks a price of caps (`levies_eur`) and whoever asks what
    contracts add (`fees_eur`) receive there.
    """
    return _bills(_told(market, clearing))


@of_tables
def price_parts(market: Market, clearing: Clearing) -> "DataFrame":
    """What energy costs at each bus and why: the total is the sum of its five parts.

    The main grid's price, the limit on the total exchange, full lines, voltages at their limits,
    losses about an AC state.
    `ValueError` for a grid that is not radial: with loops there is no one path from the feeder.
    """
    told = _told(market, clearing)
    _present(families.PRICE_PARTS, told)
    return _frame(families.PRICE_PARTS, told)


def comparison(compared: Comparison) -> "DataFrame":
    """What `compare` found (`compared`), a row per `market`; NaN where a number is not defined."""
    table = _pandas().DataFrame.from_dict(compared.rows, orient="index").astype(float)
    return table.rename_axis("market").reset_index()


def front(found: Front) -> "DataFrame":
    """What `pareto` `found`, one row a point: both objectives, and each number that was tuned.

    `rate` is what one unit less of the second costs in units of the first, `residual` how far from
    a Pareto point it is (`Front`).
    """
    return _pandas().DataFrame(found.table()).rename_axis("point").reset_index()


def tracking(found: Tracking) -> "DataFrame":
    """How near a solver stayed to a moving equilibrium, as `track` `found`: one row an instant."""
    return _pandas().DataFrame(found.table())


@of_tables
def tables(market: Market, clearing: Clearing) -> "dict[str, DataFrame]":
    """All of them that a market has, by name; `hot_spots`, `comparison` and `front` are others.

    Beside these `gains`, what each prosumer could gain by deviating at most, and `clearing`, the
    numbers of the certificate: a row for each scenario.
    """
    told = _told(market, clearing)
    return {
        family.name: _bills(told) if family is families.BILLS else _frame(family, told)
        for family in families.FAMILIES
        if family is not families.PASSIVE_BILLS and family.lacks(told) is None
    }


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as missing:
        raise ImportError(
            'jaxgne.frames needs pandas: install the extra "tables" (pip install "jaxgne[tables]").'
        ) from missing
    return pandas


def _told(market: Market, clearing: Clearing) -> Told:
    return Told("frames", market, clearing)


def _present(family: Family, told: Told) -> None:
    reason = family.lacks(told)
    if reason is not None:
        raise ValueError(f"frames.{family.name}: {reason}")


def _bills(told: Told) -> "DataFrame":
    """What prosumers pay, then passive consumers."""
    own, passive = families.BILLS, families.PASSIVE_BILLS
    theirs = {column.name: column for column in passive.columns}
    paid = [theirs.get(column.name, _nothing(column)) for column in own.columns[1:]]
    numbered = _frame(own._replace(columns=(_payer("prosumer"), *own.columns)), told)
    if not told.market.prosumers.names:
        numbered = numbered.astype({"prosumer": "Int64"})
    both = [numbered, _frame(passive._replace(columns=(_payer("passive"), *paid)), told)]
    return _pandas().concat(both, ignore_index=True)


def _payer(word: str) -> Column:
    return Column("payer", None, "who pays", lambda told: np.array([word]), hourly=False)


def _nothing(column: Column) -> Column:
    """What passive consumers do not pay."""
    return column._replace(of=lambda told: np.zeros((1, 1)))


def _frame(family: Family, told: Told, more: tuple[Column, ...] = ()) -> "DataFrame":
    """A family's columns, and `more`, in long form behind their keys."""
    columns = (*family.columns, *more)
    axes = ["scenario"] * told.batch + [family.row] * bool(family.row)
    axes += ["step"] * any(column.hourly for column in columns)
    shape = tuple(told.sizes[axis] for axis in axes)
    found = _keys(told, axes)
    for column in columns:
        array = np.asarray(column.of(told))
        timed = column.hourly or "step" not in axes
        array = array if timed else array[..., None]
        if told.batch and array.dtype.kind == "f":
            array = np.where(_lead(told.known, axes), array, np.nan)
        found[column.column] = array
    for name, known in told.names.items():
        if name in found:
            found[name] = known[found[name]]
    flat = {name: np.broadcast_to(array, shape).ravel() for name, array in found.items()}
    clock = told.market.clock
    if "time" in flat and clock is not None:
        times = _pandas().DatetimeIndex(flat["time"].astype("datetime64[s]"), tz="UTC")
        flat["time"] = times.tz_convert(clock.tz)
    return _pandas().DataFrame(flat)


def _keys(told: Told, axes: list[str]) -> dict[str, np.ndarray]:
    """What tells the rows of a table from one another, of shapes that broadcast to its axes."""
    sizes = [told.sizes[axis] for axis in axes]
    own = dict(zip(axes, np.indices(sizes, sparse=True), strict=True)) if axes else {}
    found = {} if axes else {"status": told.status}
    if told.batch:
        found = {"scenario": own["scenario"], "status": _lead(told.status, axes)}
    found |= {axis: own[axis] for axis in axes if axis not in ("scenario", "step")}
    if "step" in axes:
        between = len(axes) - 1 - told.batch  # axes of rows, of which there are none in totals
        found |= {"step": own["step"]} if told.market.before is not None else {}
        found["hour"] = _inside(told.hours, between)
        if told.market.clock is not None:
            found["time"] = _inside(told.seconds, between)
    return found


def _lead(values: Any, axes: list[str]) -> np.ndarray:
    """One value a scenario."""
    return np.reshape(values, (-1, *[1] * (len(axes) - 1)))


def _inside(values: Any, rows: int) -> np.ndarray:
    """One value a step, for all rows."""
    array = np.asarray(values)
    return np.reshape(array, (*array.shape[:-1], *[1] * rows, array.shape[-1]))
