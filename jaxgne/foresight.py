"""What it is worth to plan for scenarios instead of their mean, and to know which one comes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from .clearing import clear
from .commitments import COMMITTED, is_committed
from .each import for_one
from .market import FIELDS, Market
from .model import burdens, by_owner, members, potential, zeros
from .record import Record, changed
from .result import Clearing, NotCleared
from .risk import probabilities
from .runner import jnp, to_device
from .scenarios import branch, tree
from .status import status_name
from .succession import roots
from .tables import has_caps

_MISSED = 1e-5  # of the largest total import


class Foresight(Record):
    """Expected costs of three ways to decide what comes first, EUR, and what they differ by.

    `stochastic` decides it once for all branches, `wait_and_see` in each branch by itself,
    knowing it, and `expected_value` as the mean of the branches would; that one is infinite where
    some branch then has no plan.
    """

    stochastic: Float[Array, ""]
    wait_and_see: Float[Array, ""]
    expected_value: Float[Array, ""]
    market: Market  # the tree
    clearing: Clearing  # its equilibrium

    @property
    def value_of_stochastic_solution(self) -> Array:
        """What planning for all branches saves against planning for their mean, EUR."""
        return self.expected_value - self.stochastic

    @property
    def value_of_perfect_information(self) -> Array:
        """What knowing the branch ahead would save on top, EUR."""
        return self.stochastic - self.wait_and_see

    def __str__(self) -> str:
        return "\n".join(
            f"{float(value):.6g} EUR  {words}"
            for value, words in (
                (self.wait_and_see, "expected cost where the branch is known ahead"),
                (self.stochastic, "where what comes first is decided for all branches"),
                (self.expected_value, "where it is decided for the mean of the branches"),
                (self.value_of_stochastic_solution, "value of the stochastic solution"),
                (self.value_of_perfect_information, "value of perfect information"),
            )
        )


def value(
    markets: Sequence[Market],
    probability: Any,
    split: int,
    *,
    cost: Callable[[Market, Any], Any] = potential,
    tol: Any = None,
) -> Foresight:
    """What foresight is worth in `markets` that agree in their first `split` steps.

    Each comes with its `probability`; the numbers sum to 1.

    `cost` of a market and a plan, EUR, is the potential unless given: what an equilibrium
    minimizes, so that both values are at least 0; by any other they need not be. The plan for the
    mean of all markets is held in the tree by the contents of buffers and the power of generators
    in the shared steps; what is bought and traded there follows. Raises what `scenarios.tree` and
    `clear` raise.
    """
    solve = partial(clear, tol=tol)
    whole, apart = (tree(markets, probability, at) for at in (split, 0))
    found = solve(whole)
    mean = _mean(markets, np.asarray(probability, float))
    held = _held(whole, solve(mean).plan, split)
    fixed = solve(held, throw=False)
    if not bool(fixed.ok) and status_name(fixed.status) != "infeasible":
        raise NotCleared(
            "foresight.value: the plan for the mean did not clear; raise tol.", fixed, held
        )
    bound = cost(held, fixed.plan) if bool(fixed.ok) else np.inf
    return Foresight(
        stochastic=to_device(np.asarray(cost(whole, found.plan))),
        wait_and_see=to_device(np.asarray(cost(apart, solve(apart).plan))),
        expected_value=to_device(np.asarray(bound)),
        market=whole,
        clearing=found,
    )


@for_one()
def ahead(
    market: Market, *, cost: Callable[[Market, Any], Any] = potential, tol: Any = None
) -> Foresight:
    """What foresight is worth where trades and imports are committed (`scenarios.committed`).

    `cost` is as for `value`. The mean is that of the branches, the balancing desk included; the
    imports and trades that are best for it are then committed to, and the rest of each branch
    follows. Raises `ValueError` where nothing is committed, and what `clear` raises.
    """
    steps, count = (
        market.prosumers.load.shape[-1],
        int(roots(market.before, len(market.weight)).sum()),
    )
    hours = tuple(range(steps // count)) * count
    if market.committed is None or market.committed.moment != hours:
        raise ValueError(
            "foresight.ahead: nothing is committed hour by hour and branch by branch; "
            "make the market by jaxgne.scenarios.committed."
        )
    solve = partial(clear, tol=tol)
    found, share = solve(market), probabilities(market)
    paths = [branch(market, found.plan, k)[0] for k in range(len(share))]
    known = [cost(path, solve(path).plan) for path in paths]
    kept = _kept(market, solve(_mean(paths, share)).plan)
    held, planned = _bought(market, kept), []
    for k, path in enumerate(paths):
        there, first = branch(held, kept, k)
        fixed = solve(there, throw=False)
        if not bool(fixed.ok) and status_name(fixed.status) != "infeasible":
            raise NotCleared(
                "foresight.ahead: the commitment for the mean did not clear; raise tol.",
                fixed,
                there,
            )
        whole = {name: getattr(fixed.plan, name) + table for name, table in first.items()}
        planned.append(cost(path, changed(fixed.plan, **whole)) if bool(fixed.ok) else np.inf)
    return Foresight(
        stochastic=to_device(np.asarray(cost(market, found.plan))),
        wait_and_see=to_device(np.dot(share, np.asarray(known))),
        expected_value=to_device(np.dot(share, np.asarray(planned))),
        market=market,
        clearing=found,
    )


def _kept(market: Market, plan: Any) -> dict[str, Array]:
    """What is committed of one branch's plan, in all branches; 0 where each decides."""
    each = len(probabilities(market))
    bound = {name: np.asarray(is_committed(market, name)) for name in COMMITTED}
    tables = {name: np.tile(np.asarray(getattr(plan, name)), (1, each)) for name in COMMITTED}
    return {name: to_device(np.where(bound[name], tables[name], 0.0)) for name in COMMITTED}


