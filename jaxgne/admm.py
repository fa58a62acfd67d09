"""Rounds by alternating directions of multipliers: how good the answer is, and what was said.

    print(jaxgne.admm.run(market, rounds=300))

Who says what in a round of `jg.ADMM` is as in one of the paper's mechanism: every prosumer tells
its partners what it would trade with them, and the operator what it imports, exports and draws;
that answers with a price of each of the three (docs/admm.md).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .clearing import clear, ready
from .conversation import NUMBER, Conversation
from .each import for_one
from .market import Market, cast
from .messages import simulate
from .model import Plan, Rows
from .optimality import pin, residuals
from .options import checked_options
from .programs import program
from .result import Clearing
from .runner import concrete
from .solvers.admm import ADMM
from .solvers.base import AbstractSolver
from .tracking import distances
from .validation import gate

_TOL = 1e-9  # of the clearing that answers are held against


@for_one()
def run(
    market: Market,
    *,
    rho: float | None = None,
    rounds: int = 400,
    every: int | None = None,
    start: Clearing | None = None,
    exact: Clearing | None = None,
) -> Conversation:
    """How so many `rounds` of `jg.ADMM` go on a `market`: errors and bytes, round by round.

    `rho` is its `penalty`, EUR/kWh per kW. One look at the answer comes `every` so many rounds, by
    default 100 in all. Rounds begin from `start`, a clearing, or cold; `exact` is the clearing that
    they are held against, made where it is not given.

    All is in one compiled program, which other numbers do not compile again. Raises `TypeError`
    traced, `ValueError` for options that make no sense and for markets that `ADMM` does not take,
    and what `clear` raises where the market has no clearing.
    """
    solver = ADMM(rho)
    checked_options("admm.run", market, solver, start=start, steps=rounds, every=every)
    if not concrete((market, start, exact)):
        raise TypeError("admm.run() runs on the host: call it outside of jit.")
    gate(market, "admm.run")
    if exact is None:
        narrow = jnp.finfo(market.prosumers.load.dtype).bits < 64
        exact = clear(market, tol=None if narrow else _TOL)
    every = max(1, rounds // 100) if every is None else every
    market, solver, plan, prices = ready(market, solver, start)
    found, (plan, prices) = _run(
        market, solver, plan, prices, (exact.plan, exact.prices), looks=rounds // every, every=every
    )
    counts = np.arange(1, rounds // every + 1) * every
    nothing = jnp.zeros((1, len(counts)), plan.imports.dtype)
    return Conversation(
        rounds=jnp.asarray(counts),
        **found,
        apart=nothing,
        sent=nothing + NUMBER * numbers(market) * counts,
        epsilon=nothing + jnp.inf,
        delta=jnp.zeros_like(nothing[0, 0]),
        plan=plan,
        prices=prices,
        exact=exact,
        told="an operator, alternating directions of multipliers",
    )


@for_one()
def beside(
    market: Market, *, rho: float | None = None, rounds: int = 400, every: int | None = None
) -> dict[str, Conversation]:
    """Rounds of `jg.ADMM`, "ADMM", and of the paper's mechanism, "mechanism", on one `market`.

    `rho`, `rounds` and `every` are those of `run`; the mechanism has its default steps and all its
    messages arrive (`jaxgne.messages.simulate`). Both begin cold. Raises what these two raise.
    """
    found = run(market, rho=rho, rounds=rounds, every=every)
    other = simulate(market, rounds=rounds, every=every, exact=found.exact)
    return {"ADMM": found, "mechanism": other}


def numbers(market: Market) -> int:
    """How many numbers are sent in a round.

    By hour those of a report, p_mg, p_ex and on a network n_i, a price of each in answer, and for
    each pair what both sides would trade.
    """
    shared = 3 if market.grid.model.networked else 2
    people, hours = market.prosumers.load.shape
    return hours * (2 * shared * people + 2 * market.trading.buyer.shape[0])


@program("the rounds of ADMM")
def _run(
    market: Market,
    solver: AbstractSolver,
    plan: Plan,
    prices: Rows,
    exact: tuple[Plan, Rows],
    *,
    looks: int,
    every: int,
) -> tuple[dict[str, Float[Array, "1 T"]], tuple[Plan, Rows]]:
    """What each look sees, and the last plan and prices, of one seed."""

    def look(state: Any, _: None) -> tuple[Any, dict[str, Array]]:
        state = jax.lax.fori_loop(0, every, lambda _, s: solver.step(market, s), state)
        reached, told = solver.point(market, state)
        found, pinned = residuals(market, reached, told), pin(market, told)
        names = ("distance", "power", "total", "price")
        far = dict(zip(names, distances(market, (reached, pinned), exact), strict=True))
        return state, far | {"error": found.error, "regret": jnp.sum(found.gap)}

    shown = jax.dtypes.canonicalize_dtype(float)
    with jax.enable_x64(True):
        state, seen = jax.lax.scan(look, solver.init(market, plan, prices), None, length=looks)
        reached, told = solver.point(market, state)
        last = reached, pin(market, told)
        return cast(jax.tree.map(lambda a: a[None], (seen, last)), shown)
