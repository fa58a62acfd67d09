"""An independent oracle: the potential's convex program in NumPy, solved by Clarabel.

Written from the equations (model.md: Decisions, Costs, Prices, Grid, Equilibrium, Caps) alone; it
shares no formula with the package, only its containers of arrays. Decisions are columns,
constraints rows *demand minus supply = 0*, so Clarabel's multipliers of the rows are prices. The
gauge is mu_tg = 0: the exchange row follows from the others and is left out.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import clarabel as clarabel_module
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sparse

from jaxgne import Market, Plan, Rows
from jaxgne.curves import Isoelastic
from jaxgne.tables import QUANTITIES

clarabel: Any = clarabel_module  # an extension module without type stubs
ACCEPTED = 1e-7  # an answer worse than this, relative, is no reference
CAPPED = ("level", "rise", "spare")  # what a plan says of each cap


@dataclass(frozen=True)
class Reference:
    """What the oracle found; everything is NaN unless `status` is "solved".

    `gap` bounds how far `potential` is above its least value (EUR), `error` is that over the
    potential's scale, `infeasibility` the largest violation of any row or bound relative to the
    market's size.
    """

    status: Literal["solved", "infeasible", "failed"]
    plan: Plan
    prices: Rows  # EUR/kWh
    trade_prices: np.ndarray  # (E, H) mu_tr, EUR/kWh
    sigma: np.ndarray  # (H,) kW
    costs: np.ndarray  # (N,) J_i, EUR
    potential: float  # EUR
    total_cost: float  # EUR
    gap: float  # EUR
    error: float
    infeasibility: float


@dataclass
class Family:
    """Rows `matrix x + constant`: equal to 0, or at most 0 for a `bound`."""

    name: str
    matrix: dict[str, Any]
    constant: np.ndarray  # (rows, H)
    unit: float
    bound: bool = False


@dataclass
class Program:
    """Columns by name, each a (count, H) table, and families of rows over them."""

    hours: int
    columns: dict[str, slice] = field(default_factory=dict)
    lower: list[np.ndarray] = field(default_factory=list)
    upper: list[np.ndarray] = field(default_factory=list)
    linear: list[np.ndarray] = field(default_factory=list)
    quadratic: list[np.ndarray] = field(default_factory=list)
    unit: list[np.ndarray] = field(default_factory=list)
    families: list[Family] = field(default_factory=list)
    ratings: np.ndarray | None = None  # (L,) kVA: active and reactive lie in a disc
    wider: str | None = None  # columns, one a line, that ratings may be exceeded by
    curved: list[tuple[str, int, float, float]] = field(default_factory=list)  # see `add_curves`
    constant: float = 0.0  # EUR

    def column(
        self, name: str, lower: Any, upper: Any, unit: Any, linear: Any = 0.0, quadratic: Any = 0
    ) -> None:
        """Decisions `lower <= u <= upper` costing `linear u + quadratic u^2` (EUR)."""
        lower, upper = np.broadcast_arrays(lower, upper)
        start = sum(a.size for a in self.lower)
        self.columns[name] = slice(start, start + lower.size)
        for store, value in [
            (self.lower, lower),
            (self.upper, upper),
            (self.linear, linear),
            (self.quadratic, quadratic),
            (self.unit, unit),
        ]:
            store.append(np.broadcast_to(value, lower.shape).astype(float).ravel())

    def rows(self, name: str, constant: Any, unit: float, bound: bool = False, **terms: Any):
        """Rows `sum of terms + constant`; a term is (rows x count), the same in every hour."""
        hourly = {k: sparse.kron(m, sparse.eye(self.hours)) for k, m in terms.items()}
        self.families.append(Family(name, hourly, np.asarray(constant), unit, bound))

    def matrix(self, family: Family) -> sparse.csr_matrix:
        """One family's rows over all columns, physical units."""
        count = family.constant.size
        blocks = [
            family.matrix.get(name, sparse.csr_matrix((count, where.stop - where.start)))
            for name, where in self.columns.items()
        ]
        return sparse.csr_matrix(sparse.hstack(blocks))


def pick(index: np.ndarray, count: int) -> sparse.csr_matrix:
    """(count x len(index)) with a one where `index` points."""
    ones = np.ones(len(index))
    return sparse.csr_matrix((ones, (index, np.arange(len(index)))), shape=(count, len(index)))


def numbers(table: Any) -> Any:
    """The arrays of one of the market's tables, in NumPy; per-row fields as columns."""
    made = {k: np.asarray(v) for k, v in vars(table).items() if hasattr(v, "shape")}
    return type("Table", (), {k: v.astype(float) if v.dtype.kind == "f" else v
                              for k, v in made.items()})  # fmt: skip


class Zoned(NamedTuple):
    """The main grid's prices by zone, (zones, H), and who is where, (zones x rows)."""

    base: np.ndarray
    slope: np.ndarray
    export: np.ndarray
    people: sparse.csr_matrix
    buses: sparse.csr_matrix


def zoned(market: Market) -> Zoned:
    """One zone where the market has no table of them."""
    t, more = numbers(market.tariff), numbers(market.zones)
    count = max(len(more.base), 1)
    tariffs = (getattr(t, name) + (getattr(more, name) if len(more.base) else np.zeros((1, 1)))
               for name in ("base", "slope", "export"))  # fmt: skip
    at = (market.prosumers.zone, market.grid.zone)
    homes = (np.asarray(zone) if len(more.base) else 0 * np.asarray(zone) for zone in at)
    return Zoned(*tariffs, *(pick(home, count) for home in homes))


def lengths(market: Market) -> np.ndarray:
    """Hours of each step."""
    return np.asarray(market.hour_length, float)


def often(market: Market) -> np.ndarray:
    """How often each step counts."""
    return np.asarray(market.weight, float)


def ancestors(market: Market) -> np.ndarray:
    """The step before each, -1 at the start."""
    before = market.before
    return np.arange(-1, len(lengths(market)) - 1) if before is None else np.array(before)


