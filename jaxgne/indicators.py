"""What a clearing says, as plain numbers: one dictionary that JSON can hold."""

from typing import Any

import numpy as np

from .arguments import of_tables
from .clock import hours_of
from .comparison import Outcome, measured
from .each import for_one
from .market import Market, bus_name
from .model import aggregate, counted, energy_prices, has_state, mean_price, net_load, voltages
from .names import unphased
from .reasons import why_infeasible
from .result import Clearing
from .runner import hosted
from .scales import price_sizes
from .status import status_message, status_name

AT_LIMIT = 1e-3  # share of a line's rating, and of the load, within which a limit binds
VOLTAGE_AT_LIMIT = 1e-4  # pu
_AT_PRICE = 1e-4  # share of what a unit of a cap costs at the market's price, above which it binds
BATCH = (
    "use jaxgne.batch_report.batch_summary(markets, clearings), or jg.scenarios.lane(markets, k)"
)


@of_tables
@for_one(BATCH)
@hosted
def summary(market: Market, clearing: Clearing) -> dict[str, Any]:
    """What a clearing says, as plain Python numbers that JSON can hold (None where undefined).

    Keys carry their units; `docs/indicators.md` defines them. Prices of an infeasible market are
    the proof of that, no prices: they are None, and so are bills. Voltages and lines are None where
    the grid model does not determine them (`paper` without a reactive balance): see `ac`.
    """
    meant = measured(market, clearing)
    fine = status_name(clearing.status) != "infeasible"
    found = clearing.certificate.residuals
    return {
        "status": status_name(clearing.status),
        "message": _message(market, clearing),
        "steps": int(clearing.steps),
        "prosumers": len(meant.cost),
        "hours": _total(market, np.ones(market.prosumers.load.shape[1])),
        "hour_length_h": _lengths(market),
        **_start(market),
        "grid_model": market.grid.model.name,
        "certificate": {
            "relative_kkt_error": _number(found.error),
            "infeasibility": _number(found.infeasibility),
            "regret": _number(found.regret),
            "dual": _number(found.dual),
            "sentences": clearing.certificate.sentences(),
        },
        "bill_eur": _spread(meant.bill if fine else None),
        "cost_eur": _spread(meant.cost if fine else None),
        "objective_eur": _spread(clearing.costs),
        "operator": {
            "receipts_eur": _number(meant.operator) if fine else None,
            "network_fees_eur": _number(meant.network_fees) if fine else None,
            "contract_fees_eur": _number(meant.contract_fees) if fine else None,
        },
        "energy_kwh": _energies(market, clearing),
        "stored_kwh": _number(meant.stored),
        "transformer": _transformer(market, clearing, meant),
        **_exchange(market, clearing),
        "caps": _caps(market, clearing),
        "voltage": _voltage(market, clearing),
        "lines": _lines(market, clearing),
        "ac": _ac(market, clearing),
        "by_hour": _by_hour(market, clearing),
    }


def _spread(values: Any) -> dict[str, float | None]:
    """Total, mean and range over prosumers; None without values."""
    each = np.asarray([] if values is None else values, float)
    if not each.size:
        return dict.fromkeys(("total", "mean", "min", "max"))
    made = {"total": each.sum(), "mean": each.mean(), "min": each.min(), "max": each.max()}
    return {name: _number(value) for name, value in made.items()}


def _transformer(market: Market, clearing: Clearing, meant: Outcome) -> dict[str, Any]:
    """Energy and peaks from and to the main grid, net by hour, and what share of all that is."""
    net = np.asarray(clearing.aggregate, float) - np.asarray(clearing.plan.exports).sum(axis=0)
    some, made = bool(meant.consumed > 0), bool(meant.made > 0)
    return {
        "in_kwh": _number(meant.transformer_in),
        "out_kwh": _number(meant.transformer_out),
        "peak_in": {"kw": _number(meant.peak_in)} | _when(market, int(net.argmax())),
        "peak_out": {"kw": _number(meant.peak_out)} | _when(market, int(net.argmin())),
        "physical_self_sufficiency": _number(meant.self_sufficiency) if some else None,
        "physical_self_consumption": _number(meant.self_consumption) if made else None,
    }


def _number(value: Any) -> float | None:
    number = float(value)
    return number if np.isfinite(number) else None


def _start(market: Market) -> dict[str, Any]:
    clock = market.clock
    return {} if clock is None else {"start": clock.iso(), "zone": clock.zone}


def _when(market: Market, step: int) -> dict[str, Any]:
    """When a step begins: hours since the start, and the local time where there is a clock.

    In a tree also which step it is, as those of several branches begin at once.
    """
    return _whens(market)[step]


