"""Tidy pandas tables of a cleared market; pandas is imported when one is made.

Each function takes a market and its clearing and gives one row per thing and step: `hour` is when
it begins, in hours since the start, and `time` is that on the market's clock, if it has one. Units
are in the column names, which are those of the files that `save` writes; prosumers, devices,
buses and lines are told by name where the market has names, else by index. A batch and its clearing
(`clear_many`) give the same columns behind `scenario` and `status`, with NaN for infeasible
scenarios; of one market that is infeasible there is no table: `ValueError`. What stopped at
`max_steps` is given as it stands.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Bool

from . import settlement
from .acflow import Flow, drawn, flow
from .clock import hours_of
from .comparison import Comparison
from .grids import ampere
from .kinds import KINDS
from .market import Market
from .model import (
    Plan,
    bought,
    by_owner,
    energy_prices,
    grid_price,
    has_state,
    net_load,
    trade_prices,
    voltages,
)
from .names import by_column
from .programs import program
from .radial import forest, loops
from .result import Clearing
from .runner import hosted
from .status import STATUSES, Status, is_status, status_name
from .tables import device_buses
from .tight import spots

if TYPE_CHECKING:
    from pandas import DataFrame


def prosumers(market: Market, clearing: Clearing) -> "DataFrame":
    """What each prosumer does, and what energy is worth to it.

    load + curtailed - generation + charge - discharge = net = imports - exports + bought.
    `energy_price_eur_per_kwh` is pi_i + mu_pb of the bus (model.md: Prices).
    """
    _check(market, clearing)
    plan, prices, table = clearing.plan, clearing.prices, market.prosumers
    units, stores = market.generators.owner, market.buffers.owner
    columns = {
        "bus": _by_row(table.bus),
        "load_kw": table.load,
        "imports_kw": plan.imports,
        "exports_kw": plan.exports,
        "curtailed_kw": plan.curtailed,
        "generation_kw": _each(by_owner, market, plan.generation, units),
        "charge_kw": _each(by_owner, market, plan.charge, stores),
        "discharge_kw": _each(by_owner, market, plan.discharge, stores),
        "bought_kw": _each(bought, market, plan.trades),
        "net_kw": _each(net_load, market, plan),
        "own_energy_value_eur_per_kwh": prices.balance,
        "energy_price_eur_per_kwh": _each(energy_prices, market, prices),
    }
    return _frame("prosumer", columns, market, clearing)


def generators(market: Market, clearing: Clearing) -> "DataFrame":
    """What each generator of a prosumer (`owner`) makes, between its bounds."""
    _check(market, clearing)
    units = market.generators
    columns = {
        "owner": _by_row(units.owner),
        "bus": _by_row(_each(device_buses, market)[0]),
        "kind": _by_row(_kind("generator", units.kind)),
        "generation_kw": clearing.plan.generation,
        "power_min_kw": units.power_min,
        "power_max_kw": units.power_max,
    }
    return _frame("generator", columns, market, clearing)


def buffers(market: Market, clearing: Clearing) -> "DataFrame":
    """What each buffer of a prosumer (`owner`) does; its content is that at the hour's end."""
    _check(market, clearing)
    plan, stores = clearing.plan, market.buffers
    columns = {
        "owner": _by_row(stores.owner),
        "bus": _by_row(_each(device_buses, market)[1]),
        "kind": _by_row(_kind("buffer", stores.kind)),
        "charge_kw": plan.charge,
        "discharge_kw": plan.discharge,
        "energy_kwh": plan.energy,
        "energy_min_kwh": stores.energy_min,
        "energy_max_kwh": stores.energy_max,
        "content_value_eur_per_kwh": clearing.prices.energy,
    }
    return _frame("buffer", columns, market, clearing)


def trades(market: Market, clearing: Clearing) -> "DataFrame":
    """What the buyer of each pair buys from its seller (negative the other way), at which price.

    `price_eur_per_kwh` is mu_tr. Cash changes hands at `settled_eur_per_kwh`, which is the same
    where the pair has no fees, and makes `paid_eur`, from buyer to seller; both pay the network
    `toll_eur_per_kwh`, and `network_eur_per_kwh` is what it asks more at the buyer's bus.
    """
    _check(market, clearing)
    pairs, prices = market.trading, clearing.prices
    columns = {
        "buyer": _by_row(pairs.buyer),
        "seller": _by_row(pairs.seller),
        "trade_kw": clearing.plan.trades,
        "price_eur_per_kwh": _each(trade_prices, market, prices),
        "settled_eur_per_kwh": _each(settlement.settled_prices, market, prices),
        "toll_eur_per_kwh": pairs.toll,
        "network_eur_per_kwh": _each(settlement.network_prices, market, prices),
        "paid_eur": _each(settlement.settle, market, clearing).trades,
    }
    return _frame("pair", columns, market, clearing)


