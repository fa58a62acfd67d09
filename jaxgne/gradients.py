"""A first derivative at once: nothing is compiled but the output itself."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array

from .clearing import clear, differentiable, moved_to
from .commitments import refuse
from .each import for_one
from .market import Market
from .model import Plan, Rows
from .programs import program
from .result import Clearing
from .runner import by_numpy, concrete, runs_here, to_device, to_host
from .sensitivity.implicit import NO_DERIVATIVE, UNCLEARED, Implicit
from .sensitivity.reverse import reverse
from .size import is_quick

Output = Callable[[Market, Clearing], Array]


@for_one()
def sensitivities(
    market: Market,
    output: Output,
    *,
    clearing: Clearing | None = None,
    where: Callable[[Market], Any] = lambda market: market,
) -> Any:
    """The gradient of a scalar `output(market, clearing)` by every number of the market, at once.

    What `eqx.filter_grad(lambda m: output(m, jg.clear(m)))(market)` is, from one program that is
    compiled, the derivative of `output` itself: for a market in float64 that NumPy clears (up to
    350 prosumers, buses and buffers) NumPy computes the rest. Larger ones are left to
    `filter_grad`; where many gradients of one shape are asked for, that in `jit` is quicker.

    Returns a record like the market, or what `where` picks of it: the output's unit per unit of
    each field, and None in place of indices. `clearing` is the market's, which is cleared unless it
    is given; give one with `tol=1e-9` where bounds are about to switch.

    Raises `NotCleared` where the market does not clear, `RuntimeError` where a `clearing` given did
    not or the derivative is not determined (`jg.trust` says why), and `TypeError` when traced or
    where the output is no scalar. Warns (`UserWarning`) where `where` picks numbers that only count
    together, as limits of a battery that rests full.
    """
    if not concrete((market, clearing)):
        raise TypeError("sensitivities() runs on the host: call it outside of jit, grad and vmap.")
    refuse("sensitivities", market, NO_DERIVATIVE)
    found = clear(market) if clearing is None else clearing
    if not (is_quick(market) and runs_here((market, found))):
        gradient = eqx.filter_grad(lambda m: output(m, differentiable(m, found)))(market)
        return where(gradient)
    if not bool(found.ok):
        raise RuntimeError(UNCLEARED)
    direct, plan, prices = by_parts(output, market, found)
    with by_numpy():
        here, at, by_plan, by_prices = to_host((market, found, plan, prices))
        through = reverse(here, at.plan, at.prices, by_plan, by_prices, Implicit().tol, where)
        gradient = jax.tree.map(lambda a, b: a + b, to_host(direct), through)
    return where(to_device(gradient))


@program("the derivative of an output", once=True, named=True)
def by_parts(output: Output, market: Market, clearing: Clearing) -> tuple[Market, Plan, Rows]:
    """The output's derivatives by the market, with plan and prices held, and by these."""

    def value(given: tuple[Market, Plan, Rows]) -> Array:
        market, plan, prices = given
        return output(market, moved_to(clearing, market, plan, prices))

    return eqx.filter_grad(value)((market, clearing.plan, clearing.prices))
