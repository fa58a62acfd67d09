"""Carbon: who emits what, what trades carry along, and allowances that are traded.

A cap that counts carbon (`jg.caps.carbon`) has a limit, a price, or both. Its multiplier is what a
kg costs: the price, and above it that of an allowance. Functions here go by the first such cap of a
market, or by the one that is given (docs/carbon.md).
"""

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .arguments import of_tables
from .cap_money import shares_of_caps
from .each import for_each, for_one
from .market import Market
from .model import Plan, rows_like
from .names import row_of
from .record import Record
from .result import Clearing
from .runner import jnp, to_device
from .settlement import priced
from .succession import roots
from .tables import QUANTITIES, has_caps

Rule = Literal["equal", "load", "history", "own"]


class Emissions(Record):
    """What is emitted, kg by step and as often as steps count: by whom, and for passive load."""

    prosumers: Float[Array, "N H"]
    passive: Float[Array, " H"]

    @property
    def total(self) -> Array:
        """All of it, kg."""
        return jnp.sum(self.prosumers) + jnp.sum(self.passive)


@of_tables
def emissions_of(market: Market, clearing: Clearing, cap: int | str | None = None) -> Emissions:
    """Who emits: buyers of what the main grid sells, and owners of generators.

    `cap` is the number or name of the cap that counts it, by default the first that counts carbon.
    Traceable, and differentiable with the clearing; of a batch by scenario. Raises `ValueError` for
    a market without such a cap.
    """
    return _emitted(market, clearing.plan, _given("emissions_of", market, cap))


@for_each
def _emitted(market: Market, plan: Plan, row: int | None) -> Emissions:
    caps = market.caps
    at = jnp.argmax(caps.carbon) if row is None else row
    own = (jnp.arange(caps.carry.shape[0]) == at)[:, None]
    per_unit = replace(rows_like(market), cap=jnp.where(own, 1.0, jnp.zeros_like(caps.base)))
    return Emissions(
        prosumers=shares_of_caps(market, plan, per_unit),
        passive=market.weight * jnp.sum(jnp.where(own, caps.base, 0.0), axis=0),
    )


def _given(caller: str, market: Market, cap: int | str | None) -> int | None:
    """The row of a cap that is given; None for the first that counts carbon."""
    carbon = market.caps.carbon
    counts = has_caps(market) and (isinstance(carbon, Tracer) or bool(np.any(np.asarray(carbon))))
    if cap is None:
        if not counts:
            raise ValueError(
                f"{caller}: no cap of this market counts carbon; add one, "
                "jg.capped(market, jg.caps.carbon(market, grid=0.4))."
            )
        return None
    return row_of(caller, "cap", cap, market.caps.names, carbon.shape[-1])


class Embodied(Record):
    """Carbon in what everyone uses, kg by step, and in each kWh that it has, kg/kWh.

    `average` is that of all kWh that anybody uses, passive load included.
    """

    prosumers: Float[Array, "N H"]
    content: Float[Array, "N H"]
    average: Float[Array, " H"]


