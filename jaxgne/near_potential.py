"""Games near a potential: own slopes of price, what each could still save, and a bound on it.

A market clears to a minimizer of its potential, which is a Nash equilibrium as prosumers reckon
with one slope of price and one anticipation (model.md: Equilibrium). Here each prosumer pays

    p_i(sigma) = p0 + adder_i + d_i sigma,     d_i its own slope, EUR/kWh per kW,

and knows all of its own effect on that. Where slopes differ, d (p_i m_i) / d m_j and d (p_j m_j) /
d m_i do by d_i - d_j: no potential has both as slopes. By how much any move of one prosumer changes
its cost otherwise than the potential is the maximum pairwise difference of Candogan, Ozdaglar and
Parrilo (ACM Transactions on Economics and Computation 1(2), 2013); a minimizer of the potential is
an equilibrium but for so much. What is shared keeps its prices (model.md: Gaps): a deviating
prosumer pays them for limits, lines and voltages, and trades at the agreed prices.
"""

from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float

from .batch import clear_many
from .clearing import clear
from .devices import join
from .each import for_one
from .feasibility import implied_boxes
from .market import Generators, Grid, Market
from .model import Plan, aggregate, counted, potential, zeros
from .options import checked_options
from .record import changed
from .result import Clearing
from .runner import jnp
from .tables import has_caps, has_zones

_STILL = 1e-8  # of the highest price: what adders move by where they stand still


@for_one()
def regrets(
    market: Market, clearing: Clearing, slopes: Any, *, tol: Any = None
) -> Float[np.ndarray, " N"]:
    """What each prosumer (N) saves by its best answer to all others, at its own `slopes`, EUR.

    An answer is exact: of each prosumer one market is cleared to `tol`, in which it alone decides,
    pays what is shared at the clearing's prices, and trades at those agreed. So whoever minimizes
    costs as the market has them, slopes all `Tariff.slope` and `anticipation` 1, has none.
    Raises `ValueError` for markets with caps, commitments or zones, in three phases or about an AC
    state, for slopes below 0 or of another shape, and where an answer does not clear.
    """
    slopes = _checked("regrets", market, slopes)
    lanes = _lanes(market, clearing, slopes)
    found = clear_many(lanes, tol=tol)
    if not bool(np.all(found.ok)):
        raise ValueError(
            f"regrets: the best answer of prosumer {int(np.argmin(found.ok))} did not clear; "
            "loosen tol."
        )
    held = jax.vmap(_held, in_axes=(0, None, 0))(lanes, clearing.plan, jnp.arange(len(slopes)))
    return np.asarray(potential(lanes, held)) - np.asarray(potential(lanes, found.plan))


@for_one()
def bounds(market: Market, plan: Plan, slopes: Any) -> Float[np.ndarray, " N"]:
    """What each prosumer (N) can save at most where `plan` minimizes the market's potential, EUR.

    At its own `slopes` its cost differs from the potential by D(m) = Ts sum_h (a m + b m^2), with
    a = (d_i - d) (sigma - m_i) and b = d_i - d (1 + kappa) / 2: so it saves at most D at its
    imports less the least of D from 0 to the most that it may import. Raises `ValueError` as
    `regrets` does.
    """
    slopes = _checked("bounds", market, slopes)
    others = aggregate(market, plan) - plan.imports
    a, b = _difference(market, slopes, others)
    least = _least(a, b, implied_boxes(market)[1].imports)
    above = a * plan.imports + b * plan.imports**2 - least
    return np.asarray(jnp.sum(counted(market) * above, axis=1))


@for_one()
def distance(market: Market, slopes: Any) -> float:
    """The maximum pairwise difference of the game and its potential, EUR.

    The most by which a move of one prosumer, whatever all others import, changes its cost at its
    own `slopes` otherwise than the potential: the largest range of D of `bounds`, over imports of
    others from 0 to the most that they may be. Raises `ValueError` as `regrets` does.
    """
    slopes = _checked("distance", market, slopes)
    most = implied_boxes(market)[1].imports
    passive = jnp.sum(market.grid.passive, axis=0)
    ranges = []
    for others in (passive + 0 * most, passive + jnp.sum(most, axis=0) - most):
        a, b = _difference(market, slopes, others)
        ranges.append(-_least(-a, -b, most) - _least(a, b, most))
    largest = jnp.maximum(*ranges)  # a range is convex in a, which is linear in what others import
    return float(jnp.max(jnp.sum(counted(market) * largest, axis=1)))


