"""A leader sets numbers of a market for its own aim, knowing what the market then clears to.

A Stackelberg game, or bilevel program: with u(x) the equilibrium at the leader's numbers x,

    min f(x, u(x))   s.t.   g(x, u(x)) <= 0,   low <= x <= high.

Slopes go through the equilibrium by the implicit rule, and steps are those of sequential quadratic
programming (Kraft, DFVLR-FB 88-28, 1988: SciPy's SLSQP), which hold constraints that bind exactly.
f is not convex, and has kinks where followers switch: so the leader starts from several places,
and is told where each ended.
"""

from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from .cluster import check, each
from .coordinates import Bijection, with_fields
from .descent import Slopes, cleared
from .each import for_one
from .market import Market
from .objectives import retail_margin
from .options import checked_options, tolerance
from .record import Record
from .result import Clearing, NotCleared
from .runner import jnp
from .solvers.base import AbstractSolver
from .tuning import Measure, Outcome

_FINE = 10.0  # times the tolerance of equilibria: what a step, in parts of the range, must promise
_INSIDE = (0.05, 0.95)  # of the range between bounds: where random starts lie
_WORDS = {0: "converged", 8: "kink", 9: "steps"}  # by what SLSQP says; 8: no step goes down
_SAME = 1e-6  # of the best objective: ends within it are one optimum


class MarginFloor(eqx.Module):
    """A constraint of a retailer who leads: its margin is at least `floor` EUR.

    `wholesale` is what its energy costs, EUR/kWh by hour, as of `objectives.retail_margin`; with 0
    the floor is one of its revenue. Both are arrays, so that others compile nothing anew.
    """

    wholesale: Float[Array, " H"]
    floor: Float[Array, ""]

    def __init__(self, wholesale: Any, floor: Any):
        self.wholesale, self.floor = jnp.asarray(wholesale), jnp.asarray(floor)

    def __call__(self, market: Market, clearing: Clearing) -> Float[Array, ""]:
        """What is missing, EUR."""
        return self.floor - retail_margin(market, clearing, wholesale=self.wholesale)


class Leading(Record):
    """Where a leader ended from each of R starts, and the market of the best of them.

    A start ends at the least objective that it saw with all constraints met; else, where none of
    its steps met them, at that which missed them least.
    """

    market: Market
    clearing: Clearing
    fields: Any  # the leader's numbers at each end, with a leading axis of starts
    value: Float[np.ndarray, " R"]  # the objective
    missed: Float[np.ndarray, " R"]  # the largest constraint, at most 0 where all are met
    met: Any  # bool, R: whether constraints are met
    clears: Int[np.ndarray, " R"]  # equilibria that it took
    ended: Any  # words, R: how its steps ended
    unstarted: int  # of drawn starts, those whose market does not clear

    @property
    def best(self) -> int:
        """The start of the least objective that meets the constraints, else that misses least."""
        if not self.met.any():
            return int(np.argmin(self.missed))
        return int(np.argmin(np.where(self.met, self.value, np.inf)))

    @property
    def alike(self) -> int:
        """How many starts ended at an objective that is the best's, to a millionth."""
        best = self.value[self.best]
        return int(np.sum(self.met & (self.value <= best + _SAME * max(abs(best), 1e-300))))

    @property
    def spread(self) -> float:
        """What the worst of the starts that meet the constraints lost against the best."""
        return float(self.value[self.met].max() - self.value[self.best]) if self.met.any() else 0.0

    def __str__(self) -> str:
        values = self.value[self.met] if self.met.any() else self.value
        lines = [
            f"{len(self.value)} starts, {self.clears.sum()} equilibria",
            f"objective {self.value[self.best]:.6g} at best, {np.median(values):.6g} in the "
            f"median, {values.max():.6g} at worst; {self.alike} starts at the best",
        ]
        if not self.met.all():
            lines.append(f"{int((~self.met).sum())} starts do not meet the constraints")
        return "\n".join(lines)


