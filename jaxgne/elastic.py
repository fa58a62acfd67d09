"""Linear programs over all plans of a market: whether there is one, and what must give way.

A line's disc p^2 + q^2 <= s^2 is met by tangents, added where flows are found outside of it.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np

from .commitments import ties
from .feasibility import infeasibility_proof
from .market import Market, cast
from .matrix import Linear, as_rows, flat, linear
from .model import OF_CAPS, Rows, boxes, limits, rows_like, weights
from .programs import program as compiled
from .runner import jnp
from .runner import wide as x64
from .scales import cap_sizes
from .tables import has_caps

LARGEST = 200_000  # entries of a plan up to which linear programs take seconds
_PRECISE = 1e-9  # to which linear programs are solved, and discs are met, relative
_ROUNDS = 60  # of tangents: each halves the angle that is left, or more
_TANGENTS = 8  # to each disc to begin with


@dataclass
class Program:
    """min cost x over lower <= x <= upper, equal x = side, less x <= most, and discs; scaled.

    The first columns are the plan's, `unit` of each being 1; `more` holds those added, by name.
    """

    market: Market
    of: Linear
    power: float  # kW, what powers and energies are measured in; levels of caps by what is much
    unit: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    equal: Any  # scipy.sparse
    side: np.ndarray
    row_unit: np.ndarray
    kept: np.ndarray  # rows of the market that are limited
    total: np.ndarray  # the column of each hour's net exchange, where that is limited
    cost: np.ndarray
    lines: np.ndarray  # those with a disc
    rating: np.ndarray  # theirs
    slack: np.ndarray  # the column that widens each line's disc, -1 where none does
    around: bool = False  # whether the first tangents are there
    less: list[Any] = field(default_factory=list)
    most: list[np.ndarray] = field(default_factory=list)

    def table(self, name: str) -> np.ndarray:
        """Columns of one of the plan's tables, row by hour."""
        where = self.of.columns[name]
        return np.arange(where.start, where.stop).reshape(-1, self.of.hours)

    def add(self, columns: Any, lower: Any, upper: Any, cost: Any) -> np.ndarray:
        """More columns, given by their entries in `equal`; their indices."""
        from scipy import sparse

        first, count = len(self.cost), columns.shape[1]
        self.equal = sparse.hstack([self.equal, columns], format="csr")
        self.lower = np.concatenate([self.lower, np.broadcast_to(lower, count)])
        self.upper = np.concatenate([self.upper, np.broadcast_to(upper, count)])
        self.cost = np.concatenate([self.cost, np.broadcast_to(cost, count)])
        return np.arange(first, first + count)

    def below(self, terms: list[tuple[np.ndarray, Any]], most: Any) -> None:
        """Inequalities: the sum of number times column, entry by entry, is at most `most`."""
        from scipy import sparse

        count = len(terms[0][0])
        entries = [np.broadcast_to(number, count) for _, number in terms]
        columns = np.concatenate([column for column, _ in terms])
        rows = np.tile(np.arange(count), len(terms))
        size = (count, len(self.cost))
        self.less.append(sparse.csr_array((np.concatenate(entries), (rows, columns)), shape=size))
        self.most.append(np.broadcast_to(np.asarray(most, float), count))

    def tangents(self, lines: np.ndarray, hours: np.ndarray, turned: np.ndarray) -> None:
        """Bounds on what lines carry in the directions `turned` (radians), in those hours."""
        active, reactive = self.table("active"), self.table("reactive")
        line = self.lines[lines]
        terms = [(active[line, hours], np.cos(turned)), (reactive[line, hours], np.sin(turned))]
        wider = self.slack[lines]
        free = wider >= 0  # a line that nothing widens has a number 0 at any column
        terms.append((np.where(free, wider, 0), np.where(free, -1.0, 0.0)))
        self.below(terms, self.rating[lines])

    def solve(self) -> Any:
        """The answer of HiGHS with all discs met, or its last word where there is none."""
        if not self.around:
            self._around()
        found = self.once()
        for _ in range(_ROUNDS):
            if found.x is None or not self.cut(found.x):
                break
            found = self.once()
        return found

    def _around(self) -> None:
        """The first tangents of every disc, and what is committed as one."""
        self.around = True
        one, other = ties(self.market, self.of.columns)
        for sign in (1.0, -1.0):
            self.below([(one, sign), (other, -sign)], 0.0)
        shape = (len(self.lines), self.of.hours, _TANGENTS)
        line, hour, way = (a.ravel() for a in np.indices(shape))
        self.tangents(line, hour, 2 * np.pi * way / _TANGENTS)

    def once(self) -> Any:
        """The answer of HiGHS with the tangents so far."""
        from scipy import sparse
        from scipy.optimize import linprog

        width = len(self.cost)
        less = [sparse.csr_array((a.data, a.indices, a.indptr), (a.shape[0], width))
                for a in self.less]  # fmt: skip
        top = max(float(np.abs(self.cost).max(initial=0.0)), 1e-300)
        for precise in (_PRECISE, 1e-7):
            found = linprog(
                self.cost / top,
                A_ub=sparse.vstack(less, format="csr"),
                b_ub=np.concatenate(self.most),
                A_eq=self.equal,
                b_eq=self.side,
                bounds=np.stack([self.lower, self.upper], axis=1),
                method="highs",
                options={
                    "primal_feasibility_tolerance": precise,
                    "dual_feasibility_tolerance": precise,
                },
            )
            if found.status != 4:  # numerical difficulties
                break
        return found

    def cut(self, x: np.ndarray) -> bool:
        """Add tangents where flows lie outside their discs; whether there were any."""
        active, reactive = (x[self.table(name)[self.lines]] for name in ("active", "reactive"))
        wider = np.where(self.slack >= 0, x[self.slack], 0.0)
        room = (self.rating + wider)[:, None]
        over = np.hypot(active, reactive) - room > _PRECISE * np.maximum(room, 1e-3)
        if not over.any():
            return False
        line, hour = np.nonzero(over)
        self.tangents(line, hour, np.arctan2(reactive, active)[over])
        return True


