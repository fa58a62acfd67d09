"""What a balanced market hides on a grid in three phases: voltages, bills, and room to grow."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from ..acexact import clear_ac
from ..acflow import LOADING_SLACK, check, drawn
from ..clearing import clear
from ..comparison import outcome
from ..each import for_each, for_one
from ..fingerprint import fingerprint
from ..grids.equivalent import balanced, balanced_bus
from ..linear_flow import grid_state
from ..market import Market, bus_name, line_name
from ..model import Plan, zeros
from ..result import Clearing, NotCleared
from ..runner import hosted
from ..status import status_name
from .hosting import GROWN, Grown, grown, hosting
from .runner import Row, Runs, Study, Watch

FACTORS = (1.0, 1.2, 1.4, 1.6)
BALANCED, LINEAR, AC = "balanced", "three phases", "three phases, AC"
_FULL = 1 - LOADING_SLACK  # share of a rating from which on a line is full
_NETWORK = ("active", "reactive", "exchange", "voltage", "angle")  # fields of the grid's state
_ENDED = ("cleared", "infeasible")  # how a market ends that tells something


@for_one()
def phases(
    market: Market,
    values: Sequence[float] = FACTORS,
    *,
    of: Grown = "load",
    exact: bool = True,
    tol: float = 1e-6,
    folder: str | Path | None = None,
    progress: Watch = None,
    client: Any = None,
) -> Study:
    """A market in three phases with `values` times its loads, and its balanced equivalent.

    Times its sun where that is what grows: `of` is `load` or `sun`.

    At each factor three markets are cleared: the balanced equivalent, three phases by their linear
    model, and three phases on AC equations (`clear_ac`). What each believes of its plan is beside
    what the AC power flow in three phases finds for the same plan: everybody's loads, devices and
    trades, and of inverters a share of what they do by size. All bills but those of AC are without
    losses. The last takes several clears; it is left out unless `exact`.

    Then the balanced plan is held, what it does not schedule grows, and the largest factor is found
    up to which each model calls it safe (`hosting`), with the slope of the voltage or loading that
    ends it there. In JAX's 64-bit mode. Raises `ValueError` for a market that is not on a grid of
    `lindist3flow`, a factor that is not above 0, or an `of` that is none of `load`, `sun`.
    """
    balanced(market)  # or it is told why there is none
    factors = sorted({float(value) for value in values})
    if not factors or not (factors[0] > 0 and np.isfinite(factors[-1])):
        raise ValueError(f"phases: values={list(values)}; give factors above 0.")
    if of not in GROWN:
        raise ValueError(f"phases: of={of!r} is none of {', '.join(GROWN)}.")
    marks = [fingerprint("phases", market, tol, of, exact, factor) for factor in factors]
    asked = zip([*marks, fingerprint("hosting", market, tol, of)], [*factors, None], strict=True)
    runs = Runs(len(factors) + 1, folder, progress, client)
    *found, room = runs(partial(_run, market, of, exact, tol), asked)
    rows = [row for each in found for row in each["rows"]]
    people = [row for each in found for row in each["people"]]
    shown = (
        "factor", "variant", "status", "lowest_pu", "ac_lowest_pu", "ac_lowest_bus",
        "ac_outside_pu", "full_lines", "ac_highest_loading_percent", "ac_safe",
        "social_cost_eur", "prosumers_cost_eur",
    )  # fmt: skip
    tables = {
        "phases": rows,
        "prosumers": people,
        "by-phase": _by_phase(people),
        "hosting": room["rows"],
    }
    missed = sum(row["status"] not in _ENDED for row in rows)
    return Study("phases", tables, shown, _finding(tables, of), missed)


def laid(market: Market, plan: Plan) -> Plan:
    """A plan of the balanced equivalent on the grid in three phases, by its linear model.

    Everybody does the same there. What inverters at a bus inject is shared by what each may.
    """
    grid, bus = market.grid, balanced_bus(market.grid)
    most = np.asarray(grid.compensation_max)
    total = np.zeros((bus.max(initial=-1) + 1, most.shape[1]))
    np.add.at(total, bus, most)
    share = np.divide(most, total[bus], out=np.zeros_like(most), where=total[bus] > 0)
    none = zeros(market)
    whole = replace(plan, **{name: getattr(none, name) for name in _NETWORK})
    injected = jnp.asarray(share * np.asarray(plan.compensation)[bus])
    return _settled(market, replace(whole, compensation=injected))


@for_each
def _settled(market: Market, plan: Plan) -> Plan:
    """The plan with the state of the grid that its draws lead to."""
    return replace(plan, **grid_state(market, *drawn(market, plan)))


def _run(market: Market, of: Grown, exact: bool, tol: float, factor: float | None) -> Row:
    """One factor; without one, how far loads or the sun may grow."""
    if factor is None:
        return {"rows": _rooms(market, of, tol)}
    return _at(market, factor, of, exact, tol)


def _at(market: Market, factor: float, of: Grown, exact: bool, tol: float) -> Row:
    """All that is told of one factor: lines of `phases`, and of `prosumers`."""
    here = grown(market, factor, of)
    even = balanced(here)
    rows, costs = [], {}
    for name in (BALANCED, LINEAR, AC)[: 3 if exact else 2]:
        row: Row = {"factor": factor, "variant": name}
        try:
            if name == AC:
                settled = clear_ac(here, tol=tol)
                own, clearing, plan = settled.linear, settled.clearing, settled.clearing.plan
            else:
                own = even if name == BALANCED else here
                clearing = clear(own, tol=tol)
                plan = laid(here, clearing.plan) if name == BALANCED else clearing.plan
        except NotCleared as missed:
            status = status_name(missed.clearing.status)
            rows.append(row | {"status": "not settled" if status == "cleared" else status})
            continue
        row |= {"status": "cleared", **_believed(own, clearing), **_checked(here, plan)}
        money = outcome(own, clearing)
        costs[name] = np.asarray(money.cost)
        row |= {
            "social_cost_eur": float(money.social),
            "prosumers_cost_eur": float(costs[name].sum()),
            "passive_cost_eur": float(money.passive),
            "operator_receipts_eur": float(money.operator),
        }
        rows.append(row)
    return {"rows": rows, "people": _people(here, factor, costs)}


def _believed(market: Market, clearing: Clearing) -> Row:
    """What the market's own model says of its plan: the lowest voltage, and full lines."""
    grid, plan = market.grid, clearing.plan
    voltage = np.asarray(plan.voltage) ** (1 / grid.model.power)
    bus, hour = np.unravel_index(int(voltage.argmin()), voltage.shape)
    flows, rating = np.hypot(*map(np.asarray, (plan.active, plan.reactive))), grid.radius
    used = np.divide(flows, rating, out=np.zeros_like(flows), where=np.asarray(rating) > 0)
    return {
        "lowest_pu": float(voltage.min()),
        "lowest_bus": bus_name(grid, int(bus)),
        "lowest_hour": int(hour),
        "highest_pu": float(voltage.max()),
        "full_lines": int((used >= _FULL).any(axis=1).sum()),
    }


