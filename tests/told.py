"""Markets with names and answers that nobody asked for, of which tables and arrays tell."""

from dataclasses import fields, replace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxgne as jg
from jaxgne import model
from tests.markets import feeder

NAMES = ("799", "702", "b", "701", "a")
Cleared = tuple[jg.Market, jg.Clearing]


def day(kind: str = "lindistflow") -> jg.Market:
    """The feeder over three half hours, with names for its buses."""
    market = feeder(rating=31.0, hour_length=0.5)
    parts = {part.name: getattr(market.grid, part.name) for part in fields(market.grid)}
    grid = jg.Grid(**parts | {"model": kind, "reactive_balance": None, "names": NAMES})
    return eqx.tree_at(lambda m: m.grid, market, grid)


def found(
    market: jg.Market, seed: int, status: Any = jg.Status.cleared, judged: bool = False
) -> jg.Clearing:
    """Some plan, in which every prosumer's balance holds, at some prices."""
    rng = np.random.default_rng(seed)

    def drawn(tree: Any, low: float, high: float) -> Any:
        return jax.tree.map(lambda a: jnp.asarray(rng.uniform(low, high, a.shape)), tree)

    plan, prices = drawn(model.zeros(market), 1.0, 5.0), drawn(model.rows_like(market), -0.2, 0.3)
    plan = replace(plan, voltage=1 - plan.voltage / 100)
    drawing = model.net_load(market, plan) - model.bought(market, plan.trades)
    plan = replace(plan, imports=drawing + plan.exports)
    sigma = jg.aggregate(market, plan)
    none: Any = None  # tables need no certificate
    certificate = jg.certify(market, plan, prices) if judged else none
    return jg.Clearing(
        plan,
        prices,
        jg.costs(market, plan),
        sigma,
        certificate,
        jnp.array(9),
        status,
        jg.result.Run("", jnp.array(1e-6), jnp.array(True)),
    )


def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
