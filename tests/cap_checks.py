"""What answers to markets with caps are held to: levels that follow, prices that are slopes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgne as jg
from jaxgne.feasibility import infeasibility_proof
from jaxgne.runner import by_numpy, to_host
from jaxgne.status import status_name
from tests.agreement import SOLVERS, check_agreement
from tests.markets import levels
from tests.reference import Reference, solve, violations


def changed(market: jg.Market, **fields: Any) -> jg.Market:
    """The market with other numbers in fields of its caps."""
    for name, value in fields.items():
        market = eqx.tree_at(lambda m, name=name: getattr(m.caps, name), market, jnp.asarray(value))
    return market


def known(table: jax.Array | None) -> np.ndarray:
    """What a plan, or prices, say of caps where a market has some."""
    assert table is not None
    return np.asarray(table)


def at_once(function: Any, *given: Any) -> Any:
    """`function` by NumPy, which compiles nothing."""
    with by_numpy():
        return function(*to_host(given))


def multipliers(market: jg.Market, prices: jg.Rows) -> dict[str, np.ndarray]:
    """Derivatives of the least potential by what caps are, from prices alone (EUR per unit).

    By the Lagrangian of the docstring's equations: of what is left of each level, rise and spare,
    a positive part is the price of its upper limit, a negative one that of its lower one.
    """
    caps, weight = market.caps, np.asarray(market.weight)
    cap, level = weight * np.asarray(prices.cap), weight * np.asarray(prices.level)
    adds, carry = np.asarray(caps.adds)[:, None] == 1, np.asarray(caps.carry)[:, None]
    begins = np.arange(-1, weight.size - 1) if market.before is None else np.array(market.before)
    later = level @ (begins[:, None] == np.arange(weight.size))
    scarce = {
        "level": np.where(adds, 0, cap) - level + carry * later,
        "rise": np.where(adds, cap, 0) + level - weight * np.asarray(caps.price)[:, None],
        "slack": -cap,
    }
    return {
        "base": cap,
        "start": -carry[:, 0] * level[:, begins < 0].sum(axis=1),
        "level_max": -np.maximum(scarce["level"], 0),
        "level_min": np.maximum(-scarce["level"], 0),
        "rise_max": -np.maximum(scarce["rise"], 0),
        "rise_min": np.maximum(-scarce["rise"], 0),
        "slack": -np.maximum(scarce["slack"], 0).sum(axis=1),
    }


def check_prices(market: jg.Market, clearing: jg.Clearing, oracle: Reference, seed: int) -> None:
    """The potential, convex in all that caps are, lies above the plane that prices span.

    So to either side of here the oracle's is no less than they say: where it has no kink, they
    are its slopes.
    """
    rng, bill = np.random.default_rng(seed), float(clearing.certificate.scales.bill)
    slopes, step, told = multipliers(market, clearing.prices), {}, 0.0
    for name, slope in slopes.items():
        value = np.asarray(getattr(market.caps, name))
        step[name] = np.where(np.isfinite(value), rng.uniform(-0.1, 0.1, value.shape), 0.0)
        told += float(np.sum(np.where(np.isfinite(value), slope, 0.0) * step[name]))
        assert np.all(np.abs(slope[~np.isfinite(value)]) < 1e-5), name
    for sign in (1, -1):
        values = {name: getattr(market.caps, name) + sign * d for name, d in step.items()}
        there = solve(changed(market, **values))
        if there.status == "solved":  # else there is none: more than any plane
            assert there.potential >= oracle.potential + sign * told - 2e-6 * bill


def check_caps(market: jg.Market, clearing: jg.Clearing) -> None:
    """Levels and rises follow, step by step, from what members do, and stay within limits."""
    caps, plan = market.caps, jax.tree.map(np.asarray, clearing.plan)
    size = 1e-5 * (1 + np.abs(plan.level).max())
    names = ("imports", "exports", "generation", "charge", "discharge")
    counted = np.asarray(caps.base) + plan.spare
    for cap, quantity, row, weight in zip(
        caps.cap, caps.quantity, caps.row, caps.weight, strict=True
    ):
        counted[cap] += np.asarray(weight) * getattr(plan, names[quantity])[row]
    adds, carry, start = (np.asarray(a) for a in (caps.adds, caps.carry, caps.start))
    level, rise = levels(counted, adds, carry, start, market.before)
    for name, value in (("level", level), ("rise", rise)):
        assert np.allclose(getattr(plan, name), value, atol=size)
        assert np.all(value >= np.asarray(getattr(caps, f"{name}_min")) - size)
        assert np.all(value <= np.asarray(getattr(caps, f"{name}_max")) + size)
    assert max(violations(market, clearing.plan).values()) < 1e-5 * (
        1 + float(np.abs(market.prosumers.load).max())
    )


def check_ends(market: jg.Market, seed: int, name: str, runner: Any = None) -> str:
    """So does this one, or the solver does not."""
    solver, tol, most = SOLVERS[name]
    clearing = jg.clear(market, solver, tol=tol, max_steps=most, runner=runner, throw=False)
    oracle = solve(market)
    if oracle.status == "failed":
        return "oracle failed"
    ended = status_name(clearing.status)
    if ended == "max_steps" and most is not None:
        return ended
    assert ended == ("cleared" if oracle.status == "solved" else "infeasible")
    if ended == "infeasible":
        assert float(at_once(infeasibility_proof, market, clearing.prices)) > 0
        return ended
    found = at_once(jg.optimality.residuals, market, clearing.plan, clearing.prices)
    assert float(found.error) <= 1.01 * tol
    check_agreement(market, clearing, oracle)
    check_caps(market, clearing)
    check_prices(market, clearing, oracle, seed)
    return ended