@hosted
def _checked(market: Market, plan: Plan) -> Row:
    """What the AC power flow in three phases finds for a plan; None where it has no solution."""
    found, grid = check(market, plan), market.grid
    if found is None or not bool(found.converged) or found.unbalance is None:
        return {"ac_safe": False}
    hours = market.prosumers.load.shape[1]
    lowest, highest, outside, line, unequal = (
        divmod(int(place), hours)
        for place in (
            found.lowest_place, found.highest_place, found.excess_place, found.loading_place,
            found.unbalance.factor_place,
        )
    )  # fmt: skip
    broken = float(found.excess) > 0
    return {
        "ac_lowest_pu": float(found.lowest),
        "ac_lowest_bus": bus_name(grid, lowest[0]),
        "ac_lowest_hour": lowest[1],
        "ac_highest_pu": float(found.highest),
        "ac_highest_bus": bus_name(grid, highest[0]),
        "ac_outside_pu": float(found.excess),
        "ac_outside_bus": bus_name(grid, outside[0]) if broken else None,
        "ac_bus_hours_outside": float(found.outside),
        "ac_highest_loading_percent": 100 * float(found.loading),
        "ac_fullest_line": line_name(grid, line[0]),
        "ac_unbalance_percent": 100 * float(found.unbalance.factor),
        "ac_unbalance_bus": bus_name(grid, unequal[0]).rpartition(".")[0] or str(unequal[0]),
        "ac_losses_kwh": float(found.losses),
        "ac_safe": bool(found.safe),
    }


def _people(market: Market, factor: float, costs: dict[str, np.ndarray]) -> list[Row]:
    """What everyone pays in each of the markets, and how much more in three phases."""
    grid, people = market.grid, market.prosumers
    energy = np.asarray(people.load) @ np.asarray(market.hour_length * market.weight)
    rows = []
    for k, bus in enumerate(np.asarray(people.bus).tolist()):
        paid = {name: float(costs[name][k]) if name in costs else None for name in _COLUMNS}
        before, after = paid[BALANCED], paid[LINEAR]
        row = {
            "factor": factor,
            "prosumer": people.names[k] if people.names else k,
            "bus": bus_name(grid, bus),
            "phase": _phase(market, bus),
            "load_kwh": float(energy[k]),
        }
        row |= {_COLUMNS[name]: cost for name, cost in paid.items()}
        row["more_eur"] = None if before is None or after is None else after - before
        rows.append(row)
    return rows


