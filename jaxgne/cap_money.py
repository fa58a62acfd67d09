"""Who pays whom for caps (model.md: Caps, Money): members the owner, the owner for its rise."""

from dataclasses import replace

from jaxtyping import Array, Bool, Float

from .market import Market
from .model import Plan, Rows, asked_by_caps, burdens, by_owner, by_side, members
from .record import Record
from .runner import jnp


class CapMoney(Record):
    """What is paid for caps, EUR by hour: the parts of `Bills` that they make, carbon by itself."""

    paid: Float[Array, "N H"]
    carbon: Float[Array, "N H"]
    charges: Float[Array, "N H"]
    passive: Float[Array, " H"]
    passive_carbon: Float[Array, " H"]
    levies: Float[Array, " H"]
    receipts: Float[Array, " H"]
    rent: Float[Array, " H"]


def cap_money(market: Market, plan: Plan, prices: Rows) -> CapMoney:
    """Who pays whom for caps: members and passive consumers the owner, the owner for its rise."""
    none = jnp.zeros_like(market.prosumers.load)
    if prices.cap is None or plan.rise is None or plan.level is None or plan.spare is None:
        return CapMoney(none, none, none, *[jnp.sum(none, axis=0)] * 5)
    caps, nobody, of_carbon = market.caps, market.caps.owner[:, None] < 0, counts_carbon(market)
    paid = shares_of_caps(market, plan, prices)
    carbon = shares_of_caps(market, plan, prices_of(prices, of_carbon))
    price = market.weight * prices.cap
    base = price * caps.base
    received = price * (members(market, plan) + burdens(market)) + base
    rises = market.weight * caps.price[:, None] * plan.rise

    def owned(values: Array) -> Array:
        kept = jnp.where(nobody, 0.0, values)
        return none.at[jnp.maximum(caps.owner, 0)].add(kept)

    def left(values: Array) -> Array:
        return jnp.sum(jnp.where(nobody, values, 0.0), axis=0)

    summed = jnp.where(caps.adds[:, None] > 0, plan.rise, plan.level) - plan.spare
    return CapMoney(
        paid=paid - carbon - owned(received),
        carbon=carbon,
        charges=owned(rises),
        passive=jnp.sum(jnp.where(of_carbon, 0.0, base), axis=0),
        passive_carbon=jnp.sum(jnp.where(of_carbon, base, 0.0), axis=0),
        levies=jnp.sum(rises, axis=0),
        receipts=left(received - rises),
        rent=left(price * summed - rises),
    )


def counts_carbon(market: Market) -> Bool[Array, "M 1"]:
    """Which caps count carbon."""
    return market.caps.carbon[:, None] > 0


def prices_of(prices: Rows, some: Bool[Array, "M 1"]) -> Rows:
    """Prices without those of other caps than some."""
    assert prices.cap is not None
    return replace(prices, cap=jnp.where(some, prices.cap, 0.0))


def shares_of_caps(market: Market, plan: Plan, prices: Rows) -> Float[Array, "N H"]:
    """What each prosumer's part in the sums of caps comes to at their prices, EUR by hour."""
    if prices.cap is None:
        return jnp.zeros_like(market.prosumers.load)
    asked = asked_by_caps(market, market.weight * prices.cap)
    people, units, stores = market.prosumers, market.generators, market.buffers
    moved = asked["charge"] * plan.charge + asked["discharge"] * plan.discharge
    return (
        asked["imports"] * plan.imports
        + asked["exports"] * plan.exports
        + asked["load"] * (people.load + plan.curtailed)
        + asked["reactive"] * people.reactive
        + by_owner(market, asked["generation"] * plan.generation, units.owner)
        + by_owner(market, moved, stores.owner)
        + by_side(market, asked["trades"] * plan.trades / 2)
    )
