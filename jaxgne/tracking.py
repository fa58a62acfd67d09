"""Tracking: the equilibrium moves, and a solver has so many rounds before it has moved on.

One scan over instants: at each the solver goes on from where it was, does its rounds on the market
of now, and what it then stands for is held against that market's own equilibrium. Sources: Bianchi,
Benenati, Grammatico, "Linear Convergence in Time-Varying Generalized Nash Equilibrium Problems",
IEEE CDC 2023; Xie, Wang, Pang, Yang, Guan, "Distributed Online Generalized Nash Equilibrium
Tracking for Prosumer Energy Trading Games", arXiv 2210.02323. Where a round brings a solver nearer
by a factor rho < 1, k rounds keep it within rho^k / (1 - rho^k) times how far the equilibrium moves
between two instants.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .acflow import drawn
from .arguments import of_tables
from .batch import clear_many
from .choosing import default_solver
from .clearing import ready
from .each import leading, refuse_batch
from .linear_flow import grid_state
from .market import FIELDS, Market, cast
from .model import (
    Plan,
    Rows,
    aggregate,
    at_prosumers,
    energy_prices,
    exceeded,
    net_exchange,
    net_load,
    zeros,
    zone_slopes,
)
from .optimality import pin, residuals
from .options import checked_options
from .programs import program
from .record import Record, changed
from .result import Clearing
from .runner import concrete, wide
from .scales import scales, shares
from .scenarios import stack
from .solve import begin
from .solvers.base import AbstractSolver, written
from .validation import gate_many

_NUMBERS = ("distance", "power", "total", "price", "drift", "error", "regret")
_NUMBERS += ("voltage", "line", "exchange", "violation")
_TOL = 1e-9  # of the equilibria in float64: what distances are measured to


class Tracking(Record):
    """How near a solver stayed to an equilibrium that moves: a number for each of `T` instants.

    Distances are those of what the price of the main grid makes unique: what each prosumer buys
    there (where all take prices, or where its slope is 0, `distance` leaves that out), the total,
    and what energy is worth to each. They are NaN where an instant has no equilibrium. `plan` and
    `prices` are what the solver stood for after its rounds, with a leading axis of instants.
    """

    distance: Float[Array, " T"]  # relative: the largest of the next three
    power: Float[Array, " T"]  # kW, the largest of what one prosumer buys in a step
    total: Float[Array, " T"]  # kW, the largest of what all buy in a step
    price: Float[Array, " T"]  # EUR/kWh, the largest of what energy is worth to one in a step
    drift: Float[Array, " T"]  # relative: how far the equilibrium has moved since the last instant
    error: Float[Array, " T"]  # relative KKT error
    regret: Float[Array, " T"]  # EUR that prosumers could save at most by other plans of their own
    voltage: Float[Array, " T"]  # pu beyond a limit
    line: Float[Array, " T"]  # kVA beyond a line's rating
    exchange: Float[Array, " T"]  # kW beyond a limit on the total
    violation: Float[Array, " T"]  # the largest of these three, as shares of what is much
    plan: Plan
    prices: Rows
    equilibria: Clearing
    rounds: int = eqx.field(static=True)
    solver: str = eqx.field(static=True)

    @property
    def ok(self) -> Bool[np.ndarray, " T"]:
        """Which instants have an equilibrium to be held against."""
        return np.asarray(self.equilibria.ok)

    @property
    def total_regret(self) -> Float[np.ndarray, " T"]:
        """The regret up to each instant, EUR."""
        return np.cumsum(np.asarray(self.regret))

    def table(self) -> dict[str, np.ndarray]:
        """Columns by name, a row for each instant; `frames.tracking` makes a frame of them."""
        columns = {"instant": np.arange(len(self.error)), "distance": self.distance}
        columns |= {"power_kw": self.power, "total_kw": self.total}
        columns |= {"price_eur_per_kwh": self.price, "drift": self.drift, "error": self.error}
        columns |= {"regret_eur": self.regret, "total_regret_eur": self.total_regret}
        columns |= {"voltage_pu": self.voltage, "line_kva": self.line}
        columns |= {"exchange_kw": self.exchange, "violation": self.violation}
        return {name: np.asarray(values) for name, values in columns.items()}

    def __str__(self) -> str:
        rows = (
            ("distance", "", self.distance),
            ("of one prosumer's import", "kW", self.power),
            ("of the total import", "kW", self.total),
            ("of the value of energy", "EUR/kWh", self.price),
            ("relative KKT error", "", self.error),
            ("voltage beyond limits", "pu", self.voltage),
            ("flow beyond ratings", "kVA", self.line),
            ("total beyond limits", "kW", self.exchange),
        )
        lines = [
            f"{len(self.error)} instants, {self.rounds} rounds of {self.solver} at each",
            f"{'':26}{'first':>11}{'median':>11}{'worst':>11}{'last':>11}",
        ]
        for name, unit, values in rows:
            array = np.asarray(values)
            known = array[np.isfinite(array)]
            middle = (np.median(known), np.max(known)) if known.size else (np.nan, np.nan)
            told = "".join(f"{x:>11.3g}" for x in (array[0], *middle, array[-1]))
            lines.append(f"{name:26}{told} {unit}".rstrip())
        lines.append(f"regret of all prosumers and instants: {self.total_regret[-1]:.4g} EUR")
        missed = int((~self.ok).sum())
        lines += [f"{missed} instants have no equilibrium: their distances are NaN"] * bool(missed)
        return "\n".join(lines)


@of_tables
def track(
    markets: Market | Sequence[Market],
    solver: AbstractSolver | None = None,
    *,
    rounds: int,
    start: Clearing | None = None,
    equilibria: Clearing | None = None,
) -> Tracking:
    """How near a solver stays to the equilibrium of a market that moves, in `rounds` an instant.

    `markets` are the instants, in order: a batch (`scenarios.days`, `sweep`, `stack`), or a list of
    markets, which share generators, buffers, pairs and lines. At the first the solver begins from
    `start`, a clearing of one market, or cold; it does its rounds there, looking at the last as
    `clear` does every so many; then the market is the next. Where that is the same, the solver goes
    on as if nothing had been. Where it has moved, steps are made for the new market, and a solver
    keeps what its theory lets it (`AbstractSolver.moved`): the mechanism all decisions, both sides'
    copies of trades and all shared prices, others the plan and prices that they stood for.

    Violations are what the grid would see: devices do as planned, the main grid meets what trades
    do not, and the grid model says what that makes of voltages and lines. `equilibria` are a
    `clear_many` of the same instants, which is done where there is none; give it to compare
    numbers of rounds. Instants and `rounds` are numbers of one compiled program.

    Raises `TypeError` traced, and `ValueError` for one market, for instants that differ in what
    they are made of, and for what `clear_many` refuses.
    """
    markets = markets if isinstance(markets, Market) else stack(markets)
    checked_options("track", markets, solver, start=start, rounds=rounds)
    if start is not None:
        refuse_batch("track", start=start)
    if not concrete((markets, start)):
        raise TypeError("track() runs on the host: call it outside of jit.")
    if leading(markets) != {markets.prosumers.load.shape[:1]} or markets.prosumers.load.ndim != 3:
        raise ValueError(
            "track: give the instants as a batch with one leading axis, jg.scenarios.stack(markets)"
            " of a list."
        )
    _same_rows(markets)
    if equilibria is None:
        narrow = jnp.finfo(markets.prosumers.load.dtype).bits < 64
        equilibria = clear_many(markets, tol=None if narrow else _TOL)
    elif np.shape(equilibria.steps) != markets.prosumers.load.shape[:1]:
        raise ValueError(
            f"track: equilibria of {np.shape(equilibria.steps)} instants, markets of "
            f"{markets.prosumers.load.shape[:1]}; give clear_many(markets)."
        )
    here: Market = jax.tree.map(np.asarray, markets)
    gate_many(here)
    one: Market = jax.tree.map(lambda a: jnp.asarray(a[0]), here)
    solver = default_solver(one) if solver is None else solver
    one, arrays, plan, prices = ready(one, solver.prepare(here), start)
    batch = jax.tree.map(jnp.asarray, cast(here, one.prosumers.load.dtype))
    best = jax.tree.map(jnp.asarray, (equilibria.plan, equilibria.prices))
    with wide():
        begun = begin(one, arrays, plan, prices)
    told, plans, their_prices = _track(
        batch, arrays, begun.state, jnp.asarray(rounds, jnp.int32), *best
    )
    numbers: dict[str, Any] = dict(zip(_NUMBERS, told, strict=True))
    lost = ~jnp.asarray(equilibria.ok)
    for name in ("distance", "power", "total", "price"):
        numbers[name] = jnp.where(lost, jnp.nan, numbers[name])
    either = lost | jnp.concatenate([lost[:1], lost[:-1]])
    numbers["drift"] = jnp.where(either, jnp.nan, numbers["drift"])
    return Tracking(
        **numbers,
        plan=plans,
        prices=their_prices,
        equilibria=equilibria,
        rounds=rounds,
        solver=written(solver),
    )


def _same_rows(markets: Market) -> None:
    """Raise `ValueError` where instants differ in whose rows are what."""
    for field in FIELDS.values():
        if not field.of:
            continue
        table = np.asarray(field.find(markets))
        other = np.flatnonzero(np.any((table != table[:1]).reshape(len(table), -1), axis=1))
        if other.size:
            raise ValueError(
                f"track: {field.name} of instant {other[0]} is not that of instant 0; give instants"
                " of one community on one grid, in which only amounts move."
            )


@program("the tracking")
def _track(
    markets: Market,
    solver: AbstractSolver,
    state: Any,
    rounds: Array,
    best_plans: Plan,
    best_prices: Rows,
) -> tuple[tuple[Array, ...], Plan, Rows]:
    def onward(market: Market, state: Any) -> Any:
        def one(at: Array, state: Any) -> Any:
            if type(solver).look is AbstractSolver.look:  # which is a step
                state = solver.step(market, state)
            else:
                now = (at % solver.every == solver.every - 1) | (at == rounds - 1)
                looks, steps = (partial(act, market) for act in (solver.look, solver.step))
                state = jax.lax.cond(now, looks, steps, state)
            return solver.refreshed(market, state)

        return jax.lax.fori_loop(0, rounds, one, state)

    def instant(carry: Any, now: Any) -> tuple[Any, Any]:
        (before, best, state), (market, new) = carry, now

        def moved() -> Any:
            there = solver.moved(market, state, before)
            return jax.tree.map(lambda a, old: jnp.asarray(a, old.dtype), there, state)

        state = onward(market, jax.lax.cond(_same(market, before), lambda: state, moved))
        reached = solver.point(market, state)
        reached = (reached[0], pin(market, reached[1]))
        drift = distances(market, best, new)[0]
        return (market, new, state), (_told(market, reached, new, drift), *reached)

    shown = jax.dtypes.canonicalize_dtype(float)
    with jax.enable_x64(True):
        first = jax.tree.map(lambda a: a[0], markets)
        best = (best_plans, best_prices)
        begun = jax.tree.map(lambda a: a[0], best)
        carry = (first, begun, state)
        _, found = jax.lax.scan(instant, carry, (markets, best))
        return cast(found, shown)


def _same(market: Market, before: Market) -> Bool[Array, ""]:
    """Whether two markets are one, whatever the clock says."""
    timeless = (changed(each, clock=None) for each in (market, before))
    return jnp.all(jnp.stack(jax.tree.leaves(jax.tree.map(_equal, *timeless))))


def _equal(one: Array, other: Array) -> Bool[Array, ""]:
    return jnp.all(one == other)


def _told(
    market: Market, reached: tuple[Plan, Rows], best: tuple[Plan, Rows], drift: Array
) -> tuple[Array, ...]:
    """The numbers of an instant, in the order of `_NUMBERS`."""
    found = residuals(market, *reached)
    seen = _seen(market, reached[0])
    far = distances(market, reached, best)
    return (*far, drift, found.error, jnp.sum(found.gap), *seen)


def distances(
    market: Market, one: tuple[Plan, Rows], other: tuple[Plan, Rows]
) -> tuple[Array, Array, Array, Array]:
    """How far two answers are apart: relative, a prosumer's kW, all their kW, EUR/kWh."""
    scale = scales(market, other[0])

    def most(a: Array, b: Array) -> Array:
        return jnp.max(jnp.abs(a - b), initial=0.0)

    tariff, imports = market.tariff, (one[0].imports, other[0].imports)
    sums = [aggregate(market, plan) for plan, _ in (one, other)]
    values = [energy_prices(market, pin(market, prices)) for _, prices in (one, other)]
    steep = zone_slopes(market)
    own = tariff.anticipation * at_prosumers(market, steep) > 0  # where it is unique
    summed = jnp.all(steep > 0, axis=0)
    relative = (
        most(*(jnp.where(own, a, 0.0) for a in imports)) / scale.power,
        most(*(jnp.where(summed, a, 0.0) for a in sums)) / scale.total,
        most(*values) / scale.price,
    )
    return jnp.max(jnp.stack(relative)), most(*imports), most(*sums), most(*values)


def _seen(market: Market, plan: Plan) -> tuple[Array, Array, Array, Array]:
    """By how much limits are exceeded where devices do as planned: pu, kVA, kW, and relative."""
    tariff, scale = market.tariff, scales(market, plan)
    net = net_load(market, plan)
    bare = {"imports": jnp.maximum(net, 0.0), "exports": jnp.maximum(-net, 0.0)}
    plan = replace(plan, **bare, trades=zeros(market).trades)
    plan = replace(plan, **grid_state(market, *drawn(market, plan)))
    share, s = shares(market, scale), net_exchange(market, plan)
    out, over, beyond = exceeded(market, plan)
    limit = jnp.where(s > tariff.total_max, share.total[1], share.total[0])
    volts, flow, total = (jnp.max(excess, initial=0.0) for excess in (out, over, beyond))
    relative = volts, jnp.max(over / share.line[:, None], initial=0.0), jnp.max(beyond / limit)
    return volts, flow, total, jnp.max(jnp.stack(relative))
