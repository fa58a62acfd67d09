"""What must give way where no plan meets all limits: the least, at a price of each limit."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import numpy as np

from .arguments import of_tables
from .clock import in_hours
from .elastic import Program, program
from .market import FIELDS, Market, bus_name, line_name
from .model import counted, weight
from .names import called, owners
from .runner import concrete, hosted, to_device
from .slack import LIMITS, NOTHING, Slack, fewest, give, only
from .validation import structure

How = Literal["least-cost", "fewest"]


_MARGIN = 1e-3  # of each amount, that limits move further: a market on the edge has no inside
_EDGE = 1e-5  # and of the market's power, or per unit


class GaveWay(NamedTuple):
    """One limit that gave way, at one place: in one hour, or in `hours` alike.

    `amount` is in `unit`; per unit to first order for squared voltages. `eur` is what it costs.
    """

    scenario: int | None
    limit: str
    row: int
    place: str
    hours: tuple[int, ...]
    amount: float
    unit: str
    eur: float


@dataclass(frozen=True)
class Relaxation:
    """What gave way (`table`), at which `cost` (EUR), and the `market` whose limits are moved so.

    Of a batch: rows name their scenario, `cost` is an array, and `market` the batch.
    """

    table: tuple[GaveWay, ...]
    market: Market
    cost: Any
    lines: tuple[str, ...]

    def __str__(self) -> str:
        if not self.lines:
            return "Nothing need give way: there is a plan that meets all limits."
        total = float(np.sum(self.cost))
        return "\n".join([*self.lines, f"in all {total:.6g} EUR"])


@of_tables
def relax(
    market: Market,
    *,
    limits: Iterable[str] | None = None,
    prices: Mapping[str, float] | None = None,
    how: How = "least-cost",
    value_of_lost_load: float = 10.0,
) -> Relaxation:
    """The least that must give way for a market to have a plan: which limit, where, by how much.

    `prices` says what it costs to move a limit: EUR per kWh for those in kW by hour (load that is
    not served, `Prosumers.load`, at `value_of_lost_load`) and for contents of buffers, EUR per unit
    of the cap for those of caps, EUR per kVA, kW, pu or rad for those with one number a row
    (`Grid.rating`, `Trading.limit`, voltages), which are moved once for all hours. `limits` names
    those that may give way: by default all but what devices are (power_max, charge_max,
    discharge_max, energy_start, compensation_max). Costs of the market itself do not count.
    `how="fewest"` moves as few limits as can be, of those the cheapest.

        found = jg.relax(market, prices={"Grid.rating": 20.0}, value_of_lost_load=8.0)
        print(found)
        jg.clear(found.market)

    A market that has a plan gives an empty table. `found.market` has each limit moved by its amount
    and 0.1 % of that more, so that it clears. Takes a batch as well. Raises `ValueError` for names
    that are no limits, prices not above 0, traced arrays, and where not even these limits suffice.
    """
    if not concrete(market):
        raise TypeError("relax() runs on the host: call it outside of jit, vmap and grad.")
    if how not in ("least-cost", "fewest"):
        raise ValueError(f"relax: how={how!r} is neither 'least-cost' nor 'fewest'.")
    cost = _prices(limits, dict(prices or {}), value_of_lost_load)
    if np.ndim(market.prosumers.load) == 3:
        return _each(market, cost, how)
    return _relaxed(market, cost, how, None)


def _prices(
    limits: Iterable[str] | None, prices: dict[str, float], lost: float
) -> dict[str, float]:
    """What each limit that may give way costs to move."""
    prices = {"Prosumers.load": lost, **prices}
    usual = [name for name, limit in LIMITS.items() if limit.usual or name in prices]
    chosen = usual if limits is None else [limits] if isinstance(limits, str) else list(limits)
    strange = [name for name in (*chosen, *prices) if name not in LIMITS]
    if strange:
        raise ValueError(
            f"relax: {strange[0]!r} is no limit that can give way; take of {', '.join(LIMITS)}."
        )
    cost = {name: float(prices.get(name, LIMITS[name].price)) for name in chosen}
    for name, price in cost.items():
        if not 0 < price < np.inf:
            raise ValueError(f"relax: a price of {price} for {name}; give one above 0.")
    return cost


def _each(markets: Market, cost: dict[str, float], how: How) -> Relaxation:
    """Every scenario of a batch on its own."""
    found = []
    for k in range(np.shape(markets.prosumers.load)[0]):
        one = jax.tree.map(lambda a, k=k: to_device(np.asarray(a)[k]), markets)
        found.append(_relaxed(one, cost, how, k))
    return Relaxation(
        table=tuple(row for one in found for row in one.table),
        market=jax.tree.map(lambda *a: to_device(np.stack(a)), *(one.market for one in found)),
        cost=np.array([one.cost for one in found]),
        lines=tuple(f"scenario {k}: {line}" for k, one in enumerate(found) for line in one.lines),
    )


def _relaxed(market: Market, cost: dict[str, float], how: How, scenario: int | None) -> Relaxation:
    wrong = structure(market)
    if wrong:
        raise ValueError("\n".join(wrong))
    made = hosted(program)(market)
    slacks = [slack for name, price in cost.items() for slack in give(made, name, price)]
    if how == "fewest":
        only(made, slacks, fewest(made, slacks))
    found = made.solve()
    if found.x is None:
        raise ValueError(
            f"relax: there is no plan even where {', '.join(cost)} give way; allow others by "
            "limits=, or run jg.validate(market)."
        )
    table, moved = [], market
    for slack in slacks:
        amount = found.x[slack.columns] * slack.unit
        amount[amount <= NOTHING * slack.unit] = 0.0
        if amount.any():
            table += _rows(made, slack, amount, found.x, cost[slack.name], scenario)
            moved = _moved(made, moved, slack, amount)
    return Relaxation(
        table=tuple(table),
        market=moved,
        cost=sum(row.eur for row in table),
        lines=_lines(market, table),
    )


def _rows(
    made: Program,
    slack: Slack,
    amount: np.ndarray,
    x: np.ndarray,
    price: float,
    scenario: int | None,
) -> list[GaveWay]:
    """The table's rows of one limit."""
    limit, found = LIMITS[slack.name], []
    count = np.asarray(weight(made.market, FIELDS[slack.name]))
    for k in np.flatnonzero(amount):
        row, hour, much = int(slack.rows[k]), int(slack.hours[k]), float(amount[k])
        hours = (hour,) if hour >= 0 else _exceeded(made, slack.name, row, x)
        place = _place(made.market, slack.name, row)
        eur = price * much * (float(count[hour]) if limit.timed(made.market) else 1.0)
        unit = made.market.caps.units[row] if slack.name.startswith("Caps.") else limit.unit
        found.append(GaveWay(scenario, slack.name, row, place, hours, much, unit, eur))
    return found