_COLUMNS = {
    BALANCED: "cost_balanced_eur",
    LINEAR: "cost_three_phases_eur",
    AC: "cost_three_phases_ac_eur",
}


def _phase(market: Market, bus: int) -> str:
    """The phase of a row of buses, or the phases that a terminal spans: `a`, `ab`, `abc`."""
    grid = market.grid
    if grid.names:
        return grid.names[bus].rpartition(".")[2]
    for letter, rows in zip("abc", (grid.phase_a, grid.phase_b, grid.phase_c), strict=True):
        if bus in np.asarray(rows):
            return letter
    lines = np.asarray(grid.terminal)
    k = int(np.argmax(np.asarray(grid.target)[lines] == bus))
    ends = (int(grid.source[lines[k]]), int(grid.second[k]), int(grid.third[k]))
    return "".join(_phase(market, end) for end in ends if end >= 0)


def _by_phase(people: list[Row]) -> list[Row]:
    """Sums of `prosumers` over those of the same phase."""
    rows = []
    for factor, phase in sorted({(row["factor"], row["phase"]) for row in people}):
        own = [row for row in people if (row["factor"], row["phase"]) == (factor, phase)]
        row: Row = {"factor": factor, "phase": phase, "prosumers": len(own)}
        for key in ("load_kwh", *_COLUMNS.values(), "more_eur"):
            values = [each[key] for each in own]
            row[key] = None if None in values else float(sum(values))
        rows.append(row)
    return rows


def _rooms(market: Market, of: Grown, tol: float) -> list[Row]:
    """How far loads, or the sun, may grow beside the balanced plan, by each model of the grid."""
    even = balanced(market)
    try:
        plan = clear(even, tol=tol).plan
    except NotCleared:
        return []
    rows = []
    for name, on, ac in (
        (BALANCED, even, False), ("balanced, AC", even, True), (LINEAR, market, False),
        (AC, market, True),
    ):  # fmt: skip
        found = hosting(on, plan if on is even else laid(market, plan), ac=ac, of=of)
        row: Row = {"model": name, "factor": None if found is None else found.factor}
        if found is not None:
            named = line_name if found.limit == "rating" else bus_name
            row |= {
                "limit": found.limit,
                "where": named(on.grid, found.row),
                "hour": found.hour,
                "slope_by_factor": found.slope,
            }
        rows.append(row)
    return rows


def _finding(tables: dict[str, list[Row]], of: Grown) -> str:
    cleared = [row for row in tables["phases"] if row["status"] == "cleared"]
    known = {(row["factor"], row["variant"]): row for row in cleared}
    plans = [row for row in cleared if row["variant"] == BALANCED]
    if not plans:
        return "The balanced market cleared at no factor."
    wrong = [row for row in plans if not row["ac_safe"]]
    row = (wrong or plans)[0]
    text = f"At {row['factor']:g} times the {of} the balanced market reads a lowest voltage of "
    text += f"{row['lowest_pu']:.4f} pu, and AC in three phases of the same plan "
    if "ac_lowest_pu" in row:
        text += (
            f"{row['ac_lowest_pu']:.4f} pu at {row['ac_lowest_bus']} and lines up to "
            f"{row['ac_highest_loading_percent']:.0f} % of their rating"
        )
    else:
        text += "has no solution"
    text += ", which is safe" if row["ac_safe"] else ", which is NOT safe"
    both = [row["factor"] for row in plans if (row["factor"], LINEAR) in known]
    if both:
        most = both[-1]
        even, whole = (known[most, name]["social_cost_eur"] for name in (BALANCED, LINEAR))
        text += (
            f"; clearing {most:g} times the {of} in three phases costs all together "
            f"{whole - even:+.2f} EUR"
        )
        more = [row for row in tables["by-phase"] if row["factor"] == most]
        worst = max(more, key=lambda row: row["more_eur"])
        if worst["more_eur"] > 0:
            text += f" and prosumers on {worst['phase']} most, {worst['more_eur']:+.2f} EUR"
    rooms = [row for row in tables["hosting"] if row["factor"] is not None]
    if rooms:
        words = ", ".join(f"{row['factor']:.3f} ({row['model']})" for row in rooms)
        text += f"; beside the balanced plan the {of} may be up to {words} times as large"
    return text + "."