def _whens(market: Market) -> list[dict[str, Any]]:
    """That of each step."""
    hours = hours_of(market).tolist()
    found: list[dict[str, Any]] = [{"hour": hour} for hour in hours]
    if market.clock is not None:
        moments = market.clock.moments(hours)
        found = [at | {"time": m.isoformat()} for at, m in zip(found, moments, strict=True)]
    if market.before is None:
        return found
    return [at | {"step": step} for step, at in enumerate(found)]


def _total(market: Market, steps: np.ndarray) -> float:
    """Hours that so many steps count, the last axis being steps; whole where they are."""
    hours = round(float(np.sum(steps * np.asarray(counted(market), float))), 6)
    return int(hours) if hours == int(hours) else hours


def _lengths(market: Market) -> float | list[float]:
    """The length of all steps, or of each where they differ."""
    each = np.asarray(market.hour_length, float)
    return each.tolist() if np.any(each != each[0]) else float(each[0])


def _message(market: Market, clearing: Clearing) -> str:
    if status_name(clearing.status) == "infeasible":
        return why_infeasible(market, clearing.prices)
    return "" if bool(clearing.ok) else status_message(clearing.status)


def _energies(market: Market, clearing: Clearing) -> dict[str, float | None]:
    plan, ts = clearing.plan, np.asarray(counted(market))
    powers = {
        "imported": plan.imports,
        "exported": plan.exports,
        "traded": abs(plan.trades),
        "generated": plan.generation,
        "curtailed": plan.curtailed,
        "charged": plan.charge,
        "discharged": plan.discharge,
        "passive": market.grid.passive,
    }
    return {name: _number((ts * np.asarray(power, float)).sum()) for name, power in powers.items()}


def _exchange(market: Market, clearing: Clearing) -> dict[str, Any]:
    """Peak of the contracted import, and where the limit on the total exchange binds."""
    sigma = np.asarray(aggregate(market, clearing.plan), float)
    s = sigma - np.asarray(clearing.plan.exports, float).sum(axis=0)
    near = AT_LIMIT * float(clearing.certificate.scales.total)
    low, high = (np.asarray(a) for a in (market.tariff.total_min, market.tariff.total_max))
    peak, binds = int(sigma.argmax()), (s >= high - near) | (s <= low + near)
    return {
        "contracted_peak": {"kw": _number(sigma[peak])} | _when(market, peak),
        "aggregate_limit_hours": hours_of(market)[binds].tolist(),
        "aggregate_limit_steps": np.flatnonzero(binds).tolist(),
        "hours_at_aggregate_limit": _total(market, binds),
    }


def _caps(market: Market, clearing: Clearing) -> list[dict[str, Any]]:
    """Each cap by name: its highest level, the limit then, and what a unit counted costs at most.

    `binding_hours` begin the steps in which it has a price; None is the price where there is no
    plan.
    """
    caps, level, price = market.caps, clearing.plan.level, clearing.prices.cap
    if level is None or price is None:
        return []
    fine = status_name(clearing.status) != "infeasible"
    much = _AT_PRICE * np.asarray(price_sizes(market, clearing.certificate.scales).cap)
    found = []
    for k, (name, unit) in enumerate(zip(caps.names, caps.units, strict=True)):
        at, own = np.asarray(level[k], float), np.asarray(price[k], float)
        high, dear = int(at.argmax()), int(np.abs(own).argmax())
        binds = (np.abs(own) > much[k]) & fine
        found.append({
            "name": name,
            "unit": unit,
            "highest_level": {"level": _number(at[high])} | _when(market, high),
            "level_max": _number(np.asarray(caps.level_max[k], float)[high]),
            "price_eur_per_unit": _number(own[dear]) if fine else None,
            "binding_hours": hours_of(market)[binds].tolist(),
            "hours_with_a_price": _total(market, binds),
        })  # fmt: skip
    return found


def _voltage(market: Market, clearing: Clearing) -> dict[str, Any] | None:
    """Lowest and highest voltage with their places; None where the model determines none."""
    grid = market.grid
    if not has_state(market):
        return None
    volts = np.asarray(voltages(market, clearing.plan), float)
    low, high = (np.asarray(a)[:, None] for a in (grid.voltage_min, grid.voltage_max))
    near = (volts <= low + VOLTAGE_AT_LIMIT) | (volts >= high - VOLTAGE_AT_LIMIT)
    near[np.asarray(grid.feeder)] = False

    def place(flat: np.intp) -> dict[str, Any]:
        bus, hour = divmod(int(flat), volts.shape[1])
        name, volt = bus_name(market.grid, bus), _number(volts[bus, hour])
        return {"pu": volt, "bus": name} | _when(market, hour)

    return {
        "lowest": place(volts.argmin()),
        "highest": place(volts.argmax()),
        "bus_hours_at_limit": _total(market, near),
        "bus_hours": _total(market, np.ones(near.shape)),
    }