def ends(market: Market) -> np.ndarray:
    """How often what is left at the end of a step counts: where no step goes on with it."""
    found = often(market).copy()
    for step, parent in enumerate(ancestors(market)):
        if parent >= 0:
            found[parent] -= often(market)[step]
    return np.where(np.abs(found) < 1e-6, 0.0, found)


def size(market: Market) -> tuple[float, float]:
    """A typical power (kW) and a typical price (EUR/kWh) of this market, to scale by."""
    m, t = numbers(market.prosumers), numbers(market.tariff)
    passive = np.abs(np.asarray(market.grid.passive))
    power = max(float(np.abs(m.load).max()), float(passive.max()), 1e-3)
    total = np.abs(m.load).sum(0) + passive.sum(0)
    linear = np.abs(np.asarray(market.generators.linear))
    price = float(np.max(np.abs(t.base) + t.slope * total))
    return power, max(price, float(linear.max(initial=0.0)), 1e-6)


def build(market: Market, unbalance: tuple[Any, float, int] | None = None) -> Program:
    """P(u) and all its constraints (model.md: Equilibrium), physical units.

    `unbalance` is a bound on |V2|: phases of buses (S, 3), pu, sides of a polygon inside it.
    """
    hours = market.prosumers.load.shape[1]
    power, _ = size(market)
    program = Program(hours)
    add_prosumers(program, market, power)
    add_main_grid(program, market, power)
    if market.grid.model.name != "copperplate":
        add_network(program, market, power)
    if len(market.caps.carry):
        add_caps(program, market, power)
    if market.committed is not None:
        add_commitments(program, market, power)
    if unbalance is not None:
        add_unbalance(program, market, *unbalance)
    return program


def add_prosumers(program: Program, market: Market, power: float) -> None:
    """Decisions, local costs, storage dynamics and own balance (model.md: Decisions, Costs)."""
    m, g, k, e = map(numbers, (market.prosumers, market.generators, market.buffers, market.trading))
    ts, hours, count = lengths(market) * often(market), program.hours, len(m.bus)
    zero = np.zeros((1, hours))
    program.column("generation", g.power_min, g.power_max, power,
                   ts * g.linear[:, None], ts * g.quadratic[:, None])  # fmt: skip
    add_curves(program, market)
    for name, most in [("charge", k.charge_max), ("discharge", k.discharge_max)]:
        program.column(name, np.zeros_like(most), most, power,
                       ts * k.linear[:, None], ts * k.quadratic[:, None])  # fmt: skip
    worth = -k.final_value[:, None] * ends(market)
    program.column("energy", k.energy_min, k.energy_max, power, worth)
    where = zoned(market)
    sold = -ts * (where.people.T @ where.export + m.export_adder)
    program.column("exports", np.zeros_like(m.load), m.export_max, power, sold)
    program.column("curtailed", np.zeros_like(m.load), m.curtail_max, power)

    charge = e.toll + e.reluctance / 2
    limit, toll, fees = (a + zero for a in (e.limit, charge, e.fee_buyer - e.fee_seller))
    tolled = tolled_pairs(market)  # |t| <= volume <= limit, volume pays the charge
    reach = np.where(tolled[:, None], np.inf, limit)
    program.column("trades", -reach, reach, power, ts * fees, 2 * ts * e.quadratic[:, None])
    program.column("volume", np.full((tolled.sum(), hours), -np.inf), limit[tolled], power,
                   2 * ts * toll[tolled])  # fmt: skip
    these, own = pick(np.arange(len(e.limit)), len(e.limit))[tolled], sparse.eye(tolled.sum())
    for sign in (1, -1):
        none = np.zeros((tolled.sum(), hours))
        program.rows("volume", none, power, bound=True, trades=sign * these, volume=-own)

    start = k.drain.copy()
    parent = ancestors(market)
    kept, gain, loss = (
        np.broadcast_to(a, k.drain.shape)
        for a in (k.retention, k.charge_efficiency, k.discharge_efficiency)
    )
    start[:, parent < 0] -= kept[:, parent < 0] * k.energy_start[:, None]
    program.rows("energy", start, power)
    for name, share in (
        ("charge", -gain),
        ("discharge", 1 / loss),
    ):
        program.families[-1].matrix[name] = sparse.diags((share * lengths(market)).ravel())
    follows = np.flatnonzero(parent >= 0)
    link = sparse.csr_matrix(
        (np.ones(len(follows)), (follows, parent[follows])), shape=(hours, hours)
    )
    before = sparse.kron(sparse.eye(len(k.owner)), link)
    dynamics = sparse.eye(len(k.owner) * hours) - sparse.diags(kept.ravel()) @ before
    program.families[-1].matrix["energy"] = dynamics

    makes, stores = pick(g.owner, count), pick(k.owner, count)
    program.rows("balance", m.load, power, generation=-makes, charge=stores, discharge=-stores,
                 exports=sparse.eye(count), curtailed=sparse.eye(count), imports=-sparse.eye(count),
                 trades=pick(e.seller, count) - pick(e.buyer, count))  # fmt: skip


def tolled_pairs(market: Market) -> np.ndarray:
    """Pairs that may trade and pay a charge, in some hour."""
    e = numbers(market.trading)
    return np.any(e.toll + e.reluctance > 0, axis=1) & np.any(e.limit > 0, axis=1)


def add_curves(program: Program, market: Market) -> None:
    """Worths of consumption that are powers, logarithms or exponentials of it, each by a column.

    A curve of `Program.curved` is the column that stands for it, the generator, the kW that count
    as 1, and the exponent: of x = -p / unit the column is x^k, log x for k = 0, and exp(-x) for
    k = inf.
    """
    ts, hours = np.asarray(market.hour_length), program.hours
    curves: Any = market.generators.curves
    for curve in curves:
        for row in np.flatnonzero(np.asarray(curve.price)):
            price, unit = float(curve.price[row]), float(curve.power[row])
            k, column = np.inf, f"curve {len(program.curved)}"
            if isinstance(curve, Isoelastic):
                k = 1 - 1 / float(curve.elasticity[row])
            weight = price * unit if np.isinf(k) else -price * unit / (k or 1.0)
            none = np.full((1, hours), np.inf)
            program.column(column, -none, none, 1.0, ts * weight)
            program.curved.append((column, int(row), unit, k))
            program.constant -= float(ts.sum()) * weight if k else 0.0