@for_one()
def lead(
    market: Market,
    objective: Outcome,
    where: Callable[[Market], Any],
    bounds: tuple[Any, Any],
    *,
    constraints: Sequence[Outcome] = (),
    bijection: Bijection | None = None,
    starts: int = 8,
    seed: int = 0,
    steps: int = 100,
    solver: AbstractSolver | None = None,
    tol: Any = None,
    client: Any = None,
) -> Leading:
    """The fields `where(market)`, within `bounds`, at which `objective(market, clearing)` is least.

    `objective` and `constraints`, whose values must be at most 0, are functions of market and
    clearing, as of `jg.tune`; so are `bounds` and `bijection`. The first of `starts` is the market
    as it is, the others are drawn by `seed` between the bounds; each takes at most `steps` steps.
    `solver` and `tol` are those of `clear`: slopes are no better than the equilibria are, so that
    1e-8 finds optima more exactly than what `clear` takes by default.

    With a `client`, a `distributed.Client`, the workers of a Dask cluster take one start at a time,
    and end where they end here (`docs/cluster.md`).

    A start whose market does not clear ends there. What is found is a local optimum from each
    start: `Leading` tells how far they lie apart. Raises `NotCleared` if the market does not clear
    as it is, and `ValueError` for what `jg.tune` refuses.
    """
    checked_options("lead", market, solver, steps=steps, starts=starts)
    if client is not None:
        check(client)
    market = jax.tree.map(jnp.asarray, market)
    problem = _Problem(market, objective, where, bounds, constraints, bijection, solver, tol)
    draw = np.random.default_rng(seed)
    drawn = [draw.uniform(*_INSIDE, problem.shares.shape) for _ in range(starts - 1)]
    ends = dict(each(client, partial(_ended, problem, steps), [None, *drawn]))
    found = [end for _, end in sorted(ends.items()) if end is not None]
    value, missed, met, clears, ended = (np.array(a) for a in list(zip(*found, strict=True))[1:])
    fields = jax.tree.map(lambda *a: np.stack(a), *(end.fields for end in found))
    told = (fields, value, missed, met, clears, ended, len(ends) - len(found))
    best = Leading(market, problem.first, *told).best
    led = with_fields(market, where, jax.tree.map(lambda a: jnp.asarray(a[best]), fields))
    return Leading(led, cleared(led, solver, tol, problem.first, throw=True), *told)


class _End(NamedTuple):
    """Where one start ended."""

    fields: Any
    value: float
    missed: float
    met: bool
    clears: int
    ended: str


class _Point(NamedTuple):
    """An equilibrium of the leader's numbers."""

    shares: Float[np.ndarray, " n"]
    found: Float[np.ndarray, " C"]  # objective, then constraints
    rows: Float[np.ndarray, "C n"]  # their slopes


def _ended(problem: "_Problem", steps: int, shares: Float[np.ndarray, " n"] | None) -> _End | None:
    """Where a start ends; None of the shares where the market stands."""
    problem = copy(problem)  # of which each start has its own
    return problem.end(problem.shares if shares is None else shares, steps)


class _Lost(Exception):
    """A step ended where the market does not clear, or where numbers are not finite."""


