"""Which equilibrium, where there are several: the one that trades and stores least.

Total import and prices are as good as unique, single trades and storage powers are not (MODEL 6).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import equinox as eqx
import jax
from jax.core import Tracer

from .certificate import certify
from .clearing import Clearing, NotCleared, Progress, Status, clear
from .market import Market
from .model import aggregate, costs
from .solvers.base import AbstractSolver

_FIRST = 0.1  # weight of the norm, relative to the market's price over its power
_TIMES = 8  # it is divided by ten, at most


def smoothed(market: Market, weight: Any) -> Market:
    """The market with `weight / 2 (t^2 + p_ch^2 + p_ds^2)` EUR per hour added to its costs.

    For each pair's trade t and each buffer's powers, in kW; `weight` in EUR/kW^2h. Its trades and
    storage powers are unique.
    """

    def costlier(m: Market) -> tuple:
        return m.trading.quadratic, m.buffers.quadratic

    both_sides, own = costlier(market)
    return eqx.tree_at(costlier, market, (both_sides + weight / 4, own + weight / 2))


def least_norm(
    market: Market,
    solver: AbstractSolver | None = None,
    *,
    tol: Any = None,
    max_steps: int | None = None,
    start: Clearing | None = None,
    throw: bool = True,
    progress: Callable[[Progress], None] | None = None,
) -> Clearing:
    """The v-GNE whose trades and storage powers have the least Euclidean norm.

    Takes what `clear` takes, and ten times its accuracy inside. The prices are those of `clear`,
    the plan is that of the market with a small quadratic cost on trades and storage powers. If the
    cost is small enough, that plan is an equilibrium of the market itself, and then it is the one
    of least norm (exact regularization: Friedlander, Tseng, SIAM J. Optim. 18, 2007). So the cost
    is divided by ten until the certificate of plan and prices, without it, is at most `tol`.

    Runs on the host: not under `jax.jit` or `jax.vmap`. Raises what `clear` raises, and `TypeError`
    when traced.
    """
    if any(isinstance(a, Tracer) for a in jax.tree.leaves((market, tol, start))):
        raise TypeError("least_norm() runs on the host: call it outside of jit and vmap.")
    single = market.prosumers.load.dtype.itemsize < 8
    tol = (1e-4 if single else 1e-6) if tol is None else float(tol)
    inner = max(tol / 10, 1e-5 if single else 1e-11)
    options = {"tol": inner, "max_steps": max_steps, "progress": progress}
    first = clear(market, solver, start=start, throw=throw, **options)
    if not bool(first.ok):
        return first
    scales = first.certificate.scales
    weight, now, steps = _FIRST * scales.price / scales.power, first, first.steps
    found, tries = first.certificate, 0
    while tries == 0 or (bool(found.error > tol) and tries < _TIMES):
        now = clear(smoothed(market, weight / 10**tries), solver, start=now, throw=False, **options)
        found = certify(market, now.plan, first.prices)
        steps, tries = steps + now.steps, tries + 1
    chosen = replace(
        now,
        prices=first.prices,
        costs=costs(market, now.plan),
        aggregate=aggregate(market, now.plan),
        certificate=found,
        steps=steps,
        status=Status.where(found.error <= tol, Status.cleared, Status.max_steps),
    )
    if throw and not bool(chosen.ok):
        raise NotCleared(
            f"least_norm: {tries} ever smaller weights of the norm gave no equilibrium within "
            f"tol={tol:g} (error {float(found.error):.1e}); raise max_steps.",
            chosen,
        )
    return chosen