def _lines(market: Market, clearing: Clearing) -> dict[str, Any] | None:
    """How full lines are; None where none has a rating, or the model does not determine it."""
    grid, plan = market.grid, clearing.plan
    rated = np.flatnonzero(np.isfinite(grid.rating))
    if not has_state(market) or not rated.size:
        return None
    flow = np.hypot(np.asarray(plan.active, float), np.asarray(plan.reactive, float))[rated]
    rating = np.asarray(grid.rating, float)[rated, None]
    loading = np.divide(flow, rating, out=np.ones_like(flow), where=rating > 0)
    row, hour = divmod(int(loading.argmax()), loading.shape[1])
    line = int(rated[row])
    return {
        "highest_loading": _number(loading[row, hour]),
        "line": line,
        "ends": _ends(market, line),
        **_when(market, hour),
        "line_hours_at_limit": _total(market, loading >= 1 - AT_LIMIT),
        "line_hours": _total(market, np.ones(loading.shape)),
    }


def _ac(market: Market, clearing: Clearing) -> dict[str, Any] | None:
    """What an AC power flow finds (of the balanced equivalent, or in three phases); None without.

    `safe` is None where the grid is one whose AC state is not examined.
    """
    found, steps = clearing.certificate.ac, market.prosumers.load.shape[1]
    if found is None or clearing.certificate.hours != steps:  # of the tree that this is a path of
        return None
    if found.answer is None:
        return {"safe": None, "examined": False}

    def at(flat: Any) -> tuple[int, dict[str, Any]]:
        row, hour = divmod(int(flat), steps)
        return row, _when(market, hour)

    def bus(pu: Any, flat: Any) -> dict[str, Any]:
        row, hour = at(flat)
        return {"pu": _number(pu), "bus": bus_name(market.grid, row)} | hour

    def line(flat: Any) -> dict[str, Any]:
        row, hour = at(flat)
        return {"line": row, "ends": _ends(market, row)} | hour

    def all_of(told: dict[str, Any]) -> dict[str, Any]:
        """Of what is of all phases, the names without one."""
        return told | {"ends": [unphased(name) for name in told["ends"]]} if most else told

    most, unequal = found.unbalance, {}
    if most is not None:
        row, hour = at(most.factor_place)
        where = {"bus": unphased(bus_name(market.grid, row))} | hour
        unequal = {"largest_unbalance": {"factor": _number(most.factor)} | where}
        if bool(most.returns):
            back = {"kva": _number(most.neutral)} | all_of(line(most.neutral_place))
            unequal["largest_neutral"] = back
    return {
        "safe": found.answer,
        "examined": True,
        "converged": bool(found.converged),
        "lowest": bus(found.lowest, found.lowest_place),
        "highest": bus(found.highest, found.highest_place),
        "farthest_outside_limits": bus(found.excess, found.excess_place),
        "highest_loading": {"share": _number(found.loading)} | line(found.loading_place),
        "line_hours_over_80_percent": _number(found.tight),
        "bus_hours_outside_limits": _number(found.outside),
        "losses_kwh": _number(found.losses),
        "largest_loss": {"kw": _number(found.loss)} | all_of(line(found.loss_place)),
        "residual_pu": _number(found.residual),
        **unequal,
    }


def _ends(market: Market, line: int) -> list[str]:
    if not market.grid.source.shape[0]:
        return []
    ends = (market.grid.source[line], market.grid.target[line])
    return [bus_name(market.grid, int(end)) for end in ends]


def _by_hour(market: Market, clearing: Clearing) -> list[dict[str, Any]]:
    """Prices and quantities of each hour; the mean price weighs prosumers by net load."""
    plan = clearing.plan
    sigma = aggregate(market, plan)
    price = np.asarray(energy_prices(market, clearing.prices), float)
    if status_name(clearing.status) == "infeasible":
        price = np.full_like(price, np.nan)
    weight = np.abs(np.asarray(net_load(market, plan), float))
    weight = np.where(weight.sum(axis=0) > 0, weight, 1.0)
    volts = np.asarray(voltages(market, plan), float)
    networked = has_state(market) and volts.size
    columns = {
        "contracted_import_kw": sigma,
        "transformer_kw": np.asarray(sigma) - np.asarray(plan.exports).sum(axis=0),
        "grid_price_eur_per_kwh": mean_price(market, plan),
        "energy_price_mean_eur_per_kwh": (weight * price).sum(axis=0) / weight.sum(axis=0),
        "energy_price_min_eur_per_kwh": price.min(axis=0),
        "energy_price_max_eur_per_kwh": price.max(axis=0),
        "traded_kw": np.abs(plan.trades).sum(axis=0),
        "lowest_voltage_pu": volts.min(axis=0) if networked else np.full(len(sigma), np.nan),
    }
    lists = {name: [_number(value) for value in column] for name, column in columns.items()}
    return [
        when | {name: values[step] for name, values in lists.items()}
        for step, when in enumerate(_whens(market))
    ]
