"""Markets without a plan, of every kind, and the oracle's elastic program: what must give way.

The program is that of `reference` with a slack for each limit, written from the sentences of
`jaxgne.relax` alone and solved by Clarabel.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sparse

import jaxgne as jg
from tests.markets import GridWord, Shape, _changed, random_market
from tests.reference import Family, Program, best, build, numbers, pick, scale, size

SMALL = Shape(4, 4, 5, 2, 2, 4)  # that of `test_agreement.alike`, with which it shares programs
KINDS: tuple[str, ...] = (
    "total_max", "total_min", "rating", "voltage", "import_max", "due", "over hours", "full",
    "surplus", "must run", "start", "ceiling",
)  # fmt: skip


def infeasible_market(kind: str, seed: int, grid: GridWord) -> jg.Market:
    """A random market with one kind of limit out of reach; a few may be feasible all the same."""
    rng = np.random.default_rng([seed, 7])
    market = random_market(seed, shape=SMALL, grid=grid)
    people, stores, units = market.prosumers, market.buffers, market.generators
    load, passive = np.asarray(people.load), np.asarray(market.grid.passive)
    total = np.abs(load).sum(0) + passive.sum(0)
    most, ts = np.asarray(stores.energy_max), np.asarray(market.hour_length)
    share = rng.uniform(0.1, 0.7)
    floor = np.asarray(stores.energy_min).copy()
    last = np.asarray(stores.energy_max)[:, -1]
    changes: dict[str, Any] = {
        "total_max": {"tariff__total_max": share * total - 20.0, "tariff__total_min": -np.inf},
        "total_min": {"tariff__total_min": (2 + share) * total + 50, "tariff__total_max": np.inf},
        "rating": {"grid__rating": share * 10.0 + 0.1},
        "voltage": {"grid__voltage_min": 0.9999, "grid__voltage_max": 1.0001},
        "import_max": {"prosumers__import_max": 0.3 * share * np.abs(load),
                       "generators__power_max": np.asarray(units.power_min)},
        "due": {"buffers__energy_min": np.where(np.arange(4) == 2, most, floor),
                "buffers__charge_max": share * most / (8 * ts)},
        "over hours": {"buffers__energy_min": np.where(np.arange(4) == 3, most, floor),
                       "grid__rating": share * 20.0, "tariff__total_min": -np.inf,
                       "tariff__total_max": 0.7 * total.mean()},
        "full": {"buffers__energy_min": np.where(np.arange(4) == 3, last[:, None], floor),
                 "buffers__charge_max": 10 * most, "tariff__total_min": -np.inf,
                 "tariff__total_max": share * total + 1.0},
        "surplus": {"prosumers__load": load - 3 * np.abs(load).max(), "prosumers__export_max": 0.5,
                    "prosumers__curtail_max": 0.2},
        "must run": {"generators__power_min": 60.0, "generators__power_max": 80.0,
                     "prosumers__export_max": 1.0},
        "start": {"buffers__energy_start": 0.02 * last, "buffers__charge_max": 0.02 * most / ts},
        "ceiling": {"buffers__energy_start": 1.5 * last, "buffers__discharge_max": 0.05 * most},
    }  # fmt: skip
    if grid.startswith("paper"):  # where lines need an impedance
        changes[kind]["grid__resistance"] = np.maximum(np.asarray(market.grid.resistance), 1e-6)
    if grid == "paper":
        changes[kind]["grid__compensation_max"] = 0.0
    return _changed(market, **changes[kind])


PRICES: Mapping[str, float] = {  # EUR per unit, unlike the library's own
    "Prosumers.load": 7.0, "Prosumers.import_max": 1.3, "Prosumers.export_max": 1.7,
    "Prosumers.curtail_max": 2.1, "Generators.power_min": 1.1, "Buffers.energy_min": 1.9,
    "Buffers.energy_max": 2.3, "Trading.limit": 0.9, "Tariff.total_max": 1.4,
    "Tariff.total_min": 1.5, "Grid.rating": 4.2, "Grid.voltage_min": 900.0,
    "Grid.voltage_max": 1100.0, "Grid.angle_min": 130.0, "Grid.angle_max": 120.0,
}  # fmt: skip


def least_cost(market: jg.Market, prices: Mapping[str, float] = PRICES) -> float | None:
    """What it costs at least that limits give way, EUR; None where Clarabel has no answer."""
    program = build(market)
    for store in (program.linear, program.quadratic):
        store[:] = [np.zeros_like(a) for a in store]
    power, _ = size(market)
    ts, hours = np.asarray(market.hour_length), program.hours
    m, g, k, e, t = map(numbers, (
        market.prosumers, market.generators, market.buffers, market.trading, market.tariff
    ))  # fmt: skip
    surplus = np.maximum(np.maximum(-m.load, 0.0) - m.curtail_max, 0.0)
    for name, column, edge, way, price, most in (
        ("Prosumers.import_max", "imports", m.import_max, 1, ts, np.inf),
        ("Prosumers.export_max", "exports", m.export_max, 1, ts, np.inf),
        ("Prosumers.curtail_max", "curtailed", m.curtail_max, 1, ts, surplus),
        ("Generators.power_min", "generation", g.power_min, -1, ts, np.maximum(g.power_min, 0)),
        ("Buffers.energy_min", "energy", k.energy_min, -1, 1.0, np.inf),
        ("Buffers.energy_max", "energy", k.energy_max, 1, 1.0, np.inf),
        ("Tariff.total_max", "net", t.total_max[None], 1, ts, np.inf),
        ("Tariff.total_min", "net", t.total_min[None], -1, ts, np.inf),
    ):  # fmt: skip
        count = edge.size
        hourly = sparse.eye(count)
        slacken(program, name, column, edge, way, prices[name] * price, hourly, power, most)
    same = sparse.kron(sparse.eye(len(e.limit)), np.ones((hours, 1)))
    limit = np.repeat(e.limit, hours)
    program.column("Trading.limit", np.zeros((len(e.limit), 1)), np.inf, power, prices[
        "Trading.limit"])  # fmt: skip
    for way in (1, -1):
        apart(program, "Trading.limit", "trades", way * limit, way, same, power)
    if "volume" in program.columns:
        unbound(program, "volume", 1)
    add_shed(program, market, prices["Prosumers.load"] * ts, power)
    if market.grid.model.name != "copperplate":
        add_grid(program, market, prices, power)
    conic = scale(program, power)
    status, answer = best(conic, 1e-10)
    if answer is None or status != "solved":
        return None
    return float((conic.q @ answer.x + conic.constant) * conic.euros)


def unbound(program: Program, column: str, way: int) -> None:
    """Take a column's bound away."""
    place = list(program.columns).index(column)
    bounds = program.upper if way > 0 else program.lower
    bounds[place] = np.full_like(bounds[place], way * np.inf)


