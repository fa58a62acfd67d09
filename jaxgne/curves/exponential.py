"""Consumption whose worth falls exponentially: it falls with the logarithm of its price."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ..fields import amount
from ..runner import jnp
from .base import AbstractCurve, Cones


class Exponential(AbstractCurve):
    """What consumers lose to whom each kW makes the next kWh worth the same share less.

    Of c kW the next kWh is worth price exp(-c / power), the first one `price`; each further `power`
    makes it worth e times less. So at a price p, power log(price / p) is used.
    """

    price: Float[Array, "*G"] = amount("EUR/kWh", "worth of the first kWh", "[0, inf)")
    power: Float[Array, "*G"] = amount("kW", "that makes it worth e times less", "[0, inf)")

    def __init__(self, price: Any, power: Any):
        self.price, self.power = (jnp.asarray(a) for a in (price, power))

    def cost(self, power: Float[Array, "*G H"]) -> Float[Array, "*G H"]:
        price, unit = self._numbers()
        return price * unit * jnp.expm1(power / unit)

    def slope(self, power: Float[Array, "*G H"]) -> Float[Array, "*G H"]:
        price, unit = self._numbers()
        return price * jnp.exp(power / unit)

    def curvature(self, power: Float[Array, "*G H"]) -> Float[Array, "*G H"]:
        price, unit = self._numbers()
        return price / unit * jnp.exp(power / unit)

    def cones(self) -> Cones:
        """exp(power / unit) <= 1 + cost / (price unit), where both are not 0."""
        price, unit = (np.asarray(a, float) for a in (self.price, self.power))
        given = price != 0
        size, unit = np.where(given, price * unit, 1.0), np.where(given, unit, 1.0)
        terms = np.zeros((*price.shape, 3, 3))
        terms[:, 0, 0] = 1 / unit
        terms[:, 1, 2] = terms[:, 2, 2] = 1.0
        terms[:, 2, 1] = 1 / size
        return Cones(given, np.full(price.shape, np.nan), terms)

    def _numbers(self) -> tuple[Array, Array]:
        given = (self.price != 0) | (self.power != 0)
        return self.price[..., None], jnp.where(given, self.power, 1.0)[..., None]
