"""Markets with on/off units: a pattern of who is on when, and what nobody gains more than by.

No price supports decisions that are on or off, so such a game need not have an equilibrium. What
there is: a pattern, the equilibrium of the market with that pattern, and for each prosumer what its
best other plan would save at these prices, patterns of its own units included. The largest of them
is an epsilon, in EUR: plan and prices are an epsilon-equilibrium. Rounding and clearing again is
how Ananduta and Grammatico (2021-22) come to one in mixed-integer generalized games.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from .best_response import best_response, priced
from .clearing import clear as clear_convex
from .each import for_one
from .market import Market, cast
from .model import curvature, grid_price, own_gradient, potential, pull, zeros, zone_totals
from .names import device_name, owners
from .patterns import Units, cheapest, cost_of, relaxed, starts, switched
from .patterns import units as units
from .record import Record
from .result import Clearing
from .runner import concrete, hosted, jnp, to_device, wide
from .status import Status, is_status

Keep = Literal["regret", "cost"]

_ROUNDING = 1e-6  # of a unit's power, that is none


class OnOff(Record):
    """A `market` whose `units` are `on` by a pattern, its clearing, and how good that pattern is.

    `clearing.costs` are without `start_costs`. `regret` bounds from above what each prosumer could
    save by any other plan at these prices, EUR, and `known` is what the best plan that was found
    saves: they differ by what HiGHS left open. Of prosumers without units it is the certificate's
    gap, and `known` is 0. `cost` is the potential that equilibria minimize, with starts
    (model.md: Equilibrium), and no pattern's is below `bound`. `patterns` counts those that were
    cleared, `infeasible` those of them that have no plan.
    """

    market: Market
    units: Units
    clearing: Clearing
    on: Bool[Array, "U H"]
    start_costs: Float[Array, " N"]  # EUR, beside clearing.costs
    regret: Float[Array, " N"]
    known: Float[Array, " N"]
    cost: Float[Array, ""]  # EUR
    bound: Float[Array, ""]  # EUR
    patterns: int = eqx.field(static=True)
    infeasible: int = eqx.field(static=True)

    @property
    def epsilon(self) -> Float[Array, ""]:
        """What no prosumer gains more than by another plan at these prices, EUR."""
        return jnp.max(self.regret, initial=0.0)

    @property
    def gap(self) -> Float[Array, ""]:
        """How far the potential may be from the least of any pattern, EUR."""
        return self.cost - self.bound

    def __str__(self) -> str:
        own, table, on = owners(self.market), self.market.generators, np.asarray(self.on)
        lines = []
        for k, row in enumerate(np.asarray(self.units.generator).tolist()):
            name = device_name("generator", table.names, table.kind[row], row)
            shown = "".join("#" if there else "." for there in on[k])
            lines.append(f"{name:<16}{shown}  {int(starts(self.units, on)[k].sum())} starts")
        worst = int(np.argmax(np.asarray(self.regret)))
        lines.append(
            f"nobody gains more than {float(self.epsilon):.3g} EUR by another plan at these prices "
            f"({own.prosumer(worst)})"
        )
        lines.append(
            f"cost {float(self.cost):.6g} EUR, of any pattern at least {float(self.bound):.6g}: "
            f"{float(self.gap):.3g} EUR less"
        )
        lines.append(f"{self.patterns} patterns cleared, of which {self.infeasible} have no plan")
        return "\n".join(lines)


@for_one()
def clear(
    market: Market,
    units: Units,
    *,
    keep: Keep = "regret",
    patterns: int = 12,
    tol: Any = None,
) -> OnOff:
    """A pattern of on/off `units`, the market's equilibrium with it, and what anyone would gain.

    `units` are made by `on_off.units`. First they take any power from 0 on. Of that come three
    patterns, each the nearest that the units' times allow: where a unit makes more than half of its
    `low`, where it makes anything, and what is cheapest at the prices. Each is cleared, and what
    the units would answer to its prices comes next, all at once and each alone, who gains most
    first, until no new one comes or `patterns` are cleared. Kept is the one in which the prosumer
    that could gain most gains least (`keep="regret"`), or that of least potential with starts
    ("cost"). What each prosumer with units could gain is then found by a mixed-integer program of
    its own.
    Markets are cleared to `tol`, as by `jg.clear`.

    Runs on the host. Raises `NotCleared` where the market has no equilibrium with units that take
    any power, and `ValueError` where no pattern that was tried has a plan, for units of another
    market, markets whose steps make a tree, and other words for `keep`.
    """
    _checked(market, units, keep, patterns)
    free = relaxed(market, units)
    first = clear_convex(free, tol=tol)
    bound = _least(free, first)
    todo: list[np.ndarray] = list(_first_patterns(free, units, first))
    seen, best, worst, infeasible, cleared = set(), None, (np.inf, np.inf), 0, 0
    while todo and cleared < patterns:
        on = todo.pop(0)
        if on.tobytes() in seen:
            continue
        seen.add(on.tobytes())
        cleared += 1
        fixed = switched(market, units, on)
        found = clear_convex(fixed, tol=tol, throw=False)
        if not bool(found.ok):
            infeasible += bool(is_status(found.status, Status.infeasible))
            continue
        worth = _worth(free, units, found)
        wish, least = (np.asarray(a) for a in cheapest(units, worth))
        gained = np.maximum(cost_of(units, worth, on) - least, 0.0)
        regret = _by_owner(market, units, gained) + np.asarray(found.certificate.residuals.gap)
        cost = float(hosted(potential)(fixed, found.plan)) + _start_costs(market, units, on).sum()
        bound = max(bound, cost - _missed(found) - float(gained.sum()))
        rank = (float(regret.max(initial=0.0)), cost)
        rank = rank if keep == "regret" else rank[::-1]
        if rank < worst:
            worst, best = rank, (on, fixed, found, regret, cost)
        if np.array_equal(wish, on):  # which no pattern beats
            break
        todo += [wish, *_each_alone(on, wish, gained)]
    if best is None:
        raise ValueError(
            f"on_off.clear: none of the {cleared} patterns that were tried has a plan, though "
            "units that take any power have one; lower the minimum of units, or let something take "
            "what they make too much: exports, curtailment, a battery."
        )
    on, fixed, found, regret, cost = best
    regret, known = _exact(free, units, found, on, regret)
    left = found.certificate.residuals
    bound = max(bound, cost - regret.sum() - float(left.duality_gap - jnp.sum(left.gap)))
    number = np.asarray(market.prosumers.load).dtype
    return OnOff(
        market=fixed,
        units=units,
        clearing=found,
        on=to_device(on),
        start_costs=to_device(_start_costs(market, units, on).astype(number)),
        regret=to_device(regret.astype(number)),
        known=to_device(known.astype(number)),
        cost=to_device(np.asarray(cost, number)),
        bound=to_device(np.asarray(min(bound, cost), number)),
        patterns=cleared,
        infeasible=infeasible,
    )


def _checked(market: Market, units: Units, keep: str, patterns: int) -> None:
    if not concrete((market, units)):
        raise TypeError("on_off.clear() runs on the host: call it outside of jit, vmap and grad.")
    count, hours = len(market.generators.owner), np.shape(market.prosumers.load)[-1]
    if np.shape(units.low)[1] != hours or np.max(np.asarray(units.generator), initial=-1) >= count:
        raise ValueError(
            f"on_off.clear: units of {np.shape(units.low)[1]} steps and generators up to "
            f"{int(np.max(np.asarray(units.generator), initial=-1))}, in a market of {hours} and "
            f"{count}; make them of this market, jg.on_off.units(market)."
        )
    if market.before is not None or market.committed is not None:
        raise ValueError(
            "on_off.clear: the steps of this market make a tree, in which units have no times to "
            "be on or off; take one of its branches, jg.scenarios.branch."
        )
    if keep not in ("regret", "cost"):
        raise ValueError(f"on_off.clear: keep={keep!r} is neither 'regret' nor 'cost'.")
    if patterns < 1:
        raise ValueError(f"on_off.clear: patterns={patterns}; clear at least 1.")


def _first_patterns(
    free: Market, units: Units, first: Clearing
) -> Iterator[Bool[np.ndarray, "U H"]]:
    """Patterns that the relaxed market leads to, of which the times of units are met."""
    low, high = np.asarray(units.low, float), np.asarray(units.high, float)
    may = low <= high
    least = np.minimum(np.abs(low), np.abs(high))
    power = np.abs(np.asarray(first.plan.generation, float)[np.asarray(units.generator)])
    some = power > _ROUNDING * np.maximum(np.abs(low), np.abs(high))
    share = np.where(least > 0, power / np.where(least > 0, least, 1.0), 2.0 * some)
    nearest = replace(units, start_cost=0 * units.start_cost)
    for votes in (0.5 - np.minimum(share, 1.0), np.where(some, -1e3, 1.0)):
        votes = np.where(may, votes, np.inf).astype(low.dtype)
        yield np.asarray(cheapest(nearest, jnp.asarray(votes))[0])
    yield np.asarray(cheapest(units, _worth(free, units, first))[0])


def _each_alone(
    on: np.ndarray, wish: np.ndarray, gained: np.ndarray
) -> Iterator[Bool[np.ndarray, "U H"]]:
    """The pattern with the wish of one unit, of those that gain by it, who gains most first."""
    for k in np.argsort(-gained, kind="stable").tolist():
        if gained[k] > 0:
            yield np.where((np.arange(len(on)) == k)[:, None], wish, on)


@hosted
def _worth(free: Market, units: Units, found: Clearing) -> Float[np.ndarray, "U H"]:
    """What each step costs at the clearing's prices at least where a unit is on, EUR."""
    plan, rows = found.plan, units.generator
    price = grid_price(free, zone_totals(free, plan))
    slope = own_gradient(free, zeros(free), price).generation + pull(free, found.prices).generation
    slope = slope[rows]
    bend = jnp.broadcast_to(curvature(free, plan).generation, plan.generation.shape)[rows]
    free_power = -slope / jnp.where(bend > 0, bend, 1.0)
    corner = jnp.where(slope > 0, units.low, units.high)
    power = jnp.where(bend > 0, jnp.clip(free_power, units.low, units.high), corner)
    cost = bend / 2 * power**2 + slope * power
    return np.asarray(jnp.where(units.low <= units.high, cost, jnp.inf))