def buses(market: Market, clearing: Clearing) -> "DataFrame":
    """What each bus draws, its voltage, and the price of active energy there.

    `voltage_pu` is the grid model's, NaN where that does not determine it (`paper` without a
    reactive balance), `ac_voltage_pu` that of an AC power flow (`ac_power_flow`), NaN where that
    does not converge; copperplate has neither. The price is what passive consumers
    pay; `price_parts` says what it is made of.
    """
    _check(market, clearing)
    plan, grid = clearing.plan, market.grid
    prices = jax.tree.map(np.asarray, clearing.prices)
    active, reactive = _each(drawn, market, plan)
    shared = _each(grid_price, market, clearing.aggregate) + prices.aggregate + prices.exchange
    nothing = np.full(np.shape(grid.passive), np.nan)
    networked = grid.model.networked
    columns = {
        "passive_kw": grid.passive,
        "passive_reactive_kvar": grid.passive_reactive,
        "drawn_kw": active,
        "compensation_kvar": plan.compensation,
        "drawn_kvar": reactive,
        "voltage_pu": _each(voltages, market, plan) if has_state(market) else nothing,
        "ac_voltage_pu": _ac(market, clearing)["voltage"] if networked else nothing,
        "energy_price_eur_per_kwh": _by_hour(shared) + prices.bus,
    }
    return _frame("bus", columns, market, clearing)


def lines(market: Market, clearing: Clearing, kv: Any = None) -> "DataFrame":
    """What each line carries from source to target, by the grid model and by an AC power flow.

    Loading is the share of the rating in use, NaN where that is 0; by the AC power flow that is the
    current's. Reactive power and loading are NaN where the grid model does not determine them
    (`paper` without a reactive balance; active power too if lines close loops), `ac_` columns in
    hours in which the AC power flow does not converge. With the nominal voltage `kv` (line to line,
    one number or one a line), which a grid does not hold, also in ampere: `rating_a` and
    `ac_current_a`. `ValueError` for a copperplate market, which has no lines.
    """
    _check(market, clearing)
    plan, grid = clearing.plan, market.grid
    if not grid.model.networked:
        raise ValueError("frames.lines: a copperplate market has no lines.")
    found, rating = _ac(market, clearing), _by_row(grid.rating)

    def loading(apparent: np.ndarray) -> np.ndarray:
        undefined = np.full_like(apparent, np.nan)
        return np.divide(100 * apparent, rating, out=undefined, where=rating > 0)

    nothing = np.full(np.shape(plan.reactive), np.nan)
    reactive = plan.reactive if has_state(market) else nothing
    active = plan.active if has_state(market) or not loops(grid) else nothing
    columns = {
        "source": _by_row(grid.source),
        "target": _by_row(grid.target),
        "rating_kva": rating,
        "active_kw": active,
        "reactive_kvar": reactive,
        "loading_percent": loading(np.hypot(plan.active, reactive)),
        "ac_loading_percent": loading(found["current"]),
        "ac_losses_kw": found["losses"],
    }
    if kv is not None:
        volts = _by_row(np.asarray(kv) + np.zeros(np.shape(grid.rating)))
        volts = volts / 3 if grid.model.phased else volts  # kVA are a third of those of all phases
        columns["rating_a"] = ampere(rating, volts)
        columns["ac_current_a"] = ampere(found["current"], volts)
    return _frame("line", columns, market, clearing)


def hot_spots(market: Market, clearing: Clearing, top: int = 10) -> "DataFrame":
    """The `top` fullest lines and outermost voltages by an AC power flow, each at its worst.

    `spots` of `jaxgne.tight` defines the columns; `hour` is that of the worst step. Of one market.
    """
    columns = spots(market, clearing.plan, top)
    _check(market, clearing)
    steps = np.array(columns["step"], int)
    when: dict[str, Any] = {"hour": hours_of(market)[steps]}
    if market.clock is not None:
        when["time"] = market.clock.moments(when["hour"].tolist())
    return _pandas().DataFrame(columns | when)