class _Problem:
    """The leader's program in shares of the range between bounds, all numbers in one row."""

    def __init__(
        self,
        market: Market,
        objective: Outcome,
        where: Callable[[Market], Any],
        bounds: tuple[Any, Any],
        constraints: Sequence[Outcome],
        bijection: Bijection | None,
        solver: AbstractSolver | None,
        tol: Any,
    ):
        self.solver, self.tol = solver, tol
        self.first = self.last = cleared(market, solver, tol, None, throw=True)
        measure = Measure(objective, (objective, *constraints), jnp.mean)
        how: dict[str, Any] = {"bounds": bounds, "bijection": bijection}
        self.slopes = Slopes(market, measure, where, self.first, **how)
        flat, self.unravel = ravel_pytree(self.slopes.shares)
        self.dtype, self.shares = flat.dtype, np.asarray(flat, float)
        self.fine = _FINE * float(tolerance(tol, self.dtype))
        self.seen: list[_Point] = []

    def end(self, shares: Float[np.ndarray, " n"], steps: int) -> _End | None:
        """Where steps from these shares lead; None where the market does not clear there.

        Where none of them meets the constraints they go on from where these are missed least.
        """
        self.last, self.seen = self.first, []
        try:
            start = self.at(shares)
        except _Lost as lost:
            if shares is self.shares:
                raise ValueError(f"lead: at the start {lost}.") from None
            return None
        steep = np.linalg.norm(start.rows, axis=1)
        unit = 1 / np.where(steep > 0, steep, 1.0)  # so that all slopes are of shares
        try:
            ended = self.steps_of(shares, unit, steps)
            if not self.met(unit):
                ended = self.steps_of(self.nearest(unit, steps), unit, steps)
        except _Lost as lost:
            ended = str(lost)
        met = self.met(unit)
        best = min(met, key=lambda p: p.found[0]) if met else self.least(unit)
        fields = self.slopes.coordinates.fields(self.tree(best.shares))
        missed = float(np.max(best.found[1:], initial=-np.inf))
        return _End(fields, float(best.found[0]), missed, bool(met), len(self.seen), ended)

    def met(self, unit: Float[np.ndarray, " C"]) -> list[_Point]:
        """What was seen and meets the constraints, as exactly as steps are told apart."""
        return [p for p in self.seen if np.all(p.found[1:] * unit[1:] <= 2 * self.fine)]

    def least(self, unit: Float[np.ndarray, " C"]) -> _Point:
        """What was seen that misses the constraints least."""
        return min(self.seen, key=lambda p: float(np.max(p.found[1:] * unit[1:])))

    def steps_of(
        self, shares: Float[np.ndarray, " n"], unit: Float[np.ndarray, " C"], steps: int
    ) -> str:
        """Steps of sequential quadratic programming from these shares; how they ended."""
        limits = {
            "type": "ineq",
            "fun": lambda x: -(self.at(x).found * unit)[1:],
            "jac": lambda x: -(self.at(x).rows * unit[:, None])[1:],
        }
        return self.minimized(
            lambda x: self.at(x).found[0] * unit[0], lambda x: self.at(x).rows[0] * unit[0],
            shares, steps, [limits] if len(unit) > 1 else [],
        )  # fmt: skip

    def nearest(self, unit: Float[np.ndarray, " C"], steps: int) -> Float[np.ndarray, " n"]:
        """Shares that miss the constraints least near by, by the sum of squares."""

        def missed(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " C-1"]:
            return np.maximum((self.at(x).found * unit)[1:], 0.0)

        self.minimized(
            lambda x: 0.5 * np.sum(missed(x) ** 2),
            lambda x: (missed(x) * unit[1:]) @ self.at(x).rows[1:],
            self.least(unit).shares, steps, [],
        )  # fmt: skip
        return self.least(unit).shares

    def minimized(
        self, value: Any, slope: Any, shares: Float[np.ndarray, " n"], steps: int, limits: list
    ) -> str:
        """SciPy's steps; how they ended."""
        from scipy.optimize import minimize

        found = minimize(
            value, shares, jac=slope, method="SLSQP", bounds=[(0.0, 1.0)] * len(shares),
            constraints=limits, options={"maxiter": steps, "ftol": self.fine},
        )  # fmt: skip
        return _WORDS.get(found.status, "stuck")

    def tree(self, shares: Float[np.ndarray, " n"]) -> Any:
        """Shares of each field."""
        return self.unravel(jnp.asarray(shares, self.dtype))

    def at(self, shares: Float[np.ndarray, " n"]) -> _Point:
        """The equilibrium there, which is remembered while no other is asked for."""
        shares = np.clip(shares, 0.0, 1.0)
        if self.seen and np.array_equal(self.seen[-1].shares, shares):
            return self.seen[-1]
        here = self.tree(shares)
        market = self.slopes.job.market_at(here)
        try:
            self.last = cleared(market, self.solver, self.tol, self.last, throw=True)
        except NotCleared as stop:
            raise _Lost(f"the market does not clear: {stop}") from None
        found, rows = self.slopes(here, self.last)
        if not (np.isfinite(found).all() and np.isfinite(rows).all()):
            raise _Lost("the objective, a constraint or a slope of them is not finite")
        self.seen.append(_Point(shares.copy(), found.astype(float), rows.astype(float)))
        return self.seen[-1]
