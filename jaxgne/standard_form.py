"""The market's program in the standard form that quadratic and conic solvers take.

The v-GNE are the minimisers of the potential over all plans (model.md: Equilibrium). So any convex
solver clears a market, slower, and what it finds can be held against the package's own:

    made = jaxgne.convex(market)
    # x, y = some solver of min x'Px/2 + q'x with l <= Ax <= u and discs
    jaxgne.certify(market, made.plan(x), made.prices(y))

For solvers of conic programs, as Clarabel, whose names `cones` has:

    P, q, A, b, *_ = made.conic()
    cones = [getattr(clarabel, kind)(*numbers) for kind, *numbers in made.cones]
    # z = the multipliers of A that it finds
    jaxgne.certify(market, made.plan(x), made.prices(made.multipliers(z)))
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from .commitments import ties
from .curves import Cones
from .each import for_one
from .market import Market, cast
from .matrix import as_rows, flat, linear
from .model import (
    Plan,
    Rows,
    at_prosumers,
    boxes,
    counted,
    curvature,
    ended,
    families,
    limits,
    own_gradient,
    passive_in_zones,
    rows_like,
    toll,
    weights,
    without_curves,
    zeros,
    zone_bases,
    zone_slopes,
)
from .runner import jnp, wide
from .validation import gate


class Conic(NamedTuple):
    """min x'Px/2 + q'x with b - Ax in a product of cones.

    These are `equal` zeros, `above` non-negative numbers, then `discs` second-order cones of three
    rows each; then come those of curves, if there are any, also of three rows (`Convex.cones`).
    """

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    equal: int
    above: int
    discs: int


class Curved(NamedTuple):
    """Cones of costs that are curves, one for each of them and hour (`jaxgne.curves.Cones`)."""

    columns: Int[np.ndarray, "K 2"]  # the power, and what it costs beside other costs, EUR/h
    share: Float[np.ndarray, " K"]  # of a power cone; NaN is the exponential cone
    terms: Float[np.ndarray, "K 3 3"]  # its rows by power, cost and constant


@dataclass(frozen=True, eq=False)
class Convex:
    """min x'Px/2 + q'x over l <= Ax <= u, a disc for each line and hour, and cones of curves.

    `x` is a plan, table after table in the order of `Plan`, each row after row, in its units; then
    the size of each trade, kW, the import of each zone and hour, kW, and what each curve costs each
    hour, EUR/h. The value is the potential, EUR, less `constant`. `A` holds the market's rows that
    are limited, the imports of zones, the sizes of trades, and all finite bounds. `discs` are two
    entries of `x` each, active and reactive flow, whose length is at most its `radius`, kVA.
    `curved` says the cones of curves; a market without any has none, and is a quadratic program
    but for its discs.
    """

    market: Market
    P: Any  # scipy.sparse.csc_array, symmetric, EUR per unit^2
    q: np.ndarray  # EUR per unit
    A: Any  # scipy.sparse.csc_array
    l: np.ndarray  # noqa: E741 - the name that solvers give it
    u: np.ndarray
    discs: Int[np.ndarray, "C 2"]
    radius: Float[np.ndarray, " C"]
    constant: float
    kept: np.ndarray  # which of the market's rows come first in `A`
    curved: Curved

    @property
    def cones(self) -> list[tuple]:
        """The cones of `conic()`, in the order of its rows: Clarabel's name and its numbers."""
        both, up, down = self._sides()
        each = [("ExponentialConeT",) if np.isnan(share) else ("PowerConeT", float(share))
                for share in self.curved.share]  # fmt: skip
        flat = [("ZeroConeT", both.size), ("NonnegativeConeT", up.size + down.size)]
        return [*flat, *[("SecondOrderConeT", 3)] * len(self.discs), *each]

    def plan(self, x: np.ndarray) -> Plan:
        """The plan of a solution."""
        like, found, at = zeros(self.market), {}, 0
        for name in families(like):
            table = getattr(like, name)
            found[name] = jnp.asarray(x[at : at + table.size].reshape(table.shape), table.dtype)
            at += table.size
        return Plan(**found)

    def prices(self, y: np.ndarray) -> Rows:
        """The prices, EUR/kWh, of multipliers y of `A`, positive at `u`.

        With them Px + q + A'y is 0 but for what discs and curves add.
        """
        like = rows_like(self.market)
        each = np.zeros(self.kept.size)
        each[self.kept] = y[: np.count_nonzero(self.kept)]
        found = as_rows(each, like)
        return jax.tree.map(
            lambda a, w, b: (a / w).astype(b.dtype), found, weights(self.market), like
        )

    def conic(self) -> Conic:
        """The same for solvers of conic programs; rows with two limits stand twice."""
        from scipy import sparse

        A = self.A.tocsr()
        both, up, down = self._sides()
        count, ones = len(self.discs), np.ones(len(self.discs))
        rows = 3 * np.arange(count)[:, None] + np.array([1, 2])
        flows = sparse.csr_array(
            (-np.repeat(ones, 2), (rows.ravel(), self.discs.ravel())), shape=(3 * count, A.shape[1])
        )
        radii = np.stack([self.radius, 0 * ones, 0 * ones], axis=1).ravel()
        bent, constant = self._bent()
        stacked = sparse.vstack([A[both], A[up], -A[down], flows, bent], format="csc")
        b = np.concatenate([self.u[both], self.u[up], -self.l[down], radii, constant])
        return Conic(self.P, self.q, stacked, b, both.size, up.size + down.size, count)

    def multipliers(self, z: np.ndarray) -> np.ndarray:
        """The multipliers of `A` from those of `conic()`."""
        both, up, down = self._sides()
        y = np.zeros(len(self.l))
        y[both] = z[: both.size]
        y[up] = z[both.size : both.size + up.size]
        y[down] -= z[both.size + up.size : both.size + up.size + down.size]
        return y

    def _bent(self) -> tuple[Any, np.ndarray]:
        """The rows of curves' cones, and their constants."""
        from scipy import sparse

        columns, share, terms = self.curved
        rows = np.broadcast_to(np.arange(3 * share.size).reshape(-1, 3, 1), (share.size, 3, 2))
        place = np.broadcast_to(columns[:, None, :], rows.shape)
        made = sparse.csr_array(
            (-terms[:, :, :2].ravel(), (rows.ravel(), place.ravel())),
            shape=(3 * share.size, self.q.size),
        )
        made.eliminate_zeros()
        return made, terms[:, :, 2].ravel()

    def _sides(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows that are equations, that have an upper and that have a lower limit."""
        same = self.l == self.u
        sides = (same, ~same & np.isfinite(self.u), ~same & np.isfinite(self.l))
        return tuple(np.flatnonzero(side) for side in sides)  # pyright: ignore[reportReturnType]


@for_one()
def convex(market: Market) -> Convex:
    """The market's program for an outside solver, in float64, on the host.

    Raises `ValueError` as `clear` does, and for curves of a class that says no cones; `TypeError`
    when traced.
    """
    from scipy import sparse

    gate(market, "convex")
    with wide():
        market = cast(market, jnp.float64)
        return _made(market, sparse)


def _made(market: Market, sparse: Any) -> Convex:
    plan, of = zeros(market), linear(market)
    hours, pairs = of.hours, market.trading.buyer.shape[0]
    width = flat(plan).size
    sizes = width + np.arange(pairs * hours)
    zones = zone_slopes(market).shape[0]
    total = width + pairs * hours + np.arange(zones * hours)
    first = width + (pairs + zones) * hours
    curved = _curved(market, of.columns["generation"].start, first)
    bent = curved.share.size // hours
    columns = first + bent * hours

    def spread(entries: Any, of_sizes: Any, of_total: Any, of_bent: Any) -> np.ndarray:
        whole = jax.tree.map(lambda a, b: np.broadcast_to(a, b.shape), entries, plan)
        shapes = (pairs, hours), (zones, hours), (bent, hours)
        ends = zip((of_sizes, of_total, of_bent), shapes, strict=True)
        return np.concatenate(
            [flat(whole), *(np.broadcast_to(a, shape).ravel() for a, shape in ends)]
        )

    ts, plain, base = counted(market), without_curves(market), zone_bases(market)
    bend = spread(curvature(plain, plan), 0.0, ts * zone_slopes(market), 0.0)
    cost = own_gradient(plain, plan, jnp.zeros_like(base))
    q = spread(cost, np.asarray(toll(market)), ts * base, ts)

    low, high = (flat(side) for side in limits(market))
    kept = np.isfinite(low) | np.isfinite(high)
    own = of.matrix[np.flatnonzero(kept), :width]
    own.resize((own.shape[0], columns))
    constant = of.constant[kept]

    def block(entries: list[tuple[np.ndarray, float]], at: Any = None) -> Any:
        """One row for each place of the first, the sum of number times column: `at` these rows."""
        count = entries[0][0].size
        rows = [np.arange(e.size) for e, _ in entries] if at is None else at
        where = np.stack([np.concatenate(rows), np.concatenate([e for e, _ in entries])])
        numbers = np.concatenate([np.full(e.size, number) for e, number in entries])
        return sparse.csr_array((numbers, tuple(where)), shape=(count, columns))

    imports = np.arange(of.columns["imports"].start, of.columns["imports"].stop)
    trades = np.arange(of.columns["trades"].start, of.columns["trades"].stop)
    drawn: Any = np.arange(zones * hours).reshape(zones, hours)  # the row of each import
    drawn = np.broadcast_to(np.asarray(at_prosumers(market, drawn)), plan.imports.shape)
    passive = np.asarray(passive_in_zones(market, market.grid.passive)).ravel()
    shut = (np.asarray(market.grid.rating) <= 0)[:, None]  # their disc is one point
    bound = [
        np.concatenate([flat(_without(side, shut)), np.full(columns - width, fill)])
        for side, fill in zip(boxes(market), (-np.inf, np.inf), strict=True)
    ]
    bound_at = np.flatnonzero(np.isfinite(bound[0]) | np.isfinite(bound[1]))
    none, free = np.zeros(trades.size), np.full(trades.size, np.inf)
    same = ties(market, of.columns)
    at = [np.arange(total.size), drawn.ravel()]
    tables = [
        (own, low[kept] - constant, high[kept] - constant),
        (block([(total, 1.0), (imports, -1.0)], at), passive, passive),
        (block([(same[0], 1.0), (same[1], -1.0)]), np.zeros(same[0].size), np.zeros(same[0].size)),
        (block([(sizes, 1.0), (trades, -1.0)]), none, free),
        (block([(sizes, 1.0), (trades, 1.0)]), none, free),
        (block([(bound_at, 1.0)]), bound[0][bound_at], bound[1][bound_at]),
    ]
    matrices, lows, highs = zip(*tables, strict=True)
    rating = np.asarray(market.grid.rating)
    lines = np.flatnonzero(np.isfinite(rating) & (rating > 0))
    flows = [of.columns[name].start + lines[:, None] * hours + np.arange(hours)
             for name in ("active", "reactive")]  # fmt: skip
    stores = market.buffers
    return Convex(
        market=market,
        P=sparse.csc_array(sparse.diags_array(bend)),
        q=q,
        A=sparse.vstack(matrices, format="csc"),
        l=np.concatenate(lows),
        u=np.concatenate(highs),
        discs=np.stack([a.ravel() for a in flows], axis=1),
        radius=np.repeat(rating[lines], hours),
        constant=float(jnp.sum(stores.final_value * stores.energy_start) * jnp.sum(ended(market))),
        kept=kept,
        curved=curved,
    )


def _curved(market: Market, made: int, first: int) -> Curved:
    """The cones of curves; generation begins at the column `made`, their own costs at `first`."""
    hours = market.prosumers.load.shape[1]
    found = [(type(curve).__name__, curve.cones()) for curve in market.generators.curves]
    unknown = [name for name, cones in found if cones is None]
    if unknown:
        raise ValueError(
            f"convex: {' and '.join(unknown)} costs have no cones; say them in a method `cones` "
            "(jaxgne.curves.Cones), or give devices.elastic(utility=) a function to cut in pieces."
        )
    none = Cones(np.zeros(0, bool), np.zeros(0), np.zeros((0, 3, 3)))
    known = [none, *(cones for _, cones in found if cones is not None)]
    unit = np.concatenate([np.flatnonzero(cones.given) for cones in known])
    share, terms = (
        np.concatenate([getattr(cones, name)[cones.given] for cones in known])
        for name in ("share", "terms")
    )
    power = made + unit[:, None] * hours + np.arange(hours)
    columns = np.stack([power.ravel(), first + np.arange(power.size)], axis=1)
    return Curved(columns, np.repeat(share, hours), np.repeat(terms, hours, axis=0))


def _without(bound: Plan, shut: np.ndarray) -> Plan:
    """Bounds that let nothing flow on lines that are `shut`."""
    flows = (jnp.where(shut, 0.0, flow) for flow in (bound.active, bound.reactive))
    return replace(bound, **dict(zip(("active", "reactive"), flows, strict=True)))