@for_one()
def embodied(market: Market, clearing: Clearing, cap: int | str | None = None) -> Embodied:
    """Emissions by who uses the energy: carbon goes along with what is traded.

    All that comes to a prosumer in a step, from the main grid, its own devices and its neighbors,
    is mixed, and what it passes on has the content of the mix (carbon emission flow: Kang et al.,
    IEEE Trans. Smart Grid 6(5), 2015). So who buys of a neighbor's generator has a part of what
    that emits, and the neighbor the less. What charges storage counts when it does; what storage
    gives back brings no more. Sales to the main grid stay with the seller. All together have what
    all emit. `cap` as in `emissions_of`.

    By a sparse linear solve, on the host. Raises `ValueError` for a market without such a cap.
    """
    from scipy import sparse
    from scipy.sparse.linalg import spsolve

    direct = emissions_of(market, clearing, cap)
    own, plan = np.asarray(direct.prosumers, float), clearing.plan
    often = np.asarray(market.weight, float) * np.asarray(market.hour_length, float)
    people, hours = own.shape
    comes = np.asarray(plan.imports, float) - np.minimum(np.asarray(market.prosumers.load), 0.0)
    comes = comes - np.asarray(plan.curtailed)
    for table, owner in (
        (plan.generation, market.generators.owner),
        (plan.discharge, market.buffers.owner),
    ):
        np.add.at(comes, np.asarray(owner), np.maximum(np.asarray(table, float), 0.0))
    trades = np.asarray(plan.trades, float)
    ends = np.asarray(market.trading.buyer), np.asarray(market.trading.seller)
    forward = trades >= 0
    buyer = np.where(forward, ends[0][:, None], ends[1][:, None])
    seller = np.where(forward, ends[1][:, None], ends[0][:, None])
    bought = np.abs(trades)
    hour = np.broadcast_to(np.arange(hours), trades.shape)
    np.add.at(comes, (buyer, hour), bought)
    least = 1e-9 * max(float(comes.max(initial=0.0)), 1e-300)  # trades in a circle carry nothing
    place = buyer * hours + hour, seller * hours + hour
    size = people * hours
    mixed = sparse.csr_array(
        (-bought.ravel(), (place[0].ravel(), place[1].ravel())), shape=(size, size)
    ) + sparse.diags_array(np.maximum(comes, 0.0).ravel() + least)
    solved: Any = spsolve(sparse.csc_array(mixed), (own / often).ravel())
    content = np.asarray(solved).reshape(own.shape)
    moved = often * bought * content[seller, hour]
    np.add.at(own, (buyer, hour), moved)
    np.add.at(own, (seller, hour), -moved)
    passive = np.asarray(market.grid.passive, float).sum(axis=0)
    brought = comes.copy()
    np.add.at(brought, (buyer, hour), -bought)
    used = often * (brought.sum(axis=0) + passive)
    whole = np.asarray(direct.prosumers).sum(axis=0) + np.asarray(direct.passive)
    average = np.divide(whole, used, out=np.zeros(hours), where=used > 0)
    dtype = market.prosumers.load.dtype
    return Embodied(*(to_device(a.astype(dtype)) for a in (own, content, average)))


class Allowances(Record):
    """Allowances for a limit on carbon, kg, and what they are traded for.

    `price` is what one is worth, EUR/kg. `paid` is what each pays for those that it needs beyond
    `given`, EUR, and below 0 for who sells; `left` is what all these payments sum to: the price of
    what is emitted less that of the limit, which is 0 but for the tolerance of the clearing.
    """

    price: Float[Array, ""]
    needed: Float[Array, " N"]
    given: Float[Array, " N"]
    paid: Float[Array, " N"]
    passive_needed: Float[Array, ""]
    passive_given: Float[Array, ""]
    passive_paid: Float[Array, ""]
    left: Float[Array, ""]

    def __str__(self) -> str:
        rows = [
            *zip(*(np.asarray(a) for a in (self.needed, self.given, self.paid)), strict=True),
            (self.passive_needed, self.passive_given, self.passive_paid),
        ]
        called = [*(f"prosumer {i}" for i in range(len(rows) - 1)), "passive load"]
        lines = [
            f"{who:<14}{float(needed):>10.3f} kg{float(given):>10.3f} kg{float(paid):>10.4f} EUR"
            for who, (needed, given, paid) in zip(called, rows, strict=True)
        ]
        head = f"{float(self.price):.5g} EUR/kg"
        return "\n".join([f"{head:<14}{'emitted':>13}{'handed out':>13}{'paid':>14}", *lines])