def hours(market: Market, clearing: Clearing) -> "DataFrame":
    """Totals and shared prices by hour, and what main grid and operator receive.

    `transformer_kw` is what flows in, net of exports; below 0 it flows out.
    `limit_price_eur_per_kwh` is lambda, of the limit on the total exchange; `losses_eur` is what
    the operator pays of the `sales_eur`, about an AC state; `rent_eur` is what its limits and
    tariff are worth: at an equilibrium its receipts less the losses.
    """
    _check(market, clearing)
    plan, prices = jax.tree.map(np.asarray, (clearing.plan, clearing.prices))
    sigma, paid = np.asarray(clearing.aggregate), _each(settlement.settle, market, clearing)
    columns = {
        "contracted_import_kw": sigma,
        "transformer_kw": sigma - plan.exports.sum(axis=-2),
        "exports_kw": plan.exports.sum(axis=-2),
        "passive_kw": np.asarray(market.grid.passive).sum(axis=-2),
        "traded_kw": np.abs(plan.trades).sum(axis=-2),
        "grid_price_eur_per_kwh": _each(grid_price, market, clearing.aggregate),
        "limit_price_eur_per_kwh": prices.aggregate,
        "exchange_price_eur_per_kwh": prices.exchange,
        "sales_eur": paid.sales,
        "losses_eur": paid.losses,
        "receipts_eur": paid.receipts,
        "rent_eur": paid.rent,
        "passive_caps_eur": paid.passive_caps,
        "levies_eur": paid.levies,
        "fees_eur": paid.fees,
    }
    columns = {name: _by_hour(column) for name, column in columns.items()}
    return _frame(None, columns, market, clearing)


def caps(market: Market, clearing: Clearing) -> "DataFrame":
    """The level of each cap between its bounds, in the cap's `unit`, and what a unit more costs.

    `rise` is the level's change, `spare` the part of it that no member makes. `price_eur` is what a
    unit counted costs, `level_price_eur` what a unit of level does. No rows where there are none.
    """
    _check(market, clearing)
    table, plan, prices = market.caps, clearing.plan, clearing.prices
    shape = np.shape(table.level_max)
    found = {"level": plan.level, "rise": plan.rise, "spare": plan.spare}
    found |= {"price_eur": prices.cap, "level_price_eur": prices.level}
    columns = {
        "name": np.array(table.names, str)[:, None],
        "unit": np.array(table.units, str)[:, None],
        "level_min": table.level_min,
        "level_max": table.level_max,
        **{name: np.zeros(shape) if a is None else a for name, a in found.items()},
    }
    return _frame("cap", columns, market, clearing)


def bills(market: Market, clearing: Clearing) -> "DataFrame":
    """What everyone pays and for what (`settle`), EUR; negative where they are paid.

    `payer` is "prosumer", or "passive" for the passive consumers at a bus, who have no number
    in `prosumer`. `total_eur` over all payers, and `passive_caps_eur` and `losses_eur` of `hours`,
    is what main grid, operator, whoever asks a price of caps (`levies_eur`) and whoever asks what
    contracts add (`fees_eur`) receive there.
    """
    _check(market, clearing)
    paid = _each(settlement.settle, market, clearing)
    nothing = np.zeros(np.shape(paid.passive))
    own = {
        "payer": np.full((1, 1), "prosumer"),
        "bus": _by_row(market.prosumers.bus),
        "main_grid_eur": paid.main_grid,
        "adders_eur": paid.adders,
        "peers_eur": paid.peers,
        "tolls_eur": paid.tolls,
        "capacity_eur": paid.capacity,
        "congestion_eur": paid.congestion,
        "reactive_eur": paid.reactive,
        "caps_eur": paid.caps,
        "charges_eur": paid.charges,
        "total_eur": paid.prosumers,
    }
    passive = {
        "payer": np.full((1, 1), "passive"),
        "main_grid_eur": paid.passive_main_grid,
        "adders_eur": nothing,
        "peers_eur": nothing,
        "tolls_eur": nothing,
        "capacity_eur": paid.passive_capacity,
        "congestion_eur": paid.passive_congestion,
        "reactive_eur": paid.passive_reactive,
        "caps_eur": nothing,
        "charges_eur": nothing,
        "total_eur": paid.passive,
    }
    numbered = _frame("prosumer", own, market, clearing)
    if not market.prosumers.names:
        numbered = numbered.astype({"prosumer": "Int64"})
    both = [numbered, _frame("bus", passive, market, clearing)]
    return _pandas().concat(both, ignore_index=True)


def price_parts(market: Market, clearing: Clearing) -> "DataFrame":
    """What energy costs at each bus and why: the total is the sum of its five parts.

    The main grid's price, the limit on the total exchange, full lines, voltages at their limits,
    losses about an AC state.
    `ValueError` for a grid that is not radial: with loops there is no one path from the feeder.
    """
    _check(market, clearing)
    grid = market.grid
    if grid.model.networked and not np.all(_each(_radial, market)):
        raise ValueError("frames.price_parts: Grid.source/target: give a radial grid.")
    parts = _each(settlement.price_parts, market, clearing)
    total = _by_hour(parts.energy) + parts.limit + parts.lines + parts.voltage + parts.losses
    columns = {
        "energy_eur_per_kwh": _by_hour(parts.energy),
        "limit_eur_per_kwh": parts.limit,
        "lines_eur_per_kwh": parts.lines,
        "voltage_eur_per_kwh": parts.voltage,
        "losses_eur_per_kwh": parts.losses,
        "total_eur_per_kwh": total,
    }
    return _frame("bus", columns, market, clearing)