def add_main_grid(program: Program, market: Market, power: float) -> None:
    """Purchases, sigma and its price, and the aggregate limits (model.md: Costs, Prices)."""
    m, t, where = numbers(market.prosumers), numbers(market.tariff), zoned(market)
    ts, count, hours = lengths(market) * often(market), len(m.bus), program.hours
    passive, zones = where.buses @ np.asarray(market.grid.passive), len(where.base)
    seen = where.people.T @ (ts * t.anticipation * where.slope / 2)
    program.column("imports", np.zeros((count, hours)), m.import_max, power,
                   ts * m.import_adder, seen)  # fmt: skip
    everything = np.full((zones, hours), np.inf)
    linear, quadratic = ts * where.base, ts * where.slope / 2
    program.column("sigma", -everything, everything, power, linear, quadratic)
    program.column("net", t.total_min[None], t.total_max[None], power)
    all_ = np.ones((1, count))
    one = np.ones((1, 1))
    program.rows("sigma", passive, power, imports=where.people, sigma=-np.eye(zones))
    every = np.ones((1, zones))
    program.rows("aggregate", np.zeros((1, hours)), power, sigma=every, exports=-all_, net=-one)


def add_network(program: Program, market: Market, power: float) -> None:
    """Bus balances, flows, voltages and line ratings (model.md: Prices, Grid)."""
    m, n = numbers(market.prosumers), numbers(market.grid)
    buses, lines, hours = len(n.passive), len(n.source), program.hours
    typical = float(np.hypot(n.resistance, n.reactance).mean()) if lines else 0.0
    drop = power * typical if typical > 0 else 0.01  # pu, to scale by
    anywhere = np.where(n.rating > 0, np.inf, 0.0)[:, None] + np.zeros((lines, hours))
    supply = np.full((len(n.feeder), hours), np.inf)
    program.ratings = n.rating
    program.column("active", -anywhere, anywhere, power)
    program.column("reactive", -anywhere, anywhere, power)
    program.column("exchange", -supply, supply, power)

    radial = market.grid.model.name in ("lindistflow", "lindist3flow")
    squared = 2 if radial else 1
    spread = np.zeros((1, hours))
    rise = np.stack([a[:, None] ** squared - 1 + spread for a in (n.voltage_min, n.voltage_max)])
    rise[:, n.feeder] = n.feeder_voltage**squared - 1
    turn = np.stack([n.angle_min, n.angle_max])
    turn[:, n.feeder] = 0.0
    program.column("rise", rise[0], rise[1], drop)
    if market.grid.model.name == "paper":
        program.column("angle", turn[0][:, None] + spread, turn[1][:, None] + spread, drop)

    at, leaves = pick(m.bus, buses), pick(n.source, buses) - pick(n.target, buses)
    near, takes = pick(n.source, buses).T, (2 * n.resistance, 2 * n.reactance)
    takes, swaps = tuple(map(sparse.diags, takes)), 0 * leaves
    if market.grid.model.name == "lindist3flow":
        leaves, swaps, near, takes = in_phases(n, leaves, near, takes)
    makes, stores = (pick(where, buses) for where in standing(market))
    program.rows("bus", n.passive + at @ m.load, power, curtailed=at, generation=-makes,
                 charge=stores, discharge=-stores, active=leaves, reactive=swaps,
                 exchange=-pick(n.feeder, buses))  # fmt: skip
    if radial or market.grid.reactive_balance:
        inner = np.setdiff1d(np.arange(buses), n.feeder)
        demand = n.passive_reactive + at @ m.reactive
        most = np.where(np.isin(np.arange(buses), n.feeder)[:, None], 0.0, n.compensation_max)
        program.column("compensation", -most, most, power)
        program.rows("bus_reactive", demand[inner], power, reactive=leaves[inner],
                     active=-swaps[inner],
                     compensation=-pick(np.arange(buses), buses)[inner])  # fmt: skip
    # a line's voltage behind its transformer less that at the target, and that of no rise
    behind = n.tap**-squared
    falls, idle = sparse.diags(behind) @ near - pick(n.target, buses).T, behind - 1
    if radial:
        program.rows("drop", idle[:, None] + np.zeros((lines, hours)), drop, rise=falls,
                     active=-takes[0], reactive=-takes[1])  # fmt: skip
    else:
        add_paper_flows(program, n, falls, idle, leaves.T, power, drop)


def standing(market: Market) -> list[np.ndarray]:
    """The bus of each generator, then of each buffer: its own, or its owner's where that is -1."""
    homes, found = np.asarray(market.prosumers.bus), []
    for table in map(numbers, (market.generators, market.buffers)):
        pairs = zip(table.bus, table.owner, strict=True)
        found.append(np.array([b if b >= 0 else homes[o] for b, o in pairs], int))
    return found