@for_one()
def allowances(
    market: Market,
    clearing: Clearing,
    rule: Rule = "equal",
    *,
    numbers: Any = None,
    cap: int | str | None = None,
) -> Allowances:
    """Hand out as many allowances as a limit on carbon has kg, and trade them at its price.

    `rule` says to whom: "equal" to each member of the cap, "load" by what each draws over the
    horizon without its devices, and passive load where it counts, "history" in proportion to
    `numbers`, such as what each emitted last year (grandfathering), or "own", `numbers` of kg. They
    are one a prosumer, or one more for passive load. Emissions and their price do not depend on the
    rule, as an allowance that is used could be sold; bills do. `cap` as in `emissions_of`.

    Runs on the host. Raises `ValueError` for a cap without a limit, for another rule, and for
    numbers that do not fit or do not sum to the limit.
    """
    priced("allowances", clearing)
    if rule not in get_args(Rule):
        raise ValueError(f"allowances: rule={rule!r}; choose one of {', '.join(get_args(Rule))}.")
    row = _given("allowances", market, cap)
    caps, steps = market.caps, np.shape(market.prosumers.load)[-1]
    row = int(np.argmax(np.asarray(caps.carbon))) if row is None else row
    limits = np.asarray(caps.level_max, float)[row]
    most = np.max(limits, initial=-np.inf, where=np.isfinite(limits)) - float(caps.start[row])
    if most == -np.inf:
        raise ValueError(
            f"allowances: cap {caps.names[row]!r} has no limit at the end; give jg.caps.carbon kg."
        )
    assert clearing.prices.cap is not None
    found = emissions_of(market, clearing, row)
    scarce = np.asarray(clearing.prices.cap, float)[row] - float(caps.price[row])
    each, passive = np.asarray(found.prosumers, float), np.asarray(found.passive, float)
    weight = np.asarray(market.weight, float)
    price = float(np.sum((weight * scarce)[roots(market.before, steps)]))
    given = _handed_out(market, row, rule, numbers, most)
    paid, rest = each @ scarce - price * given[:-1], passive @ scarce - price * given[-1]
    dtype = market.prosumers.load.dtype
    whole = each.sum(axis=1)
    values = (price, whole, given[:-1], paid, passive.sum(), given[-1], rest, paid.sum() + rest)
    return Allowances(*(to_device(np.asarray(a, dtype)) for a in values))


def _handed_out(
    market: Market, row: int, rule: str, numbers: Any, most: float
) -> Float[np.ndarray, " N+1"]:
    """Allowances by prosumer, and those of passive load, kg."""
    caps, people = market.caps, np.shape(market.prosumers.bus)[0]
    if (numbers is None) != (rule in ("equal", "load")):
        raise ValueError(
            f"allowances: rule={rule!r} {'needs' if numbers is None else 'takes no'} numbers=."
        )
    if numbers is not None:
        keys = np.asarray(numbers, float)
        fits = keys.shape in ((people,), (people + 1,)) and np.all(np.isfinite(keys) & (keys >= 0))
        if not (fits and keys.sum() > 0):
            raise ValueError(
                f"allowances: numbers; give {people}, one a prosumer, or one more for passive "
                "load, of 0 or more and not all 0."
            )
        keys = np.pad(keys, (0, people + 1 - len(keys)))
        if rule == "own" and abs(keys.sum() - most) > 1e-6 * max(most, 1e-9):
            raise ValueError(
                f"allowances: numbers sum to {keys.sum():.6g} kg, the limit is {most:.6g}; hand "
                "out as many."
            )
        return keys * most / keys.sum()
    buys = np.asarray(caps.quantity) == QUANTITIES.index("imports")
    theirs = np.asarray(caps.row)[buys & (np.asarray(caps.cap) == row)]
    keys = np.zeros(people + 1)
    keys[theirs] = 1.0
    if rule == "load":
        hours = np.asarray(market.weight, float) * np.asarray(market.hour_length, float)
        drawn = np.maximum(np.asarray(market.prosumers.load, float), 0.0) @ hours
        keys[:-1] *= drawn
        if np.any(np.asarray(caps.base)[row] != 0):
            keys[-1] = np.asarray(market.grid.passive, float).sum(axis=0) @ hours
    if keys.sum() <= 0:
        raise ValueError(f"allowances: nobody is there to hand out to by rule={rule!r}.")
    return keys * most / keys.sum()