class Settled(NamedTuple):
    """An equilibrium at own slopes of price.

    `market` is the one whose adders are what own slopes add there, and `clearing` its own; `rounds`
    is how many were cleared, and `still` whether the adders stood still in the end.
    """

    market: Market
    clearing: Clearing
    rounds: int
    still: bool


@for_one()
def settled(market: Market, slopes: Any, *, rounds: int = 50, tol: Any = None) -> Settled:
    """The Nash equilibrium at own `slopes`: markets with a potential, one after the other.

    What own slopes add to marginal costs at the last plan, d_i (sigma + m_i) - d (sigma + kappa
    m_i), is added to what each pays (`Prosumers.import_adder`); where that stands still, nobody
    gains by any move. Steps are halved where they do not bring that nearer; after `rounds` markets
    it ends in any case. Raises `ValueError` as `regrets` does, and `NotCleared` as `clear` does.
    """
    checked_options("settled", market, rounds=rounds)
    slopes = _checked("settled", market, slopes)
    tariff, own = market.tariff, market.prosumers.import_adder
    adder, length, before, found = own + 0 * market.prosumers.load, 1.0, np.inf, None
    here, highest = market, 1.0
    for count in range(1, rounds + 1):
        here = changed(market, prosumers=changed(market.prosumers, import_adder=adder))
        found = clear(here, tol=tol, start=found)
        sigma, bought = found.aggregate, found.plan.imports
        wanted = own + slopes * (sigma + bought)
        wanted = wanted - tariff.slope * (sigma + tariff.anticipation * bought)
        highest = float(jnp.max(jnp.abs(tariff.base + tariff.slope * sigma)))
        away = float(jnp.max(jnp.abs(wanted - adder)))
        if away <= _STILL * highest:
            return Settled(here, found, count, True)
        length, before = (length / 2 if away > before / 2 else length), away
        adder = adder + length * (wanted - adder)
    assert found is not None
    return Settled(here, found, rounds, False)


def _difference(
    market: Market, slopes: Float[Array, "N #H"], others: Float[Array, "N H"]
) -> tuple[Float[Array, "N H"], Float[Array, "N H"]]:
    """a and b of what an own import m costs more than the potential reckons, a m + b m^2."""
    tariff = market.tariff
    a = (slopes - tariff.slope) * others
    return a, slopes - tariff.slope * (1 + tariff.anticipation) / 2 + 0 * a


def _least(a: Array, b: Array, most: Array) -> Array:
    """The least of a m + b m^2 for 0 <= m <= most."""
    end = jnp.minimum(0.0, a * most + b * most**2)
    top = jnp.clip(-a / jnp.where(b > 0, 2 * b, 1.0), 0.0, most)
    return jnp.where(b > 0, jnp.minimum(end, a * top + b * top**2), end)


def _checked(caller: str, market: Market, slopes: Any) -> Float[Array, "N #H"]:
    """Own slopes as an array, of a market that is known here."""
    grid, shape = market.grid, market.prosumers.load.shape
    others = {
        "caps": has_caps(market),
        "price zones": has_zones(market),
        "commitments": market.committed is not None,
        "three phases": grid.model.phased,
        "an AC state": grid.tangent is not None,
    }
    for name, there in others.items():
        if there:
            raise ValueError(f"{caller}: the market has {name}; take one without.")
    found = np.asarray(slopes, market.prosumers.load.dtype)
    if found.ndim != 2 or found.shape[0] != shape[0] or found.shape[1] not in (1, shape[1]):
        raise ValueError(
            f"{caller}: slopes have shape {found.shape}; give one for each prosumer, ({shape[0]}, "
            f"1), or by hour, {shape}."
        )
    if not (np.isfinite(found).all() and (found >= 0).all()):
        row = int(np.argwhere(~(found >= 0) | ~np.isfinite(found))[0][0])
        raise ValueError(f"{caller}: the slope of prosumer {row} is no number of at least 0.")
    return jnp.asarray(found)


def _lanes(market: Market, clearing: Clearing, slopes: Float[Array, "N #H"]) -> Market:
    """For each prosumer a market in which it alone decides, as a batch."""
    count, hours = market.prosumers.load.shape
    reach = np.asarray(jnp.max(market.trading.limit, axis=1, initial=0.0)).sum()
    free = Generators(np.arange(count), reach, hours=hours, power_min=-reach)
    ground = changed(
        market,
        grid=Grid(np.zeros((1, hours)), model="copperplate"),
        prosumers=changed(market.prosumers, bus=jnp.zeros_like(market.prosumers.bus)),
        generators=join(market.generators, free),
    )
    return jax.vmap(_alone, in_axes=(None, None, None, None, 0))(
        ground, market, clearing, slopes, jnp.arange(count)
    )


