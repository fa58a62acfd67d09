"""How wrong forecasts may be before a community's bills or its limits break: a robustness radius.

The largest relative error of loads and sun for which bills stay within a budget and limits hold
(info-gap decision theory: Ben-Haim, Info-Gap Decision Theory, 2006). Everyone plans again when the
error is known: of all errors up to a size the worst is sought by conditional gradients (Frank,
Wolfe, Naval Research Logistics Quarterly 3, 1956) from several starts, whose bills are real: what
they break is broken. And nobody plans again: then `margins` are exact, and what holds is proven.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .batch import clear_many
from .clearing import clear
from .each import for_each, for_one
from .gradients import sensitivities
from .linear_flow import check_linear
from .margins import Errors, Margins, crossed, margins, tightened, with_errors
from .market import Market
from .model import device_costs
from .options import checked_options
from .programs import program
from .record import Record, changed
from .result import Clearing
from .runner import concrete, runs_here
from .scenarios import lane, stack
from .scenarios.rows import shared
from .scenarios.sun import sun_of
from .settlement import bills
from .size import is_small
from .solvers.base import AbstractSolver
from .validation import gate

_TOUCHED = ("load", "reactive", "curtail_max", "export_max")  # what errors change
_TOL = 1e-8  # of clearings: kinks are near at the worst error
_AT_ONCE = 8  # sizes of errors that are tried in one batch
_SHARE = 0.1  # of today's bill, which a budget is above it
_ROUNDING = 1e-6  # relative: a bill above the budget by less is not above it


class Robustness(Record):
    """How wrong loads and sun may be: shares of 1, each with what ends it in words.

    `radius` is the largest error for which no error was found that breaks budget or limits where
    everyone plans again, so it is never less than the true one; `limits` is that of limits alone at
    both corners, all loads at their highest with the least sun and the reverse: a larger error has
    a market without any plan. `safe` needs no second plan: `tightened` is the market whose plan
    holds all limits of voltages, lines and the total for every error up to it while the main grid
    meets what was not foreseen, and `margins` is by how much its limits are moved in.
    """

    radius: float
    ended: str
    limits: float
    limits_ended: str
    safe: float
    safe_ended: str
    budget: float  # EUR
    bill: float  # EUR, as foreseen
    worst: Market  # at the radius
    worst_errors: Errors  # as shares, signed
    worst_bill: float  # EUR
    margins: Margins
    tightened: Market
    cleared: int = eqx.field(static=True)  # markets on the way

    def __str__(self) -> str:
        rows = (
            ("everyone plans again", self.radius, self.ended),
            ("limits, at both corners", self.limits, self.limits_ended),
            ("nobody plans again", self.safe, self.safe_ended),
        )
        lines = [
            f"bill {self.bill:.2f} EUR as foreseen, {self.worst_bill:.2f} EUR at worst within the "
            f"radius, budget {self.budget:.2f} EUR ({self.cleared} markets cleared)"
        ]
        lines += [f"{name:24}{100 * size:6.2f} %  {why}" for name, size, why in rows]
        return "\n".join(lines)


@for_one()
def robustness(
    market: Market,
    budget: float | None = None,
    *,
    generation: Any = None,
    common: bool = False,
    most: float = 1.0,
    precision: float = 1e-3,
    starts: int = 2,
    steps: int = 3,
    seed: int = 0,
    solver: AbstractSolver | None = None,
) -> Robustness:
    """The largest relative error of loads and sun for which bills and limits hold.

    Errors are of each prosumer and hour, of its gross load (active and reactive) and of its sun,
    each by itself; with `common` all prosumers have the same in an hour. `budget` is what all
    prosumers together may pay, EUR: their bills (`settle`) and what their devices cost; by default
    a tenth above that as foreseen. `generation` is the sun, kW by prosumer and hour, where
    `curtail_max` does not tell all of it. Errors are tried up to `most`, to `precision`.

    The worst error of a size is sought from both corners, what has been the worst so far, and
    `starts` random signs drawn by `seed`, in `steps` steps up the bill's derivative each. What is
    found is a bill that is really paid, so the radius is at least the true one, and more starts can
    only lower it. `safe`, where nobody plans again, is proven for every error on the grid's model;
    it is 0 where even the plan as foreseen breaks them.

    Raises `NotCleared` for a market that does not clear as foreseen, and `ValueError` for numbers
    that make no sense, sun that is not known, lines that close loops and markets about an AC state.
    """
    gate(market, "robustness")
    checked_options("robustness", market, solver, starts=starts, steps=steps)
    if not concrete(market):
        raise TypeError("robustness() runs on the host: call it outside of jit.")
    for name, value, high in (("most", most, 1.0), ("precision", precision, most)):
        if not 0 < value <= high:
            raise ValueError(
                f"robustness: {name}={value:g}; give a share above 0, at most {high:g}."
            )
    check_linear("robustness", market)
    given: dict[str, Any] = {"generation": generation, "common": common}
    sun = jnp.asarray(sun_of("robustness", market, generation), market.prosumers.load.dtype)
    search = _Search(market, sun, solver, steps, precision, most)
    search.bill = float(outlay(market, clear(market, solver, tol=search.tol)))
    search.budget = search.bill + _SHARE * abs(search.bill) if budget is None else float(budget)
    corners = search.corners(common)
    limits, limits_ended = search.largest(corners, most, search.open, bills=False)
    random = np.random.default_rng(seed)
    radius, ended, worst = search.radius(corners, limits, limits_ended, starts, random)
    safe, safe_ended = search.safe(given)
    errors = jax.tree.map(lambda a: radius * a, worst)
    looked = search.look(jax.tree.map(lambda a: a[None], errors))
    less = margins(market, safe, **given)
    return Robustness(
        radius=radius,
        ended=ended,
        limits=limits,
        limits_ended=limits_ended,
        safe=safe,
        safe_ended=safe_ended,
        budget=search.budget,
        bill=search.bill,
        worst=lane(looked.markets, 0),
        worst_errors=errors,
        worst_bill=float(looked.bills[0]),
        margins=less,
        tightened=tightened(market, less),
        cleared=search.cleared,
    )


Why = Callable[[], str]
Breaks = Callable[[np.ndarray], list[Why | None]]


class _Look(Record):
    """What errors came to."""

    markets: Market
    clearings: Clearing
    bills: Float[np.ndarray, " S"]  # infinite where there is no plan


class _Search:
    """What all looks share."""

    def __init__(
        self,
        market: Market,
        sun: Array,
        solver: AbstractSolver | None,
        steps: int,
        precision: float,
        most: float,
    ):
        self.market, self.sun, self.solver, self.steps = market, sun, solver, steps
        self.precision, self.most, self.cleared = precision, most, 1
        self.tol = _TOL if sun.dtype == jnp.float64 else None
        self.bill, self.budget = np.nan, np.nan
        self.open = f"nothing ends it up to {100 * most:g} %"
        # of a size that clears in milliseconds, which no program would earn back
        self.at_once = solver is None and is_small(market) and runs_here(market)

    def corners(self, common: bool) -> Errors:
        """All loads at their highest with the least sun, and the reverse."""
        rows = (1,) if common else self.sun.shape[:1]
        ones = np.ones((2, *rows, self.sun.shape[1]))
        ones[1] = -1.0
        return Errors(jnp.asarray(ones, self.sun.dtype), jnp.asarray(-ones, self.sun.dtype))

    def clear(self, markets: Market) -> Clearing:
        """Clear a batch; by programs of one width, or by none where that is as fast."""
        count = len(markets.prosumers.load)
        self.cleared += count
        if self.at_once:
            return clear_many(markets, self.solver, tol=self.tol, runner="numpy")
        filled = np.minimum(np.arange(-(-count // _AT_ONCE) * _AT_ONCE), count - 1)
        found = clear_many(lane(markets, filled), self.solver, tol=self.tol, width=_AT_ONCE)
        return lane(found, slice(count))

    def look(self, errors: Errors) -> _Look:
        """Clear the market with each of several errors."""
        people = with_errors(self.market, self.sun, errors).prosumers
        markets = shared(self.market, len(errors.load))
        own = changed(markets.prosumers, **{name: getattr(people, name) for name in _TOUCHED})
        markets = changed(markets, prosumers=own)
        found = self.clear(markets)
        ok = np.asarray(found.ok)
        paid = np.full(len(ok), np.inf)
        for k in np.flatnonzero(ok).tolist():
            paid[k] = float(outlay(*lane((markets, found), k)))
        return _Look(markets, found, paid)

    def broken(self, look: _Look, k: int, bills: bool) -> Why | None:
        """What error `k` breaks, for whoever asks; None where it breaks nothing."""
        if np.isinf(look.bills[k]):
            return lambda: look.clearings.why(k, look.markets)
        over = look.bills[k] - self.budget
        if bills and over > _ROUNDING * abs(self.budget):
            return lambda: f"budget: {look.bills[k]:.2f} EUR at {self.budget:.2f} EUR"
        return None

    def largest(
        self, patterns: Errors, high: float, ended: str, *, bills: bool = True
    ) -> tuple[float, str]:
        """The largest size up to `high` at which no pattern breaks anything, and what ends it."""
        count = len(patterns.load)

        def breaks(sizes: np.ndarray) -> list[Why | None]:
            scale = jnp.asarray(sizes, self.sun.dtype)[:, None, None, None]
            every = jax.tree.map(lambda a: (scale * a).reshape(-1, *a.shape[1:]), patterns)
            found = self.look(every)
            told = [self.broken(found, k, bills) for k in range(len(found.bills))]
            each = [told[at : at + count] for at in range(0, len(told), count)]
            return [next(filter(None, some), None) for some in each]

        return self._section(breaks, high, ended)

    def safe(self, given: dict[str, Any]) -> tuple[float, str]:
        """The same of limits that are moved in, so that nobody has to plan again."""

        def breaks(sizes: np.ndarray) -> list[Why | None]:
            less = [margins(self.market, float(size), **given) for size in sizes]
            words = [crossed(self.market, each) for each in less]
            told: list[Why | None] = [(lambda w=w: w) if w else None for w in words]
            tight = [tightened(self.market, each) for each in less]
            room = [k for k, word in enumerate(words) if not word]
            if room:
                markets = stack([tight[k] for k in room])
                found = self.clear(markets)
                for at, k in enumerate(room):
                    if not bool(found.ok[at]):
                        told[k] = partial(found.why, at, markets)
            return told

        return self._section(breaks, self.most, self.open)

    def _section(self, breaks: Breaks, high: float, ended: str) -> tuple[float, str]:
        """The largest size up to `high` below which nothing breaks, several at once."""
        low, why, parts = 0.0, None, 2 if self.at_once else _AT_ONCE
        sizes = np.append(np.linspace(0.0, high, parts + 1)[1:-1], high)
        while high - low > self.precision:
            found = breaks(sizes)
            first = next((k for k, broken in enumerate(found) if broken), None)
            if first is None and why is None:
                return high, ended
            if first is None:
                low = float(sizes[-1])
            else:
                low = float(sizes[first - 1]) if first else low
                high, why = float(sizes[first]), found[first]
            sizes = np.linspace(low, high, parts + 1)[1:-1]
        return low, why() if why else ended

    def radius(
        self, known: Errors, size: float, why: str, starts: int, random: np.random.Generator
    ) -> tuple[float, str, Errors]:
        """The radius, what ends it and the worst error there, as signs and shares of it.

        What breaks at a size is known at the next, which is smaller.
        """
        while True:
            size, why = self.largest(known, size, why)
            signs = random.choice([-1.0, 1.0], (2, starts, *known.load.shape[1:]))
            drawn = Errors(*(jnp.asarray(a, self.sun.dtype) for a in signs))
            begun = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), known, drawn)
            found, paid = self.ascend(begun, size)
            at = int(np.argmax(paid))
            worst: Errors = lane(found, at)
            if size == 0 or paid[at] <= self.budget + _ROUNDING * abs(self.budget):
                return size, why, worst
            known = jax.tree.map(lambda a, b: jnp.concatenate([a, b[None]]), known, worst)

    def ascend(self, at: Errors, size: float) -> tuple[Errors, Float[np.ndarray, " S"]]:
        """Patterns moved to where errors of this size cost more, and what they cost.

        Each goes towards the corner that its derivative names, or half as far if that is no dearer.
        """

        def scaled(patterns: Errors) -> Errors:
            return jax.tree.map(lambda a: size * a, patterns)

        look = self.look(scaled(at))
        share = np.ones(len(look.bills))
        for _ in range(self.steps):
            if size == 0 or np.any(np.isinf(look.bills)):
                break
            goal = self.upward(look, at)
            step = jnp.asarray(share, self.sun.dtype)[:, None, None]
            new = jax.tree.map(lambda a, b, s=step: a + s * (b - a), at, goal)
            there = self.look(scaled(new))
            better = there.bills > look.bills + _ROUNDING * np.abs(look.bills)
            if not better.any():
                share = share / 2
                continue
            at, look = (_chosen(better, *pair) for pair in ((new, at), (there, look)))
            share = np.where(better, 1.0, share / 2)
        return at, look.bills

    def upward(self, look: _Look, at: Errors) -> Errors:
        """The corner in which the bill rises fastest, from each of several errors."""
        goals = []
        for k in range(len(look.bills)):
            one = jax.tree.map(jnp.asarray, lane((look.markets, look.clearings), k))
            rise = sensitivities(one[0], outlay, clearing=one[1], where=_touched)
            own = jax.tree.map(lambda a, k=k: a[k], at)
            up = _by_errors(self.market, self.sun, own, rise)
            goals.append(jax.tree.map(lambda a, old: jnp.where(a == 0, old, jnp.sign(a)), up, own))
        return jax.tree.map(lambda *each: jnp.stack(each), *goals)


def _chosen(which: Bool[np.ndarray, " S"], new: Any, old: Any) -> Any:
    """Of each of several either the new or the old."""

    def one(a: Any, b: Any) -> Any:
        shape = (len(which), *[1] * (np.ndim(a) - 1))
        return np.where(which.reshape(shape), np.asarray(a), np.asarray(b))

    return jax.tree.map(one, new, old)


@for_each
def outlay(market: Market, clearing: Clearing) -> Float[Array, ""]:
    """What all prosumers pay together, EUR: their bills, and what their devices cost."""
    paid = jnp.sum(bills(market, clearing.plan, clearing.prices).prosumers)
    return paid + jnp.sum(device_costs(market, clearing.plan))


def _touched(market: Market) -> tuple[Array, ...]:
    """What errors change."""
    return tuple(getattr(market.prosumers, name) for name in _TOUCHED)


@program("the derivative by errors", once=True)
def _by_errors(market: Market, sun: Array, errors: Errors, by_tables: tuple[Array, ...]) -> Errors:
    return jax.vjp(lambda e: _touched(with_errors(market, sun, e)), errors)[1](by_tables)[0]
