"""Where an interior point method starts: a plan and prices, moved inside of all bounds.

All products start alike, at mu. A start that is near an answer keeps its plan, mu as small as it is
near; of one that is far only the prices are used, each column near the bound that these push it to.
"""

from dataclasses import replace

import jax
from jaxtyping import Array, Bool, Float

from ..feasibility import existing
from ..market import Market
from ..model import Plan, Rows, limits, rows
from ..optimality import pin
from ..record import Record
from ..runner import jnp
from ..scales import Scales, Shares, much
from .columns import Sets, reactive_flows
from .linearized import State

_START = (
    3.0  # products that it starts from, in the market's price times power: those of much of both
)
_MISSED, _FAR = (
    0.1,
    0.5,
)  # violation of a row, and any error, from which on a plan would be in the way
_NEAR = (
    0.03  # products to start from per relative error: so many steps as are left have room to turn
)
_MOST = 0.1  # and at most: a plan that is kept is nearer than a start by prices
_LEAST = 1e-12  # and at least: also the answer itself has to stand inside its bounds
_AWAY = (
    10.0  # how far from bounds columns in balance are kept, times where their own stiffness has mu
)
_FULL = (
    1 - 1e-9
)  # share of a rating that given reactive flows may take: the disc of the rest is open


class Guess(Record):
    """A plan as columns and flows, and what its prices push them to."""

    columns: Float[Array, "C H"]
    flows: Float[Array, "2 L H"]  # without what is given of them
    slope: Float[Array, "C H"]
    drift: Float[Array, "2 L H"]
    square: Float[Array, "L H"]  # of the disc of what is not given; 1 where a line is shut
    stiff: Float[Array, "C H"]  # what is much of a slope over what is much of a column
    bulk: Float[Array, " H"]  # the same of flows


def gauged(market: Market, prices: Rows) -> Rows:
    """Prices of rows that exist, those that nothing fixes at 0."""
    prices = existing(market, pin(market, prices))
    if not market.grid.model.networked:
        return prices
    # a feeder's exchange is free, so its row has no price; no step would change one
    return replace(prices, bus=prices.bus.at[market.grid.feeder].set(0.0))


def with_given_flows(market: Market, plan: Plan, prices: Rows) -> tuple[Plan, Rows]:
    """The plan with the reactive flows that loads make, which need no price."""
    most = _FULL * market.grid.radius
    plan = replace(plan, reactive=jnp.clip(reactive_flows(market), -most, most))
    return plan, replace(prices, bus_reactive=jnp.zeros_like(prices.bus_reactive))


def missed(market: Market, plan: Plan, scale: Scales, share: Shares) -> Float[Array, ""]:
    """Largest relative violation of a row; rows that only the exchange closes do not count."""
    value, (low, high) = rows(market, plan), limits(market)
    value = replace(
        value, bus=value.bus.at[market.grid.feeder].set(0.0), exchange=0 * value.exchange
    )
    outside = jax.tree.map(lambda a, lo, up: jnp.maximum(a - up, lo - a), value, low, high)
    each = jax.tree.map(jnp.divide, outside, much(market, scale, share)[1])
    return jnp.max(jnp.stack([jnp.max(a, initial=0.0) for a in jax.tree.leaves(each)]))


def judged(
    sets: Sets, guess: Guess, missed: Float[Array, ""], scale: Scales
) -> tuple[Bool[Array, ""], Float[Array, ""]]:
    """Whether a guess is too far from an answer to be kept, and mu, in the market's price times

    power: by rows, and by how far a step along slopes goes, relative to the market's scales.
    """
    stiff, bulk = guess.stiff, guess.bulk
    shift = guess.columns - jnp.clip(guess.columns - guess.slope / stiff, sets.lower, sets.upper)
    wanted = guess.flows - guess.drift / bulk
    reach = jnp.sqrt(guess.square / jnp.maximum(jnp.sum(wanted**2, axis=0), guess.square))
    turn = jnp.where(sets.open, guess.flows - wanted * reach, 0.0) / scale.total
    unpriced = jnp.max(jnp.abs(shift) * stiff / sets.unit)
    error = jnp.maximum(jnp.maximum(missed, unpriced), jnp.max(jnp.abs(turn), initial=0.0))
    far = (missed > _MISSED) | (error > _FAR)
    return far, jnp.where(far, _START, jnp.clip(_NEAR * error, _LEAST, _MOST))


def rooms(
    sets: Sets, guess: Guess, mu: Float[Array, " H"], far: Bool[Array, ""]
) -> tuple[Float[Array, "C H"], Float[Array, "C H"]]:
    """Each column's room above its lower bound, and in all.

    By prices alone it is the root of mu / room - mu / (width - room) = slope.
    """
    slope, stiff = guess.slope, guess.stiff
    width = jnp.where(sets.free, sets.upper - sets.lower, 1.0)
    push = jnp.abs(slope) * width
    near = mu * width / (mu + push / 2 + jnp.sqrt(mu**2 + push**2 / 4))  # to the bound pushed to
    least = mu / jnp.maximum(jnp.abs(slope), _AWAY * jnp.sqrt(mu * stiff))
    least = jnp.minimum(least, width / 4)
    kept = jnp.clip(guess.columns - sets.lower, least, width - least)
    return jnp.where(far, jnp.where(slope > 0, near, width - near), kept), width


def shrunk(
    sets: Sets, guess: Guess, mu: Float[Array, " H"], far: Bool[Array, ""]
) -> Float[Array, "2 L H"]:
    """Flows inside of their discs; none where the guess is far."""
    bulk, square = guess.bulk, guess.square
    pull = jnp.sqrt(jnp.sum(guess.drift**2, axis=0) / (4 * square))  # m, if the disc holds the flow
    least = mu / jnp.maximum(pull, _AWAY * jnp.sqrt(mu * bulk / square))
    within = jnp.maximum(square - least, square / 2)
    load = jnp.sum(guess.flows**2, axis=0)
    flows = guess.flows * jnp.sqrt(within / jnp.maximum(load, within))
    return jnp.where(far | ~sets.open, 0.0, flows)


def central(
    sets: Sets,
    room: tuple[Float[Array, "C H"], Float[Array, "C H"]],
    flows: Float[Array, "2 L H"],
    disc: Float[Array, "L H"],
    mu: Float[Array, " H"],
    prices: tuple[Rows, Float[Array, "Z H"]],
) -> State:
    """The state there, with multipliers that make all products mu."""
    below, above = room[0], room[1] - room[0]

    def multiplier(room: Array, free: Array) -> Array:
        return jnp.where(free, mu / jnp.where(free, room, 1.0), 0.0)

    return State(
        columns=jnp.where(sets.free, sets.lower + below, sets.lower),
        below=jnp.where(sets.free, below, 1.0),
        above=jnp.where(sets.free, above, 1.0),
        flows=flows,
        disc=disc,
        low=multiplier(below, sets.free),
        high=multiplier(above, sets.free),
        tight=multiplier(disc, sets.open),
        prices=prices[0],
        price=prices[1],
    )