def in_phases(n: Any, leaves: Any, near: Any, takes: Any) -> tuple[Any, Any, Any, Any]:
    """What lines take of buses and of squared voltages where there are three phases.

    By phases' letters: of the squared voltage of p, what q carries takes 2 rt P + 2 xt Q, where

        2 rt_ab = -r + s x   2 xt_ab = -x - s r   (and bc, ca)   with s = sqrt(3)
        2 rt_ba = -r - s x   2 xt_ba = -x + s r   (and cb, ac).

    What stands between a and b takes P/2 + Q/(2 s) and Q/2 - P/(2 s) of a, P/2 - Q/(2 s) and
    Q/2 + P/(2 s) of b; what stands on three a third of each. Such a row's squared voltage is the
    mean of its phases'. Powers that leave by powers, then by the other powers (of P by Q, of Q by
    -P); squared voltages where lines begin; what P and Q on lines take of them.
    """
    root, phase = np.sqrt(3.0), {}
    for letter in "abc":
        phase |= dict.fromkeys(getattr(n, f"phase_{letter}").tolist(), letter)
    leaves, near = sparse.lil_matrix(leaves), sparse.lil_matrix(near)
    swaps = sparse.lil_matrix(leaves.shape)
    by_active, by_reactive = (sparse.lil_matrix(each) for each in takes)
    pairs = zip(n.coupled, n.following, n.mutual_resistance, n.mutual_reactance, strict=True)
    for one, other, r, x in pairs:
        for p, q in ((one, other), (other, one)):
            sign = {"ab": 1, "bc": 1, "ca": 1, "ba": -1, "cb": -1, "ac": -1}[
                phase[n.target[p]] + phase[n.target[q]]
            ]
            by_active[p, q] = -r + sign * root * x
            by_reactive[p, q] = -x - sign * root * r
    for line, second, third in zip(n.terminal, n.second, n.third, strict=True):
        first = n.source[line]
        ends = [first, second] if third < 0 else [first, second, third]
        for end in ends:
            leaves[end, line] = near[line, end] = 1 / len(ends)
        if third < 0:
            assert phase[first] + phase[second] in ("ab", "bc", "ca")
            swaps[first, line], swaps[second, line] = 1 / (2 * root), -1 / (2 * root)
    made = (leaves, swaps, near, by_active, by_reactive)
    leaves, swaps, near, by_active, by_reactive = map(sparse.csr_matrix, made)
    return leaves, swaps, near, (by_active, by_reactive)


def add_unbalance(program: Program, market: Market, buses: Any, most: float, sides: int) -> None:
    """|V2| <= most by half-planes; angles fall by sum_q (xt_pq P_q - rt_pq Q_q) along lines.

    V2 = (e_a + h e_b + h^2 e_c) / 3 with e_p = (w_p - 1) / 2 + j angle_p and h = exp(j 120 deg);
    Re(exp(-j phi) V2) <= most cos(pi / sides) with phi = 2 pi k / sides.
    """
    n = numbers(market.grid)
    count, lines, hours = len(n.passive), len(n.source), program.hours
    leaves = pick(n.source, count) - pick(n.target, count)
    takes = tuple(map(sparse.diags, (2 * n.resistance, 2 * n.reactance)))
    _, _, near, (rt, xt) = in_phases(n, leaves, pick(n.source, count).T, takes)
    free = np.full((count, hours), np.inf)
    free[n.feeder] = 0.0
    program.column("turn", -free, free, 0.01)
    program.rows("turn", np.zeros((lines, hours)), 0.01, turn=near - pick(n.target, count).T,
                 active=-xt / 2, reactive=rt / 2)  # fmt: skip
    for a, b, c in np.asarray(buses):
        for k in range(sides):
            by_square, by_turn = np.zeros((1, count)), np.zeros((1, count))
            for row, degrees in ((a, 0), (b, 120), (c, 240)):
                phi = np.deg2rad(degrees - 360 * k / sides)
                by_square[0, row], by_turn[0, row] = np.cos(phi) / 6, -np.sin(phi) / 3
            limit = np.full((1, hours), -most * np.cos(np.pi / sides))
            program.rows("unbalance", limit, 0.01, bound=True, rise=sparse.csr_matrix(by_square),
                         turn=sparse.csr_matrix(by_turn))  # fmt: skip


