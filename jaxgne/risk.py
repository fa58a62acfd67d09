"""Markets that shun risk: what a community pays in its worst branches counts more.

Of the costs phi_s of branches with probabilities p_s a community that trades its risks completely
(Ralph, Smeers, SIAM J. Optim. 25, 2015) makes

    (1 - weight) E[phi] + weight CVaR_level[phi]

small, where CVaR_level is the mean of the worst share 1 - level (Rockafellar, Uryasev, J. Risk 2,
2000). It is the largest expected cost under probabilities q that are p changed by so much at most,

    max over q of sum q_s phi_s,  (1 - weight) p <= q <= p (1 - weight + weight / (1 - level)),

so the equilibrium is that of the market whose branches count by the worst of these q. That q is
found by cutting planes: each clear at some q tells a line above the least cost as a function of q.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from .certificate import certify
from .clearing import clear
from .each import for_one
from .market import Market
from .model import Plan, aggregate, costs, potential
from .programs import program
from .record import Record, changed
from .result import Clearing, NotCleared
from .runner import jnp, to_device
from .settlement import for_each_priced, settle
from .solvers.base import AbstractSolver
from .succession import leaves, way_to


def value_at_risk(values: Any, probability: Any, level: Any) -> Float[Array, " *rows"]:
    """The least of `values` (..., S) that is not exceeded with probability `level`.

    Each comes with its `probability` (S).
    """
    values, reached, _ = _sorted(values, probability)
    within = reached >= level - 1e-12
    return jnp.take_along_axis(values, jnp.argmax(within, axis=-1)[..., None], axis=-1)[..., 0]


def cvar(values: Any, probability: Any, level: Any) -> Float[Array, " *rows"]:
    """The mean of the worst share 1 - `level` of `values` (..., S), their CVaR.

    Each comes with its `probability` (S). One at the edge counts in part. Level 0 is the mean, 1 is
    no level. Differentiable.
    """
    values, reached, share = _sorted(values, probability)
    tail = jnp.clip(reached - level, 0.0, share)
    return jnp.sum(tail * values, axis=-1) / (1 - jnp.asarray(level))


def _sorted(values: Any, probability: Any) -> tuple[Array, Array, Array]:
    """Values from the least on, the probability up to each, and its own."""
    values = jnp.asarray(values)
    order = jnp.argsort(values, axis=-1)
    share = jnp.asarray(probability, values.dtype)[order]
    return jnp.take_along_axis(values, order, axis=-1), jnp.cumsum(share, axis=-1), share


def probabilities(market: Market) -> Float[np.ndarray, " S"]:
    """What each branch of a tree counts, in the order of last steps.

    Raises `ValueError` where these are no probabilities, or a step is not worth its branches.
    """
    weight = np.asarray(market.weight, float)
    along = _ways(market)
    share = weight[leaves(market.before, len(weight))]
    if abs(share.sum() - 1) > 1e-6 or np.any(np.abs(along.T @ share - weight) > 1e-6):
        raise ValueError(
            "Market.weight: steps do not count by the probability of their branches, which sum to "
            "1; make the market by jaxgne.scenarios.tree or committed."
        )
    return share


@for_one()
def branch_costs(market: Market, plan: Plan) -> Float[Array, " S"]:
    """phi_s: the potential of each branch by itself, EUR, its shared steps included.

    It is what an equilibrium makes small in the mean (model.md: Equilibrium).
    """
    return jnp.asarray(_ways(market), plan.imports.dtype) @ _potentials(market, plan)


@program("the costs of steps", once=True)
def _potentials(market: Market, plan: Plan) -> Float[Array, " H"]:
    """The potential of each step, EUR: that of the market is linear in how often steps count."""
    return jax.grad(lambda weight: potential(changed(market, weight=weight), plan))(market.weight)


@for_each_priced
def branch_bills(market: Market, clearing: Clearing) -> Float[Array, "N S"]:
    """What each prosumer pays in each branch, EUR: bills that nobody expects, but one will get.

    Committed trades are paid at their one price. What a trade of risks pays is not in them.
    """
    paid = settle(market, clearing).prosumers / market.weight
    return paid @ jnp.asarray(_ways(market).T, paid.dtype)


class BillRisk(Record):
    """What bills of branches are, EUR: in the mean, at most with some probability, and beyond."""

    expected: Float[Array, " N"]
    value_at_risk: Float[Array, " N"]
    cvar: Float[Array, " N"]


def bill_risk(market: Market, clearing: Clearing, level: Any, probability: Any = None) -> BillRisk:
    """Of each prosumer's bill its mean, and value at risk and CVaR at `level`, by `branch_bills`.

    By the `probability` of each branch, unless given the market's own; of one that shuns risk give
    `Averse.probability`, as its steps count by others.
    """
    bills = branch_bills(market, clearing)
    share = probabilities(market) if probability is None else probability
    share = jnp.asarray(share, bills.dtype)
    return BillRisk(bills @ share, value_at_risk(bills, share, level), cvar(bills, share, level))


def _ways(market: Market) -> Float[np.ndarray, "S H"]:
    """1 in the row of each branch at its steps."""
    steps = market.prosumers.load.shape[-1]
    ends = np.flatnonzero(leaves(market.before, steps))
    found = np.zeros((len(ends), steps))
    for row, leaf in enumerate(ends):
        found[row, way_to(market.before, steps, int(leaf))] = 1.0
    return found


class Averse(Record):
    """An equilibrium of those who shun risk, and how close to it that is shown to be.

    `costs` are phi_s of the plan, EUR, `probability` p, `priced` the q at which branches count in
    `market`, whose clearing `clearing` is. No plan has a lower measure of risk than `bound`, and
    that of this plan is `measure`, EUR.
    """

    market: Market
    clearing: Clearing
    costs: Float[Array, " S"]
    probability: Float[Array, " S"]
    priced: Float[Array, " S"]
    weight: Float[Array, ""]
    level: Float[Array, ""]
    bound: Float[Array, ""]
    clears: int

    @property
    def expected(self) -> Array:
        """E[phi], EUR."""
        return jnp.sum(self.probability * self.costs)

    @property
    def cvar(self) -> Array:
        """CVaR of phi at the level, EUR."""
        return cvar(self.costs, self.probability, self.level)

    @property
    def measure(self) -> Array:
        """(1 - weight) E[phi] + weight CVaR[phi], EUR."""
        return (1 - self.weight) * self.expected + self.weight * self.cvar

    @property
    def slopes(self) -> tuple[Array, Array]:
        """What the least measure rises by weight and by level, EUR: its derivatives.

        By Danskin's theorem those of the measure with the plan held, CVaR - E and weight
        (CVaR - VaR) / (1 - level); where several branches cost as much as the one at the level, one
        of the derivatives on its sides.
        """
        edge = value_at_risk(self.costs, self.probability, self.level)
        by_level = self.weight * (self.cvar - edge) / (1 - self.level)
        return self.cvar - self.expected, by_level

    def __str__(self) -> str:
        return "\n".join(
            f"{float(value):.6g} EUR  {words}"
            for value, words in (
                (self.expected, "expected cost"),
                (self.cvar, f"mean cost of the worst {100 * (1 - float(self.level)):.3g} %"),
                (self.measure, f"of both, the latter counting {float(self.weight):g}"),
                (self.bound, "which no plan brings below"),
            )
        )


@for_one()
def averse(
    market: Market,
    weight: float = 0.5,
    level: float = 0.9,
    *,
    solver: AbstractSolver | None = None,
    tol: float = 1e-6,
    most: int = 100,
    start: Clearing | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Averse:
    """The equilibrium of a tree's market that shuns risk (model.md: Risk).

    `market` is one of `scenarios.tree` or `scenarios.committed`. `weight`, from 0 (nobody minds
    risk) to below 1, is how much the worst share 1 - `level` of branches counts more than by their
    probability. Clears until the measure of risk of the plan is shown to be within `tol` of the
    gross bill of the least; each clear starts from the last one, and of all but the first only
    numbers change, and more than `most` are not done. `progress` is called with the number of
    clears and what is left, relative.

    Raises `ValueError` for numbers out of range or a market whose weights are no probabilities,
    what `clear` raises, and `NotCleared` after that.
    """
    if not 0 <= weight < 1:
        raise ValueError(f"averse: weight={weight}; give a number from 0 to below 1.")
    if not 0 <= level < 1:
        raise ValueError(f"averse: level={level}; give a share from 0 to below 1, like 0.9.")
    share = probabilities(market)
    known = _Known(share * (1 - weight), share * (1 - weight + weight / (1 - level)))

    def measure(phi: np.ndarray) -> float:
        return float((1 - weight) * share @ phi + weight * cvar(phi, share, level))

    priced, found, left = share, start, np.inf
    for count in range(1, most + 1):
        there = _counting(market, priced)
        found = clear(there, solver, tol=max(tol / 10, 1e-11), start=found)
        scale = float(found.certificate.scales.bill)
        known.add(priced, np.asarray(branch_costs(there, found.plan), float), found)
        at, cost, clearing = known.best()
        bound, mixed = float(at @ cost), known.mixed()
        other = np.asarray(branch_costs(there, mixed), float)
        better = measure(cost) - measure(other) > tol / 10 * scale
        cost = other if better else cost
        left = (measure(cost) - bound) / scale
        if progress is not None:
            progress(count, left)
        if left <= tol:
            there = _counting(market, at)
            clearing = _with_plan(there, clearing, mixed) if better else clearing
            numbers = (cost, share, at, weight, level, bound)
            arrays = [to_device(np.asarray(a, market.weight.dtype)) for a in numbers]
            return Averse(there, clearing, *arrays, clears=count)
        priced = known.next()
    raise NotCleared(
        f"averse: {most} clears left {left:.1e} of the bill (tol={tol:g}); raise most or tol.",
        found,  # pyright: ignore[reportArgumentType]
    )


class _Known:
    """What clears have told of the least expected cost v as a function of branches' shares q.

    v(q) <= q . phi for the costs phi of any plan, and equal at the q that the plan was cleared at.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray):
        self.low, self.high = low, high
        self.at: list[np.ndarray] = []
        self.phi: list[np.ndarray] = []
        self.found: list[Clearing] = []
        self.radius = np.inf  # of q around the best, within which the next is looked for

    def add(self, at: np.ndarray, phi: np.ndarray, found: Clearing) -> None:
        """A clear; the region in which to look grows where it was better, and shrinks where not."""
        value, before = at @ phi, max(self._values(), default=-np.inf)
        step = np.abs(at - self.best()[0]).max() if self.at else np.inf
        self.at.append(at)
        self.phi.append(phi)
        self.found.append(found)
        if np.isfinite(before):
            self.radius = 2 * self.radius if value > before else min(self.radius, step) / 2

    def _values(self) -> list[float]:
        return [float(q @ phi) for q, phi in zip(self.at, self.phi, strict=True)]

    def best(self) -> tuple[np.ndarray, np.ndarray, Clearing]:
        """The q with the largest v so far, the costs of branches there, and the clearing."""
        k = int(np.argmax(self._values()))
        return self.at[k], self.phi[k], self.found[k]

    def mixed(self) -> Plan:
        """The mean of plans that the highest point under all lines rests on."""
        _, share = self._highest(self.low, self.high)
        kept = np.flatnonzero(share > 1e-9)
        part = share[kept] / share[kept].sum()
        plans = [self.found[k].plan for k in kept]
        return jax.tree.map(
            lambda *each: sum(float(s) * a for s, a in zip(part, each, strict=True)), *plans
        )

    def next(self) -> np.ndarray:
        """Where the lines allow the most, near the best."""
        at = self.best()[0]
        low, high = (np.clip(at + d, self.low, self.high) for d in (-self.radius, self.radius))
        return self._highest(low, high)[0]

    def _highest(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The q within bounds whose lowest line is highest, and what each line holds it by."""
        from scipy.optimize import linprog

        phi = np.stack(self.phi)
        middle, scale = phi.mean(), max(np.abs(phi - phi.mean()).max(), 1e-12)
        lines = np.hstack([-(phi - middle) / scale, np.ones((len(phi), 1))])
        count = len(low)
        found = linprog(
            np.r_[np.zeros(count), -1.0],
            A_ub=lines,
            b_ub=np.zeros(len(phi)),
            A_eq=np.r_[np.ones(count), 0.0][None],
            b_eq=[1.0],
            bounds=[*zip(low, high, strict=True), (None, None)],
            method="highs",
        )
        return found.x[:count], -found.ineqlin.marginals


def _counting(market: Market, priced: np.ndarray) -> Market:
    """The market whose branches count so much."""
    weight = np.asarray(priced @ _ways(market), np.asarray(market.weight).dtype)
    return changed(market, weight=to_device(weight))


def _with_plan(market: Market, clearing: Clearing, plan: Plan) -> Clearing:
    """A clearing with another plan that is as good at its prices, judged."""
    found = replace(clearing, plan=plan, costs=costs(market, plan))
    found = replace(found, aggregate=aggregate(market, plan))
    return replace(found, certificate=certify(market, plan, clearing.prices))