def apart(
    program: Program, slack: str, column: str, edge: Any, way: int, hourly: Any, unit: float,
    steep: Any = 1.0,
) -> None:  # fmt: skip
    """way (column - edge) <= steep slack, in place of the column's own bound."""
    unbound(program, column, way)
    edge = np.asarray(edge, float).ravel()
    finite = np.flatnonzero(np.isfinite(edge))
    wide = np.broadcast_to(np.asarray(steep, float), hourly.shape[1])
    terms = {
        column: way * pick(np.arange(edge.size), edge.size)[finite],
        slack: -sparse.csr_matrix(hourly @ sparse.diags(wide))[finite],
    }
    terms = {name: sparse.csr_matrix(value) for name, value in terms.items()}
    program.families.append(Family(slack, terms, -way * edge[finite], unit, bound=True))


def slacken(
    program: Program, name: str, column: str, edge: Any, way: int, price: Any, hourly: Any,
    power: float, most: Any,
) -> None:  # fmt: skip
    """A slack for each hour of a limit on a column."""
    program.column(name, np.zeros(edge.shape), np.broadcast_to(most, edge.shape), power, price)
    apart(program, name, column, edge, way, sparse.csr_matrix(hourly), power)


def add_shed(program: Program, market: jg.Market, price: Any, power: float) -> None:
    """Load that is not served, with its share of reactive load, in all rows that loads are in."""
    m = numbers(market.prosumers)
    positive = np.maximum(m.load, 0.0)
    share = np.where(m.load > 0, m.reactive / np.where(m.load > 0, m.load, 1.0), 0.0).ravel()
    program.column("shed", np.zeros_like(positive), positive, power, price)
    every = sparse.eye(program.hours)
    at = sparse.kron(pick(m.bus, len(np.asarray(market.grid.passive))), every)
    for family in program.families:
        if family.name == "balance":
            family.matrix["shed"] = -sparse.eye(positive.size)
        if family.name == "bus":
            family.matrix["shed"] = -at
        if family.name == "bus_reactive":
            buses = len(np.asarray(market.grid.passive))
            inner = np.setdiff1d(np.arange(buses), np.asarray(market.grid.feeder))
            chosen = sparse.kron(pick(np.arange(buses), buses)[inner], every)
            family.matrix["shed"] = -chosen @ at @ sparse.diags(share)


def add_grid(program: Program, market: jg.Market, prices: Mapping[str, float], power: float):
    """Ratings, voltages and angles: one slack for all hours each."""
    n, hours = numbers(market.grid), program.hours
    lines, buses = len(n.source), len(n.passive)
    program.column("Grid.rating", np.zeros((lines, 1)), np.inf, power, prices["Grid.rating"])
    program.wider = "Grid.rating"
    squared = market.grid.model.name == "lindistflow"
    names = [("rise", "voltage", (n.voltage_min, n.voltage_max))]
    if market.grid.model.name == "paper":
        names.append(("angle", "angle", (n.angle_min, n.angle_max)))
    inner = np.setdiff1d(np.arange(buses), n.feeder)
    for column, word, edges in names:
        place = list(program.columns).index(column)
        held = [a[place].reshape(buses, hours).copy() for a in (program.lower, program.upper)]
        for way, side, edge in ((-1, "min", edges[0]), (1, "max", edges[1])):
            name = f"Grid.{word}_{side}"
            program.column(name, np.zeros((buses, 1)), np.inf, 0.01, prices[name])
            steep = 2 * edge if squared and word == "voltage" else np.ones(buses)
            bound = np.full((buses, hours), np.inf)
            bound[inner] = held[0 if way < 0 else 1][inner]
            same = sparse.csr_matrix(sparse.kron(sparse.eye(buses), np.ones((hours, 1))))
            apart(program, name, column, bound, way, same, 0.01, steep)
        for bounds, kept in zip((program.lower, program.upper), held, strict=True):
            table = bounds[place].reshape(buses, hours)
            table[n.feeder] = kept[n.feeder]
            bounds[place] = table.ravel()
