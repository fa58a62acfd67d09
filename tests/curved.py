"""Markets with costs that are curves, and a class of curves of one's own."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import jaxgne as jg
from jaxgne.curves import AbstractCurve, Cones, Exponential, Isoelastic
from jaxgne.devices import elastic, join


def with_curves(market: jg.Market, seed: int) -> jg.Market:
    """The market with four more devices, whose use is worth a power, a logarithm or an exponent."""
    rng = np.random.default_rng([seed, 2])
    people, hours = market.prosumers.load.shape
    owners, price = rng.integers(people, size=3), rng.uniform(0.1, 0.6, 3)
    power = rng.uniform(0.5, 3, (3, 1))
    iso = elastic(
        owners, power=power, least=power * rng.uniform(0.02, 0.5, (3, 1)), hours=hours,
        utility=Isoelastic(price, rng.uniform(0.3, 3, 3), [rng.uniform(0.2, 3), 1.0, 0.7]),
    )  # fmt: skip
    fall = elastic(
        owners[0], power=2.0, hours=hours, utility=Exponential(price[0] * 2, rng.uniform(0.5, 2))
    )
    devices = join(market.generators, iso, fall)
    return eqx.tree_at(lambda m: m.generators, market, devices)


class Shifted(AbstractCurve):
    """Of c kW the next kWh is worth price / (1 + c): a user's own class, written for JAX."""

    price: Any

    def cost(self, power: Any) -> Any:
        return -self.price[..., None] * jnp.log1p(-power)

    def slope(self, power: Any) -> Any:
        return self.price[..., None] / (1 - power)

    def curvature(self, power: Any) -> Any:
        return self.price[..., None] / (1 - power) ** 2

    def cones(self) -> Cones:
        """exp(-cost / price) <= 1 - power."""
        price = np.asarray(self.price)
        given = price != 0
        terms = np.zeros((*price.shape, 3, 3))
        terms[:, 0, 1] = -1 / np.where(given, price, 1.0)
        terms[:, 1, 2] = terms[:, 2, 2] = 1.0
        terms[:, 2, 0] = -1.0
        return Cones(given, np.full(price.shape, np.nan), terms)