def _alone(
    ground: Market, market: Market, clearing: Clearing, slopes: Float[Array, "N #H"], i: Array
) -> Market:
    """The market of prosumer `i`: partners sell and buy at agreed prices, others do nothing."""
    plan, prices, tariff = clearing.plan, clearing.prices, market.tariff
    units, stores, pairs = ground.generators, ground.buffers, market.trading
    at_bus = prices.bus[market.prosumers.bus[i]] if market.grid.model.networked else 0.0
    shared = prices.aggregate + prices.exchange + at_bus
    own = slopes[i] + 0 * tariff.base
    others = aggregate(market, plan) - plan.imports[i]
    fees = pairs.fee_buyer + pairs.fee_seller
    agreed = (prices.balance[pairs.buyer] + prices.balance[pairs.seller] - fees) / 2 + at_bus

    def of(owner: Array) -> Any:
        """What is prosumer i's, 0 in place of all else."""

        def kept(values: Array) -> Array:
            mine = (owner == i).reshape(-1, *(1,) * (values.ndim - 1))
            return jnp.where(mine, values, 0.0)

        return kept

    mine, made, kept = (of(a) for a in (jnp.arange(len(slopes)), units.owner, stores.owner))
    count = plan.generation.shape[0]  # beyond are what partners draw on
    partner = (jnp.arange(units.owner.shape[0]) >= count) & (units.owner != i)
    free = (jnp.arange(units.owner.shape[0]) >= count)[:, None]
    low, high = (
        jnp.where(free, jnp.where(partner[:, None], a, 0.0), made(a))
        for a in (units.power_min, units.power_max)
    )
    people, buys, sells = ground.prosumers, pairs.buyer == i, pairs.seller == i
    names = ("charge_max", "discharge_max", "energy_min", "energy_max", "energy_start", "drain")
    return changed(
        ground,
        prosumers=changed(
            people,
            **{n: mine(getattr(people, n))
               for n in ("load", "import_max", "export_max", "curtail_max")},
        ),
        generators=changed(
            units, power_min=low, power_max=high, curves=jax.tree.map(made, units.curves)
        ),
        buffers=changed(stores, **{n: kept(getattr(stores, n)) for n in names}),
        trading=changed(
            pairs,
            limit=jnp.where((buys | sells)[:, None], pairs.limit, 0.0),
            fee_buyer=jnp.where(buys[:, None], pairs.fee_buyer + agreed, 0.0),
            fee_seller=jnp.where(sells[:, None], pairs.fee_seller + agreed, 0.0),
            toll=pairs.toll / 2,  # of which the partner's half is not its own to pay
            reluctance=pairs.reluctance / 2,
            quadratic=pairs.quadratic / 2,
        ),
        tariff=changed(
            tariff,
            base=tariff.base + own * others + shared,
            slope=own,
            export=tariff.export + shared,
            total_min=jnp.full_like(own, -jnp.inf),
            total_max=jnp.full_like(own, jnp.inf),
            anticipation=jnp.ones_like(tariff.anticipation),
        ),
    )  # fmt: skip


def _held(lane: Market, plan: Plan, i: Array) -> Plan:
    """A plan's part of prosumer `i`, in its own market."""
    none = zeros(lane)
    units, stores, pairs = lane.generators, lane.buffers, lane.trading
    rest = none.generation[plan.generation.shape[0] :]
    made = jnp.concatenate([jnp.where((units.owner[: len(plan.generation)] == i)[:, None],
                                      plan.generation, 0.0), rest])  # fmt: skip
    kept, mine = (stores.owner == i)[:, None], jnp.arange(len(plan.imports))[:, None] == i
    touching = ((pairs.buyer == i) | (pairs.seller == i))[:, None]
    return changed(
        none,
        generation=made,
        trades=jnp.where(touching, plan.trades, 0.0),
        **{n: jnp.where(kept, getattr(plan, n), 0.0) for n in ("charge", "discharge", "energy")},
        **{n: jnp.where(mine, getattr(plan, n), 0.0) for n in ("imports", "exports", "curtailed")},
    )
