"""A clearing for people: one dictionary of plain numbers, and the tables made of it."""

from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from .clock import hour as hour_text
from .clock import hours_of, local_text
from .comparison import Outcome, measured
from .each import for_one
from .market import Market, bus_name
from .model import aggregate, counted, energy_prices, grid_price, has_state, net_load, voltages
from .reasons import why_infeasible
from .result import Clearing
from .runner import hosted
from .scales import price_sizes
from .status import status_message, status_name

_AT_LIMIT = 1e-3  # share of a line's rating, and of the load, within which a limit binds
_VOLTAGE_AT_LIMIT = 1e-4  # pu
_TOLD = 5  # caps that are named
_AT_PRICE = 1e-4  # share of what a unit of a cap costs at the market's price, above which it binds
_BATCH = (
    "use jaxgne.batch_report.batch_summary(markets, clearings), or jg.scenarios.lane(markets, k)"
)


@for_one(_BATCH)
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
        "energy_kwh": _energies(market, clearing),
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
    """When a step begins: hours since the start, and the local time where there is a clock."""
    return _whens(market)[step]


def _whens(market: Market) -> list[dict[str, Any]]:
    """That of each step."""
    hours = hours_of(market).tolist()
    if market.clock is None:
        return [{"hour": hour} for hour in hours]
    moments = market.clock.moments(hours)
    return [{"hour": h, "time": m.isoformat()} for h, m in zip(hours, moments, strict=True)]


def _called(place: dict[str, Any], zone: str | None) -> str:
    """That in words."""
    if zone is None:
        return f"hour {hour_text(place['hour'])}"
    return local_text(place["time"], zone)


def _within(place: dict[str, Any], zone: str | None) -> str:
    """And in a sentence."""
    return f"{'in' if zone is None else 'at'} {_called(place, zone)}"


def _total(market: Market, steps: np.ndarray) -> float:
    """Hours that so many steps are, the last axis being steps; whole where they are."""
    hours = round(float(np.sum(steps * np.asarray(market.hour_length, float))), 6)
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
    near = _AT_LIMIT * float(clearing.certificate.scales.total)
    low, high = (np.asarray(a) for a in (market.tariff.total_min, market.tariff.total_max))
    peak = int(sigma.argmax())
    return {
        "contracted_peak": {"kw": _number(sigma[peak])} | _when(market, peak),
        "aggregate_limit_hours": hours_of(market)[(s >= high - near) | (s <= low + near)].tolist(),
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
    near = (volts <= low + _VOLTAGE_AT_LIMIT) | (volts >= high - _VOLTAGE_AT_LIMIT)
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
        "line_hours_at_limit": _total(market, loading >= 1 - _AT_LIMIT),
        "line_hours": _total(market, np.ones(loading.shape)),
    }