def comparison(compared: Comparison) -> "DataFrame":
    """What `compare` found, one row per `market`; NaN where a number is not defined."""
    table = _pandas().DataFrame.from_dict(compared.rows, orient="index").astype(float)
    return table.rename_axis("market").reset_index()


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as missing:
        raise ImportError(
            'jaxgne.frames needs pandas: install the extra "tables" (pip install ".[tables]").'
        ) from missing
    return pandas


def _each(of: Callable[..., Any], market: Market, *more: Any) -> Any:
    """`of(market, ...)`, for each scenario where the market is a batch, which pays compiling."""
    return (_column if np.ndim(market.prosumers.load) > 2 else hosted(_column))(of, market, *more)


@program("columns of tables", once=True)
def _column(of: Callable[..., Any], market: Market, *more: Any) -> Any:
    return (jax.vmap(of) if np.ndim(market.prosumers.load) > 2 else of)(market, *more)


def _kind(one: str, numbers: Any) -> np.ndarray:
    """The words for kinds of devices."""
    return np.array(KINDS[one])[np.asarray(numbers)]


def _by_row(values: Any) -> np.ndarray:
    """One value for all hours of a row."""
    return np.asarray(values)[..., :, None]


def _by_hour(values: Any) -> np.ndarray:
    """One value for all rows of an hour."""
    return np.asarray(values)[..., None, :]


def _radial(market: Market) -> Bool[Array, ""]:
    return forest(market.grid).radial


def _flow(market: Market, plan: Plan) -> Flow:
    return flow(market.grid, *drawn(market, plan))


def _ac(market: Market, clearing: Clearing) -> dict[str, np.ndarray]:
    """What an AC power flow finds, NaN in hours in which it does not converge."""
    found = _each(_flow, market, clearing.plan)
    fine = _by_hour(found.ok)
    names = ("voltage", "current", "losses")
    return {name: np.where(fine, np.asarray(getattr(found, name)), np.nan) for name in names}


def _check(market: Market, clearing: Clearing) -> None:
    ours, theirs = np.shape(market.prosumers.load), np.shape(clearing.plan.imports)
    if ours != theirs:
        raise ValueError(
            f"frames: loads of shape {ours} but imports of shape {theirs}; pass the market, or the "
            "batch of markets, that this clearing is of."
        )
    if not np.ndim(clearing.steps) and status_name(clearing.status) == "infeasible":
        raise ValueError("frames: an infeasible market has neither plan nor prices.")


def _frame(
    row: str | None, columns: Mapping[str, Any], market: Market, clearing: Clearing
) -> "DataFrame":
    """Columns of shape (rows, hours), or that broadcast to it, in long form behind their keys."""
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    shape = np.broadcast_shapes(*(array.shape for array in arrays.values()))
    axes = list(np.indices(shape, sparse=True))
    keys = {"hour": _by_hour(hours_of(market))} | _times(market)
    if market.before is not None:
        keys = {"step": axes[-1]} | keys
    keys = keys if row is None else {row: axes[-2]} | keys
    if len(axes) == 3:
        ended = [np.asarray(is_status(clearing.status, getattr(Status, w))) for w in STATUSES]
        status = np.select(ended, STATUSES, "")[:, None, None]
        keys = {"scenario": axes[0], "status": status} | keys
        for name, array in arrays.items():
            if array.dtype.kind == "f":
                arrays[name] = np.where(status == "infeasible", np.nan, array)
    arrays = keys | arrays
    for known, columns_of in by_column(market):
        for name in columns_of & arrays.keys():
            arrays[name] = np.array(known)[arrays[name]] if known else arrays[name]
    flat = {name: np.broadcast_to(array, shape).ravel() for name, array in arrays.items()}
    if market.clock is not None:
        times = _pandas().DatetimeIndex(flat["time"].astype("datetime64[s]"), tz="UTC")
        flat["time"] = times.tz_convert(market.clock.tz)
    return _pandas().DataFrame(flat)


def _times(market: Market) -> dict[str, np.ndarray]:
    """When steps begin, seconds since 1970 in UTC, as a column `time`; none without a clock."""
    if market.clock is None:
        return {}
    begun = 60 * np.asarray(market.clock.start, np.int64)[..., None]
    return {"time": _by_hour(begun + np.rint(3600 * hours_of(market)).astype(np.int64))}