def split(n: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lines with an impedance and those without; g and b of the former, kW per pu."""
    square = n.resistance**2 + n.reactance**2
    real, ideal = np.flatnonzero(square > 0), np.flatnonzero(square == 0)
    return real, ideal, n.resistance[real] / square[real], n.reactance[real] / square[real]


def add_paper_flows(
    program: Program, n: Any, falls: Any, idle: np.ndarray, turns: Any, power: float, drop: float
) -> None:
    """p = b dtheta + g dv, q = -g dtheta + b dv, or dtheta = dv = 0 (model.md: Grid)."""
    real, ideal, g, b = split(n)
    some = pick(np.arange(len(n.source)), len(n.source))[real]
    alike = np.zeros((len(n.source), program.hours))
    rest = idle[:, None] + alike
    program.rows("flow_active", -g[:, None] * rest[real], power, active=some,
                 rise=-sparse.diags(g) @ falls[real],
                 angle=-sparse.diags(b) @ turns[real])  # fmt: skip
    program.rows("flow_reactive", -b[:, None] * rest[real], power, reactive=some,
                 rise=-sparse.diags(b) @ falls[real],
                 angle=sparse.diags(g) @ turns[real])  # fmt: skip
    program.rows("same_voltage", rest[ideal], drop, rise=falls[ideal])
    program.rows("same_angle", alike[ideal], drop, angle=turns[ideal])


def add_caps(program: Program, market: Market, power: float) -> None:
    """Levels, their rises and what is counted beside sums (model.md: Caps), rows by cap's units."""
    c, hours = numbers(market.caps), program.hours
    count, unit = len(c.carry), cap_units(market, power)[:, None]
    program.column("cap_level", c.level_min, c.level_max, unit)
    program.column("cap_rise", c.rise_min, c.rise_max, unit, often(market) * c.price[:, None])
    program.column("cap_spare", np.zeros((count, hours)), c.slack[:, None], unit)
    by_cap, adds = sparse.diags(1 / unit[:, 0]), sparse.diags((c.adds == 1).astype(float))
    loads, base = {"load": "curtailed", "reactive": None}, c.base.copy()
    for m, quantity, row, weight in zip(c.cap, c.quantity, c.row, c.weight, strict=True):
        if QUANTITIES[quantity] in loads:
            base[m] += weight * np.asarray(getattr(market.prosumers, QUANTITIES[quantity]))[row]
    program.rows("cap", base / unit, 1.0, cap_spare=by_cap, cap_rise=-by_cap @ adds,
                 cap_level=-by_cap @ (sparse.eye(count) - adds))  # fmt: skip
    matrix, hour = program.families[-1].matrix, np.arange(hours)
    for m, quantity, row, weight in zip(c.cap, c.quantity, c.row, c.weight, strict=True):
        name, at = QUANTITIES[quantity], (m * hours + hour, row * hours + hour)
        name = loads.get(name, name)
        if name is None:
            continue
        where = program.columns[name]
        term = sparse.csr_matrix((weight / unit[m], at), (count * hours, where.stop - where.start))
        matrix[name] = matrix.get(name, 0) + term
    parent = ancestors(market)
    kept = np.where(parent < 0, -(c.carry * c.start)[:, None], 0.0)
    program.rows("level", kept / unit, 1.0, cap_rise=-by_cap)
    follows = np.flatnonzero(parent >= 0)
    link = sparse.csr_matrix(
        (np.ones(len(follows)), (follows, parent[follows])), shape=(hours, hours)
    )
    before = sparse.kron(by_cap @ sparse.diags(c.carry), link)
    program.families[-1].matrix["cap_level"] = sparse.kron(by_cap, sparse.eye(hours)) - before


def add_commitments(program: Program, market: Market, power: float) -> None:
    """What committed prosumers import, and pairs of them trade, is that of the moment's first step
    (model.md: Commitments)."""
    given: Any = market.committed
    moment, hours = np.array(given.moment), program.hours
    apart = [(h, np.flatnonzero(moment == moment[h])[0]) for h in range(hours) if moment[h] >= 0]
    apart = [(h, first) for h, first in apart if h != first]
    same = sparse.csr_matrix(
        (np.tile([1.0, -1.0], len(apart)), (np.repeat(np.arange(len(apart)), 2), np.ravel(apart))),
        shape=(len(apart), hours),
    )
    e, people = numbers(market.trading), len(market.prosumers.bus)
    rows = {
        "imports": [i for i in range(people) if i not in given.free],
        "trades": [k for k, ends in enumerate(zip(e.buyer, e.seller, strict=True))
                   if not {*ends} & {*given.free}],
    }  # fmt: skip
    for name in given.tables:
        count = people if name == "imports" else len(e.limit)
        table: Any = sparse.kron(sparse.csr_matrix(np.eye(count)[rows[name]]), same)
        program.families.append(
            Family(f"committed {name}", {name: table}, np.zeros(table.shape[0]), power)
        )


def cap_units(market: Market, power: float) -> np.ndarray:
    """What is much of each cap, in its unit: a typical power by the heaviest of its terms."""
    c = numbers(market.caps)
    most = np.zeros(len(c.carry))
    np.maximum.at(most, c.cap, np.abs(c.weight).max(axis=1))
    return np.where(most > 0, most, 1.0) * power


@dataclass(frozen=True)
class Conic:
    """The program scaled and without fixed columns: min 1/2 x'Px + q'x, Ax + s = b, s in cones."""

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    cones: list[Any]
    free: np.ndarray  # columns that are not fixed
    fixed: np.ndarray  # value of each column where fixed, 0 elsewhere; scaled
    unit: np.ndarray  # physical value of one unit of each column
    euros: float  # physical value of one unit of the objective
    constant: float  # of the objective, scaled
    kept: list[tuple[Family, np.ndarray, slice]]  # rows kept of each family, and where


def scale(program: Program, euros: float) -> Conic:
    """Scaled conic form; columns of zero width are substituted, empty rows that hold dropped."""
    lower, upper, unit = (np.concatenate(a) for a in (program.lower, program.upper, program.unit))
    lower, upper = lower / unit, upper / unit
    free = np.flatnonzero(lower != upper)
    fixed = np.where(lower == upper, lower, 0.0)
    weight = 2 * np.concatenate(program.quadratic) * unit**2 / euros
    linear = np.concatenate(program.linear) * unit / euros
    blocks, sides, cones, kept, count = [], [], [], [], 0
    for family in sorted(program.families, key=lambda f: f.bound):
        matrix = sparse.csr_matrix(program.matrix(family) @ sparse.diags(unit) / family.unit)
        side = -family.constant.ravel() / family.unit - matrix @ fixed
        matrix = sparse.csr_matrix(matrix[:, free])
        matrix.eliminate_zeros()
        keep = np.flatnonzero((np.diff(matrix.indptr) > 0) | (np.abs(side) > 1e-10))
        kept.append((family, keep, slice(count, count + len(keep))))
        count += len(keep)
        blocks.append(matrix[keep])
        sides.append(side[keep])
        cones.append(clarabel.NonnegativeConeT(len(keep)) if family.bound
                     else clarabel.ZeroConeT(len(keep)))  # fmt: skip
    every = pick(np.arange(len(free)), len(free))
    for sign, bound in [(1, upper[free]), (-1, lower[free])]:
        finite = np.flatnonzero(np.isfinite(bound))
        blocks.append(sign * every[finite])
        sides.append(sign * bound[finite])
        cones.append(clarabel.NonnegativeConeT(len(finite)))
    discs(program, unit, free, blocks, sides, cones)
    bends(program, unit, free, blocks, sides, cones)
    return Conic(
        P=sparse.csc_matrix(sparse.diags(weight[free])),
        q=linear[free],
        A=sparse.csc_matrix(sparse.vstack(blocks)),
        b=np.concatenate(sides),
        cones=[c for c in cones if getattr(c, "dim", 3) > 0],
        free=free,
        fixed=fixed,
        unit=unit,
        euros=euros,
        constant=float(linear @ fixed + weight @ fixed**2 / 2) + program.constant / euros,
        kept=kept,
    )


def discs(
    program: Program, unit: np.ndarray, free: np.ndarray, blocks: list, sides: list, cones: list
) -> None:
    """p^2 + q^2 <= s_max^2 in every hour, for each line with a finite positive rating."""
    if program.ratings is None:
        return
    hours = program.hours
    limited = np.flatnonzero(np.isfinite(program.ratings) & (program.ratings > 0))
    column = np.full(len(unit), -1)
    column[free] = np.arange(len(free))
    cells = (limited[:, None] * hours + np.arange(hours)).ravel()
    rows = 3 * np.arange(len(cells))
    active, reactive = (column[program.columns[k].start + cells] for k in ("active", "reactive"))
    scale_ = unit[program.columns["active"].start] if len(cells) else 1.0
    at = [(rows + 1, active), (rows + 2, reactive)]
    if program.wider:
        at.append((rows, column[program.columns[program.wider].start + cells // hours]))
    blocks.append(sparse.csr_matrix(
        (-np.ones(len(at) * len(cells)), np.concatenate(at, axis=1)),
        shape=(3 * len(cells), len(free)),
    ))  # fmt: skip
    side = np.zeros(3 * len(cells))
    side[rows] = np.repeat(program.ratings[limited], hours) / scale_
    sides.append(side)
    cones.extend(clarabel.SecondOrderConeT(3) for _ in cells)


def bends(
    program: Program, unit: np.ndarray, free: np.ndarray, blocks: list, sides: list, cones: list
) -> None:
    """Columns of curves beyond the powers, logarithms and exponentials that they stand for."""
    place = np.full(len(unit), -1)
    place[free] = np.arange(len(free))
    for name, row, power, k in program.curved:
        for hour in range(program.hours):
            made = program.columns["generation"].start + row * program.hours + hour
            x, y = np.zeros(len(free)), np.zeros(len(free))
            x[place[made]] = -unit[made] / power
            y[place[program.columns[name].start + hour]] = 1.0
            none, one = np.zeros(len(free)), 1.0
            if np.isinf(k):  # exp(-x) <= y
                terms, cone = [(-x, 0.0), (none, one), (y, 0.0)], clarabel.ExponentialConeT()
            elif k == 0:  # exp(y) <= x
                terms, cone = [(y, 0.0), (none, one), (x, 0.0)], clarabel.ExponentialConeT()
            elif k > 0:  # x^k >= y
                terms, cone = [(x, 0.0), (none, one), (y, 0.0)], clarabel.PowerConeT(k)
            else:  # x^k <= y
                share = 1 / (1 - k)
                terms, cone = [(y, 0.0), (x, 0.0), (none, one)], clarabel.PowerConeT(share)
            blocks.append(sparse.csr_matrix(-np.stack([a for a, _ in terms])))
            sides.append(np.array([b for _, b in terms]))
            cones.append(cone)


@dataclass(frozen=True)
class Attempt:
    """One run of the convex solver: its primal and dual answer and what they prove."""

    x: np.ndarray
    z: np.ndarray
    error: float  # bound on the suboptimality over the objective's scale
    infeasibility: float
    gap: float  # scaled objective


def attempt(conic: Conic, tol: float, overrides: dict[str, Any]) -> tuple[str, Attempt]:
    """Run Clarabel once; its status and the answer judged by us."""
    options = clarabel.DefaultSettings()
    options.verbose = False
    options.max_threads = 1
    options.max_iter = 400
    for name in ("tol_feas", "tol_gap_abs", "tol_gap_rel"):
        setattr(options, name, tol)
    for name, value in overrides.items():
        setattr(options, name, value)
    answer = clarabel.DefaultSolver(
        sparse.triu(conic.P, format="csc"), conic.q, conic.A, conic.b, conic.cones, options
    ).solve()
    x, z, s = (np.array(a) for a in (answer.x, answer.z, answer.s))
    with np.errstate(over="ignore", invalid="ignore"):  # an attempt that ran off ends infinite
        missed = conic.A @ x + s - conic.b
        slope = conic.P @ x + conic.q + conic.A.T @ z
        # f* >= f - z's - |z'missed| - |slope|'|x* - x|, the distance taken as the size of x
        gap = abs(z @ s) + abs(z @ missed) + np.abs(slope) @ (1 + np.abs(x))
        value = abs(x @ (conic.P @ x) / 2 + conic.q @ x + conic.constant)
    infeasibility = float(np.abs(missed).max(initial=0.0))
    return str(answer.status), Attempt(x, z, gap / max(value, 1e-3), infeasibility, gap)


RETRIES: list[tuple[float, dict[str, Any]]] = [
    (1.0, {}),
    (1.0, {"static_regularization_constant": 1e-10, "iterative_refinement_max_iter": 50}),
    (1.0, {"equilibrate_max_iter": 50, "max_step_fraction": 0.95}),
    (100.0, {"static_regularization_constant": 1e-7, "iterative_refinement_max_iter": 100}),
]


def best(conic: Conic, tol: float) -> tuple[str, Attempt | None]:
    """The most accurate of a few attempts; stops at the first that reaches `tol`."""
    found: Attempt | None = None
    for factor, overrides in RETRIES:
        status, answer = attempt(conic, factor * tol, overrides)
        if status == "PrimalInfeasible":
            return "infeasible", None
        worst = max(answer.error, answer.infeasibility)
        if np.isfinite(worst) and (found is None or worst < max(found.error, found.infeasibility)):
            found = answer
        if worst < 10 * tol:
            break
    if found is None or max(found.error, found.infeasibility) > ACCEPTED:
        return "failed", found
    return "solved", found


def solve(
    market: Market, tol: float = 1e-10, unbalance: tuple[Any, float, int] | None = None
) -> Reference:
    """The market's v-GNE by the potential's convex program (model.md: Equilibrium), any behavior.

    "infeasible" only with the convex solver's proof. Where equilibria are many (single trades,
    costless storage, angles and voltages of the `paper` grid) it is one of them.
    """
    program = build(market, unbalance)
    power, price = size(market)
    conic = scale(program, power * price * float(lengths(market).mean()))
    status, answer = best(conic, tol)
    if answer is None or status != "solved":
        status = "infeasible" if status == "infeasible" else "failed"
        return nothing(market, program, status)
    x, table, prices = read(market, program, conic, answer.x, answer.z)
    plan = unpack(market, table)
    costs = prosumer_costs(market, table)
    linear, quadratic = (np.concatenate(a) for a in (program.linear, program.quadratic))
    return Reference(
        status="solved",
        plan=plan,
        prices=prices,
        trade_prices=midpoints(market, np.asarray(prices.balance)),
        sigma=table["sigma"].sum(0),
        costs=costs,
        potential=float(linear @ x + quadratic @ x**2) + held_at_first(market) + program.constant,
        total_cost=float(costs.sum()),
        gap=answer.gap * conic.euros,
        error=answer.error,
        infeasibility=answer.infeasibility,
    )


def extensive(market: Market, scenarios: int, split: int) -> float:
    """Least expected potential of scenarios side by side whose first `split` steps are the same.

    `market` has the scenarios one behind the other, each a path of its own. What is decided in a
    shared step is tied to what the first scenario decides there. NaN where there is no plan.
    """
    program, hours = build(market), len(lengths(market))
    each = hours // scenarios
    first = np.arange(split)
    tie = sparse.vstack([
        pick(first, hours).T - pick(first + k * each, hours).T for k in range(1, scenarios)
    ])  # fmt: skip
    for name, where in dict(program.columns).items():
        count = (where.stop - where.start) // hours
        rows: Any = sparse.kron(sparse.eye(count), tie)
        unit = program.unit[list(program.columns).index(name)]
        much = float(unit.max()) if unit.size else 1.0
        program.families.append(Family("tied", {name: rows}, np.zeros(rows.shape[0]), much))
    power, price = size(market)
    conic: Any = scale(program, power * price * float(lengths(market).mean()))
    status, answer = best(conic, 1e-9)
    if answer is None or status != "solved":
        return float("nan")
    value = (
        conic.q @ answer.x + conic.P.dot(answer.x) @ answer.x / 2 + conic.constant
    ) * conic.euros
    return float(value) + held_at_first(market)


def least_peak(market: Market, line: int | None) -> float | None:
    """The least value below which a line's apparent power can stay all day, kVA; None if unknown.

    Without a line, that of the net exchange with the main grid, kW. That limit itself, and the
    line's rating, are left out.
    """
    program = build(market)
    hours = program.hours
    everything = np.full((1, 1), np.inf)
    for store in (program.linear, program.quadratic):
        store[:] = [np.zeros_like(a) for a in store]
    power, _ = size(market)
    program.column("peak", -everything, everything, power, 1.0)
    places = list(program.columns)
    if line is None:
        net = places.index("net")
        program.lower[net], program.upper[net] = np.full(hours, -np.inf), np.full(hours, np.inf)
        program.rows("below", np.zeros((1, hours)), power, bound=True, net=np.ones((1, 1)))
        program.families[-1].matrix["peak"] = sparse.csr_matrix(-np.ones((hours, 1)))
    else:
        assert program.ratings is not None
        program.ratings = program.ratings.copy()
        program.ratings[line] = np.inf
        for name in ("active", "reactive"):
            free = np.full((len(program.ratings), hours), np.inf)
            free[program.ratings == 0] = 0.0
            at = places.index(name)
            program.lower[at], program.upper[at] = -free.ravel(), free.ravel()
        directions = np.linspace(0, 2 * np.pi, 720, endpoint=False)
        for name, part in (("active", np.cos(directions)), ("reactive", np.sin(directions))):
            only = sparse.csr_matrix((part, (np.arange(720), np.full(720, line))),
                                     shape=(720, len(program.ratings)))  # fmt: skip
            terms = {name: only}
            if name == "active":
                program.rows("below", np.zeros((720, hours)), power, bound=True, **terms)
                program.families[-1].matrix["peak"] = sparse.csr_matrix(-np.ones((720 * hours, 1)))
            else:
                program.families[-1].matrix[name] = sparse.kron(only, sparse.eye(hours))
    conic = scale(program, power)
    status, answer = best(conic, 1e-9)
    if answer is None or status != "solved":
        return None
    return float((conic.q @ answer.x + conic.constant) * conic.euros)


def read(
    market: Market, program: Program, conic: Conic, x: np.ndarray, z: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray], Rows]:
    """A convex solver's scaled answer: all columns, the same by name as tables, and prices.

    `z` holds the multipliers of the families of rows, as `conic.kept` has them.
    """
    full = conic.fixed.copy()
    full[conic.free] = x
    full *= conic.unit
    duals = {}
    for family, keep, where in conic.kept:
        if not family.bound:
            value = np.zeros(family.constant.size)
            value[keep] = z[where] * conic.euros / family.unit
            duals[family.name] = value.reshape(family.constant.shape)
    table = {k: full[where].reshape(-1, program.hours) for k, where in program.columns.items()}
    return full, table, price_rows(market, duals)


def nothing(market: Market, program: Program, status: Any) -> Reference:
    """A reference without an answer: NaN everywhere."""
    hours = program.hours
    table = {
        k: np.full(((where.stop - where.start) // hours, hours), np.nan)
        for k, where in program.columns.items()
    }
    plan = unpack(market, table)
    shapes = {f.name: np.full(f.constant.shape, np.nan) for f in program.families}
    prices = price_rows(market, shapes)
    none = float("nan")
    return Reference(
        status, plan, prices, midpoints(market, np.asarray(prices.balance)), table["sigma"].sum(0),
        np.full(len(table["imports"]), np.nan), none, none, none, none, none,
    )  # fmt: skip


def unpack(market: Market, table: dict[str, np.ndarray]) -> Plan:
    """Columns as a plan; what the grid model lacks is 0."""
    hours = market.prosumers.load.shape[1]
    grid = market.grid
    absent = {
        "active": len(grid.source),
        "reactive": len(grid.source),
        "exchange": len(grid.feeder),
        "angle": len(grid.passive),
        "voltage": len(grid.passive),
        "compensation": len(grid.passive),
    }
    entries = {name: np.zeros((count, hours)) for name, count in absent.items()} | table
    if "rise" in table:
        entries["voltage"] = 1 + table["rise"]
    caps = {k: jnp.asarray(table[f"cap_{k}"]) for k in CAPPED if f"cap_{k}" in table}
    names = ("generation", "charge", "discharge", "energy", "imports", "exports", "curtailed",
             "trades", *absent)  # fmt: skip
    return Plan(**{name: jnp.asarray(entries[name]) for name in names}, **caps)


def price_rows(market: Market, duals: dict[str, np.ndarray]) -> Rows:
    """Multipliers in EUR per hour and row unit as prices; on the gauge mu_tg = 0."""
    ts, n = lengths(market) * often(market), numbers(market.grid)
    hours, (lines, buses) = market.prosumers.load.shape[1], (len(n.source), len(n.passive))
    none = np.zeros((lines, hours))
    voltage, angle = duals.get("drop", none).copy(), none.copy()
    if "flow_active" in duals:
        # p - g dv - b dth and q - b dv + g dth are -K (drops - Z flows), K = [[g, b], [b, -g]]
        real, ideal, g, b = split(n)
        active, reactive = duals["flow_active"], duals["flow_reactive"]
        voltage[real] = -(g[:, None] * active + b[:, None] * reactive)
        angle[real] = -(b[:, None] * active - g[:, None] * reactive)
        voltage[ideal], angle[ideal] = duals["same_voltage"], duals["same_angle"]
    bus_reactive = np.zeros((buses, hours))
    if "bus_reactive" in duals:
        bus_reactive[np.setdiff1d(np.arange(buses), n.feeder)] = duals["bus_reactive"]
    per_kwh = {
        "balance": duals["balance"],
        "aggregate": duals["aggregate"][0],
        "bus": duals.get("bus", np.zeros((buses, hours))),
        "bus_reactive": bus_reactive,
        "exchange": np.zeros(hours),
        "voltage": voltage,
        "angle": angle,
    }
    power, _ = size(market)
    caps = {k: jnp.asarray(duals[k] / cap_units(market, power)[:, None] / often(market))
            for k in ("cap", "level") if k in duals}  # fmt: skip
    return Rows(
        **caps,
        energy=jnp.asarray(duals["energy"] / often(market)),
        **{name: jnp.asarray(value / ts) for name, value in per_kwh.items()},
    )


def midpoints(market: Market, balance: np.ndarray) -> np.ndarray:
    """mu_tr = (pi_i + pi_j - c_tr_(i,j) - c_tr_(j,i)) / 2 (model.md: Prices)."""
    e = numbers(market.trading)
    return (balance[e.buyer] + balance[e.seller] - (e.fee_buyer + e.fee_seller)) / 2


def held_at_first(market: Market) -> float:
    """What buffers hold at the start, at the value of what they hold at the end, EUR."""
    k = numbers(market.buffers)
    return float(k.final_value @ k.energy_start) * ends(market).sum()


def prosumer_costs(market: Market, table: dict[str, np.ndarray]) -> np.ndarray:
    """J_i, EUR, prosumer by prosumer (model.md: Costs)."""
    g, k, e = map(numbers, (market.generators, market.buffers, market.trading))
    own = numbers(market.prosumers)
    ts = lengths(market) * often(market)
    where = zoned(market)
    price = where.people.T @ (where.base + where.slope * table["sigma"])
    hourly = (price + own.import_adder) * table["imports"]
    hourly = hourly - (where.people.T @ where.export + own.export_adder) * table["exports"]
    for unit, owner in enumerate(g.owner):
        p = table["generation"][unit]
        hourly[owner] += g.quadratic[unit] * p**2 + g.linear[unit] * p
    curves: Any = market.generators.curves
    for curve in curves:
        for unit in np.flatnonzero(np.asarray(curve.price)):
            x = -table["generation"][unit] / float(curve.power[unit])
            if isinstance(curve, Isoelastic):
                exponent = 1 - 1 / float(curve.elasticity[unit])
                used = (x**exponent - 1) / exponent if exponent else np.log(x)
            else:
                used = 1 - np.exp(-x)
            hourly[g.owner[unit]] -= float(curve.price[unit] * curve.power[unit]) * used
    for unit, owner in enumerate(k.owner):
        for p in (table["charge"][unit], table["discharge"][unit]):
            hourly[owner] += k.quadratic[unit] * p**2 + k.linear[unit] * p
        gained = table["energy"][unit] - k.energy_start[unit]
        hourly[owner] -= k.final_value[unit] * gained * ends(market) / ts
    for m, owner in enumerate(np.asarray(market.caps.owner)):
        if owner >= 0:
            hourly[owner] += float(market.caps.price[m]) * table["cap_rise"][m] / lengths(market)
    for pair, trade in enumerate(table["trades"]):
        volume = (e.toll[pair] + e.reluctance[pair] / 2) * abs(trade) + e.quadratic[pair] * trade**2
        hourly[e.buyer[pair]] += e.fee_buyer[pair] * trade + volume
        hourly[e.seller[pair]] += -e.fee_seller[pair] * trade + volume
    return hourly @ ts


def violations(market: Market, plan: Plan) -> dict[str, float]:
    """Largest violation of every family of rows, of the bounds and of the ratings.

    kW, kvar, kWh or per unit; sigma and the net exchange are those of the plan.
    """
    program = build(market)
    values = {k: np.asarray(v) for k, v in vars(plan).items() if v is not None}
    values |= {f"cap_{k}": values[k] for k in CAPPED if k in values}
    where = zoned(market)
    values["sigma"] = where.people @ values["imports"]
    values["sigma"] = values["sigma"] + where.buses @ np.asarray(market.grid.passive)
    values["net"] = values["sigma"].sum(0)[None] - values["exports"].sum(0)
    tolled = tolled_pairs(market)
    values["volume"] = np.abs(values["trades"][tolled])
    values["rise"] = values["voltage"] - 1
    x = np.concatenate([values[k].ravel() for k in program.columns])
    worst: dict[str, float] = {}
    for family in program.families:
        error = program.matrix(family) @ x + family.constant.ravel()
        error = np.maximum(error, 0.0) if family.bound else np.abs(error)
        worst[family.name] = float(error.max(initial=0.0))
    over = np.maximum(x - np.concatenate(program.upper), np.concatenate(program.lower) - x)
    for name, where in program.columns.items():
        worst[f"bounds of {name}"] = float(np.maximum(over[where], 0.0).max(initial=0.0))
    if program.ratings is not None:
        load = np.hypot(values["active"], values["reactive"])
        excess = np.maximum(load - program.ratings[:, None], 0.0)
        worst["rating"] = float(excess.max(initial=0.0))
    return worst