def _by_owner(market: Market, units: Units, each: np.ndarray) -> Float[np.ndarray, " N"]:
    """What units have, summed over each prosumer's."""
    owner = np.asarray(market.generators.owner)[np.asarray(units.generator)]
    return np.bincount(owner, each, minlength=len(market.prosumers.bus))


def _start_costs(market: Market, units: Units, on: np.ndarray) -> Float[np.ndarray, " N"]:
    each = np.asarray(units.start_cost, float) * starts(units, on).sum(axis=1)
    return _by_owner(market, units, each)


def _missed(found: Clearing) -> float:
    """How far the potential of a clearing may be above the least of its own market, EUR."""
    return max(float(found.certificate.residuals.duality_gap), 0.0)


def _least(free: Market, first: Clearing) -> float:
    """What no plan of the relaxed market has a potential below, EUR."""
    return float(hosted(potential)(free, first.plan)) - _missed(first)


def _exact(
    free: Market, units: Units, found: Clearing, on: np.ndarray, regret: np.ndarray
) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    """What each prosumer gains at most, and by a plan that is known, EUR: by programs of owners.

    `regret` is what their rows, priced and not met, say of it: a bound as well.
    """
    most, known = np.array(regret, float), np.zeros(len(regret))
    paid = _start_costs(free, units, on)
    with wide():
        wide_market, plan, prices = cast((free, found.plan, found.prices), jnp.float64)

        def answers(market: Market, units: Units, plan: Any, prices: Any) -> list[Any]:
            given = priced(market, units, plan, prices)
            whose = np.unique(np.asarray(market.generators.owner)[np.asarray(units.generator)])
            return [(i, best_response(given, i)) for i in whose.tolist()]

        for i, answer in hosted(answers)(wide_market, units, plan, prices):
            most[i] = min(most[i], answer.cost + paid[i] - answer.least)
            known[i] = answer.cost + paid[i] - answer.found
    return np.maximum(most, 0.0), np.clip(known, 0.0, np.maximum(most, 0.0))