def _ac(market: Market, clearing: Clearing) -> dict[str, Any] | None:
    """What an AC power flow of the balanced equivalent finds; None without a network.

    `safe` is None where the grid is one whose AC state is not examined.
    """
    found = clearing.certificate.ac
    if found is None:
        return None
    if found.answer is None:
        return {"safe": None, "examined": False}

    def at(flat: Any) -> tuple[int, dict[str, Any]]:
        row, hour = divmod(int(flat), market.prosumers.load.shape[1])
        return row, _when(market, hour)

    def bus(pu: Any, flat: Any) -> dict[str, Any]:
        row, hour = at(flat)
        return {"pu": _number(pu), "bus": bus_name(market.grid, row)} | hour

    def line(flat: Any) -> dict[str, Any]:
        row, hour = at(flat)
        return {"line": row, "ends": _ends(market, row)} | hour

    return {
        "safe": found.answer,
        "examined": True,
        "converged": bool(found.converged),
        "lowest": bus(found.lowest, found.lowest_place),
        "highest": bus(found.highest, found.highest_place),
        "farthest_outside_limits": bus(found.excess, found.excess_place),
        "highest_loading": {"share": _number(found.loading)} | line(found.loading_place),
        "losses_kwh": _number(found.losses),
        "largest_loss": {"kw": _number(found.loss)} | line(found.loss_place),
        "residual_pu": _number(found.residual),
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
        "grid_price_eur_per_kwh": grid_price(market, sigma),
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


@for_one(_BATCH)
@hosted
def table(market: Market, clearing: Clearing) -> Group:
    """The same for the eye: status first, the certificate in words, key figures, prices by hour."""
    facts = summary(market, clearing)
    return Group(_heading(facts), Text(), _figures(facts), Text(), _hours(facts))


def _heading(facts: dict[str, Any]) -> Group:
    if facts["status"] == "cleared":
        size = f"{facts['prosumers']} prosumers, {facts['hours']} hours, {facts['grid_model']}"
        status = Text(f"Cleared after {facts['steps']} steps ({size})", style="bold green")
    else:
        words = f"NOT CLEARED ({facts['status']}) after {facts['steps']} steps. {facts['message']}"
        status = Text(words, style="bold red")
    return Group(status, *(Text(sentence) for sentence in facts["certificate"]["sentences"]))


def _shown(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _figures(facts: dict[str, Any]) -> Table:
    bill, cost, energy = facts["bill_eur"], facts["cost_eur"], facts["energy_kwh"]
    peak, physical = facts["contracted_peak"], facts["transformer"]
    zone = facts.get("zone")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    more = _shown(cost["total"], 2)
    grid.add_row(
        "Bills",
        f"{_shown(bill['total'], 2)} EUR in total; per prosumer {_shown(bill['mean'], 2)} "
        f"({_shown(bill['min'], 2)} to {_shown(bill['max'], 2)}) EUR"
        + (f"; {more} EUR with what devices cost" if more != _shown(bill["total"], 2) else ""),
    )
    amounts = [
        f"{name} {_shown(amount, 1)}"
        for name, amount in energy.items()
        if amount != 0 or name in ("imported", "traded")
    ]
    grid.add_row("Energy, kWh", ", ".join(amounts))
    when = _within(peak, zone)
    grid.add_row("Contracted", f"import up to {_shown(peak['kw'], 1)} kW {when}")
    grid.add_row("Transformer", _flows(physical, zone))
    binding = set(facts["aggregate_limit_hours"])
    if binding:
        when = [_called(at, zone) for at in facts["by_hour"] if at["hour"] in binding]
        lengths = np.broadcast_to(facts["hour_length_h"], len(facts["by_hour"]))
        hours = hour_text(lengths[[at["hour"] in binding for at in facts["by_hour"]]].sum())
        grid.add_row(
            "Total exchange",
            f"at its limit in {hours} hours ({', '.join(w.removeprefix('hour ') for w in when)})",
        )
    binding = [cap for cap in facts["caps"] if cap["binding_hours"]]
    if facts["caps"]:
        told, free = binding[:_TOLD], len(facts["caps"]) - len(binding)
        rest = ((len(binding) - len(told), "more with a price"), (free, "without a price"))
        words = [_cap(cap, facts) for cap in told]
        words += [f"{count} {kind}" for count, kind in rest if count]
        grid.add_row("Caps", "; ".join(words))
    _network(grid, facts)
    return grid


def _cap(cap: dict[str, Any], facts: dict[str, Any]) -> str:
    """A cap that binds, in words."""
    unit, high, zone = cap["unit"], cap["highest_level"], facts.get("zone")
    each = f"EUR per {unit}" if unit else "EUR a unit"
    hours = hour_text(cap["hours_with_a_price"])
    level = f"{high['level']:,.4g} {unit}".strip()
    return (
        f"{cap['name']} up to {level} {_within(high, zone)}, {hours} h with a price of up to "
        f"{_shown(cap['price_eur_per_unit'], 4)} {each}"
    )


def _flows(physical: dict[str, Any], zone: str | None) -> str:
    """What the transformer carries either way, in words."""
    ways = [
        f"{_shown(physical[f'{way}_kwh'], 1)} kWh {way}, up to {_shown(most['kw'], 1)} kW "
        f"{_within(most, zone)}"
        for way, most in (("in", physical["peak_in"]), ("out", physical["peak_out"]))
        if physical[f"{way}_kwh"] != 0
    ]
    shares = [
        f"{name} {100 * share:.1f} %"
        for name in ("self-sufficiency", "self-consumption")
        if (share := physical[f"physical_{name.replace('-', '_')}"]) is not None
    ]
    return "; ".join([*ways, *shares]) or "idle"


def _network(grid: Table, facts: dict[str, Any]) -> None:
    """Add the rows about voltages and lines."""
    volts, lines = facts["voltage"], facts["lines"]
    if facts["ac"] and not volts:
        grid.add_row("Voltage, lines", "not determined by this grid model: see the AC power flow")
    zone = facts.get("zone")
    if volts:
        low, high = volts["lowest"], volts["highest"]
        grid.add_row(
            "Voltage",
            f"{_shown(low['pu'], 4)} pu (bus {low['bus']}, {_called(low, zone)}) to "
            f"{_shown(high['pu'], 4)} pu (bus {high['bus']}, {_called(high, zone)}); at a limit in "
            f"{volts['bus_hours_at_limit']} of {volts['bus_hours']} bus-hours",
        )
    if lines:
        loading = lines["highest_loading"]
        grid.add_row(
            "Lines",
            f"up to {_shown(None if loading is None else 100 * loading, 1)} % of the rating (line "
            f"{'-'.join(lines['ends'])}, {_called(lines, zone)}); full in "
            f"{lines['line_hours_at_limit']} of {lines['line_hours']} line-hours",
        )
    if facts["ac"]:
        _ac_row(grid, facts["ac"], zone)


def _ac_row(grid: Table, found: dict[str, Any], zone: str | None) -> None:
    """Add the row about the AC power flow."""
    if not found["examined"]:
        grid.add_row("AC power flow", "not examined: not every bus has a path to a feeder bus")
        return
    words = "AC-safe" if found["safe"] else "NOT AC-safe"
    if not found["converged"]:
        words += ": does not converge; some hour asks more of the lines than they carry"
        grid.add_row("AC power flow", words)
        return
    low, high, most = found["lowest"], found["highest"], found["highest_loading"]
    loss = found["largest_loss"]
    words += (
        f" (balanced equivalent): {_shown(low['pu'], 4)} pu (bus {low['bus']}, "
        f"{_called(low, zone)}) to {_shown(high['pu'], 4)} pu (bus {high['bus']}, "
        f"{_called(high, zone)})"
    )
    if most["ends"]:
        share = _shown(None if most["share"] is None else 100 * most["share"], 1)
        words += (
            f"; lines up to {share} % by current ({'-'.join(most['ends'])}, "
            f"{_called(most, zone)}); losses {_shown(found['losses_kwh'], 1)} kWh, at most "
            f"{_shown(loss['kw'], 1)} kW ({'-'.join(loss['ends'])}, {_called(loss, zone)})"
        )
    grid.add_row("AC power flow", words)


def _hours(facts: dict[str, Any]) -> Table:
    """One row per hour; prices in EUR/kWh."""
    rows = Table(
        title="By hour (prices in EUR/kWh; the mean weighs prosumers by what they draw or feed in)",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
    )
    zone = facts.get("zone")
    names = ("transformer kW", "grid price", "mean price", "min", "max", "traded kW")
    heads = ("hour" if zone is None else zone, *names)
    networked = facts["voltage"] is not None
    for head in (*heads, *(["lowest V pu"] if networked else [])):
        rows.add_column(head, justify="right", no_wrap=head == heads[0])
    for entry in facts["by_hour"]:
        cells = [
            _called(entry, zone).removeprefix("hour "),
            _shown(entry["transformer_kw"], 1),
            _shown(entry["grid_price_eur_per_kwh"], 4),
            _shown(entry["energy_price_mean_eur_per_kwh"], 4),
            _shown(entry["energy_price_min_eur_per_kwh"], 4),
            _shown(entry["energy_price_max_eur_per_kwh"], 4),
            _shown(entry["traded_kw"], 1),
        ]
        if networked:
            cells.append(_shown(entry["lowest_voltage_pu"], 4))
        rows.add_row(*cells)
    return rows