def program(market: Market) -> Program:
    """All plans that meet all limits of a market, without costs."""
    from scipy import sparse

    of = linear(market)
    with x64():
        wide = cast(market, jnp.float64)
        lower, upper = (flat(a) for a in boxes(wide))
        low, high = (flat(a) for a in limits(wide))
    power = typical_power(wide)
    per_row, unit = np.full(len(of.constant), power), np.full(len(lower), power)
    for name in ("voltage", "angle"):
        per_row[of.rows[name]] = unit[of.columns[name]] = 1.0
    if has_caps(market):
        with x64():
            much = np.repeat(np.asarray(cap_sizes(wide)[1]), of.hours)
        for name in ("cap", "level"):
            per_row[of.rows[name]] = much
        for name in OF_CAPS:
            unit[of.columns[name]] = much
    kept = np.flatnonzero(np.isfinite(low) | np.isfinite(high))
    per_row = per_row[kept]
    matrix = of.matrix[kept][:, : len(lower)]
    equal = sparse.diags_array(1 / per_row) @ matrix @ sparse.diags_array(unit)
    low, high = ((a - of.constant)[kept] / per_row for a in (low, high))
    total = np.arange(of.rows["aggregate"].start, of.rows["aggregate"].stop)
    rated = np.flatnonzero(np.isfinite(np.asarray(wide.grid.rating)))
    rated = rated if market.grid.model.networked else rated[:0]
    made = Program(
        market=wide,
        of=of,
        power=power,
        unit=unit,
        lower=lower / unit,
        upper=upper / unit,
        equal=sparse.csr_array(equal),
        side=np.where((low == high) & ~np.isin(kept, total), low, 0.0),
        row_unit=per_row,
        kept=kept,
        total=np.full(of.hours, -1),
        cost=np.zeros(len(lower)),
        lines=rated,
        rating=np.asarray(wide.grid.rating)[rated] / power,
        slack=np.full(len(rated), -1),
    )
    # what such a row comes to is a column of its own
    valued = np.flatnonzero((low != high) | np.isin(kept, total))
    value = sparse.csr_array(
        (-np.ones(len(valued)), (valued, np.arange(len(valued)))), shape=(len(kept), len(valued))
    )
    columns = made.add(value, low[valued], high[valued], 0.0)
    within = np.isin(kept[valued], total)
    made.total[kept[valued][within] - total[0]] = columns[within]
    return made


def typical_power(market: Market) -> float:
    """The largest total load of any hour, or the largest power of a device where there is none."""
    load = np.abs(np.asarray(market.prosumers.load)).sum(0)
    total = float((load + np.abs(np.asarray(market.grid.passive)).sum(0)).max())
    devices = (market.generators.power_max, market.buffers.charge_max)
    return total or max(float(np.asarray(a).max(initial=0.0)) for a in devices) or 1.0


def fits(market: Market, most: int = LARGEST) -> bool:
    """Whether a plan has at most so many entries, and the market's numbers are any."""
    hours = market.prosumers.load.shape[-1]
    tables = (market.generators.owner, market.trading.buyer)
    count = sum(a.shape[0] for a in tables) + 3 * market.buffers.owner.shape[0]
    count += 3 * (market.prosumers.bus.shape[0] + len(market.caps.names))
    count += 2 * market.grid.source.shape[0] + 3 * market.grid.passive.shape[0]
    if count * hours > most:
        return False
    return not any(bool(np.isnan(np.asarray(leaf)).any()) for leaf in jax.tree.leaves(market))


def proof(market: Market, least: float) -> Rows | None:
    """A ray that proves that no plan meets all limits, by more than `least`; None if none is found.

    The plan that misses rows least has multipliers that are such a ray where it misses any (Farkas'
    lemma). Nothing is taken on trust: `infeasibility_proof` judges the ray by the market alone.
    """
    from scipy import sparse

    made = program(market)
    count = len(made.kept)
    own = sparse.eye_array(count, format="csr")
    made.add(sparse.hstack([own, -own], format="csr"), 0.0, np.inf, 1.0)
    with x64():
        weight = flat(jax.tree.map(jnp.broadcast_to, weights(made.market), _shapes(made.market)))
    made._around()
    for _ in range(_ROUNDS):
        found = made.once()
        if found.x is None or found.fun <= _PRECISE:
            return None
        price = np.zeros(len(made.of.constant))
        price[made.kept] = -found.eqlin.marginals / made.row_unit
        with x64():
            ray = as_rows(price / weight, rows_like(made.market))
            if float(_judged(made.market, ray)) > least:
                return ray
        if not made.cut(found.x):
            return None
    return None


def _shapes(market: Market) -> Any:
    return jax.tree.map(lambda a: a.shape, rows_like(market))


_judged = compiled("the proof of infeasibility", once=True)(infeasibility_proof)