def _exceeded(made: Program, name: str, row: int, x: np.ndarray) -> tuple[int, ...]:
    """Hours in which a limit with one number a row is exceeded."""
    market = made.market
    value = {
        table: x[made.table(table)[row]] * made.unit[made.of.columns[table]][0]
        for table in (("active", "reactive") if name == "Grid.rating" else (LIMITS[name].table,))
        if table in made.of.columns and name != "Buffers.energy_start"
    }
    if name == "Grid.rating":
        over = np.hypot(value["active"], value["reactive"]) - float(market.grid.rating[row])
    elif name == "Trading.limit":
        over = np.abs(value["trades"]) - np.asarray(market.trading.limit[row])
    elif name == "Buffers.energy_start":
        return ()
    else:
        edge = float(getattr(market.grid, name.split(".")[1])[row])
        power = market.grid.model.power if LIMITS[name].unit == "pu" else 1
        over = value[LIMITS[name].table] - edge**power
        over = over if LIMITS[name].ways == (1,) else -over
    return tuple(int(h) for h in np.flatnonzero(over > NOTHING * max(1.0, made.power)))


def _place(market: Market, name: str, row: int) -> str:
    """What people call a row."""
    table, field = name.split(".")
    if table == "Tariff":
        return "all together"
    if table == "Caps":
        return f"cap {market.caps.names[row]!r}"
    grid = market.grid
    if field == "rating":
        ends = (bus_name(grid, int(end[row])) for end in (grid.source, grid.target))
        return f"line {line_name(grid, row)} ({'-'.join(ends)})"
    return called(owners(market), grid, "bus" if table == "Grid" else FIELDS[name].row, row)


def _moved(made: Program, market: Market, slack: Slack, amount: np.ndarray) -> Market:
    """The market with one limit moved by the amounts and a margin."""
    table, name = slack.name.split(".")

    def where(m: Market) -> Any:
        return getattr(getattr(m, table.lower()), name)

    old = np.array(where(market), float)
    further = np.where(amount > 0, amount * (1 + _MARGIN) + _EDGE * slack.unit, 0.0)
    if slack.name == "Prosumers.load":
        served = old.copy()
        served[slack.rows, slack.hours] -= np.minimum(further, old[slack.rows, slack.hours])
        share = np.where(old > 0, served / np.where(old > 0, old, 1.0), 1.0)
        reactive = np.asarray(market.prosumers.reactive) * share
        market = eqx.tree_at(lambda m: m.prosumers.reactive, market, _like(reactive, market))
        return eqx.tree_at(where, market, _like(served, market))
    steps = further * (slack.way if slack.name != "Trading.limit" else 1)
    if LIMITS[slack.name].unit == "kvar":
        steps = further
    if table == "Tariff":
        np.add.at(old, slack.hours, steps)
    elif (slack.hours >= 0).any():
        np.add.at(old, (slack.rows, slack.hours), steps)
    elif LIMITS[slack.name].unit == "pu" and market.grid.model.squared:
        square = old[slack.rows] ** 2 + 2 * old[slack.rows] * steps
        old[slack.rows] = np.sqrt(np.maximum(square, 0.0))
    else:
        np.add.at(old, slack.rows, steps.reshape(-1, *[1] * (old.ndim - 1)))
    return eqx.tree_at(where, market, _like(old, market))


def _like(values: np.ndarray, market: Market) -> Any:
    return to_device(values.astype(market.prosumers.load.dtype))


def _lines(market: Market, table: list[GaveWay]) -> tuple[str, ...]:
    """The table in words, a line for each limit and place."""
    places: dict[tuple[str, int], list[GaveWay]] = {}
    for row in table:
        places.setdefault((row.limit, row.row), []).append(row)
    found = sorted(places.values(), key=lambda rows: -sum(r.eur for r in rows))
    return tuple(_line(market, rows) for rows in found)


def _line(market: Market, rows: list[GaveWay]) -> str:
    first, length = rows[0], np.asarray(counted(market))
    limit = LIMITS[first.limit]
    most, eur = max(r.amount for r in rows), sum(r.eur for r in rows)
    by = f"{most:.4g} {first.unit}"
    if limit.timed(market) and limit.unit == "kW" and len(rows) > 1:
        by = f"up to {by}, {sum(length[r.hours[0]] * r.amount for r in rows):.4g} kWh"
    hours = sorted({h for r in rows for h in r.hours})
    when = f" {in_hours(market, hours)}" if hours else ""
    where = "" if first.place == "all together" else f" of {first.place}"
    return f"{limit.verb} {first.limit}{where}{when} by {by}: {eur:.4g} EUR"