def _bought(market: Market, kept: dict[str, Array]) -> Market:
    """The market in which so much is bought and traded, and no more of it can be.

    Who has bought needs so much less of others, and draws it at its bus all the same: what is
    bought counts as passive there, which leaves flows and total import as they are. Limits on the
    total are wider by what a clearing may miss them by, as nobody could make up for that.
    """
    people, pairs, grid = market.prosumers, market.trading, market.grid
    missed = _MISSED * jnp.max(jnp.sum(kept["imports"], axis=0))
    limits = {"total_min": -missed, "total_max": missed}
    had = kept["imports"] + by_owner(market, kept["trades"], pairs.buyer)
    had -= by_owner(market, kept["trades"], pairs.seller)
    free = {name: ~np.asarray(is_committed(market, name)) for name in COMMITTED}
    held = changed(
        market,
        prosumers=changed(
            people,
            load=people.load - had,
            import_max=jnp.where(free["imports"], people.import_max, 0.0),
        ),
        trading=changed(pairs, limit=jnp.where(free["trades"], pairs.limit, 0.0)),
        grid=changed(grid, passive=grid.passive.at[people.bus].add(had)),
        tariff=changed(
            market.tariff, **{n: getattr(market.tariff, n) + by for n, by in limits.items()}
        ),
    )
    if not has_caps(market):
        return held
    first = replace(zeros(market), imports=kept["imports"])
    counted = members(market, first) + burdens(market) - burdens(held)  # by caps, all the same
    return changed(held, caps=changed(held.caps, base=held.caps.base + counted))


def _mean(markets: Sequence[Market], share: np.ndarray) -> Market:
    """The market with the mean of each real number; whole numbers are the same in all."""

    def mean(*each: Any) -> Any:
        arrays = [np.asarray(a) for a in each]
        if arrays[0].dtype.kind != "f" or all(np.array_equal(arrays[0], a) for a in arrays):
            return each[0]
        return to_device(np.tensordot(share, np.stack(arrays), 1).astype(arrays[0].dtype))

    return jax.tree.map(mean, *markets)


def _held(market: Market, plan: Any, split: int) -> Market:
    """The tree with the first steps of a plan: contents and generation."""
    names = {"Buffers.energy": plan.energy, "Generators.power": plan.generation}
    where = [FIELDS[f"{name}_{end}"] for name in names for end in ("min", "max")]
    values = []
    for field, own in zip(where, np.repeat(list(names), 2), strict=True):
        bound = np.array(field.find(market))
        bound[:, :split] = np.asarray(names[own])[:, :split]
        values.append(to_device(bound))
    return eqx.tree_at(lambda m: [field.find(m) for field in where], market, values)
