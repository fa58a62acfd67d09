"""Consumption of constant elasticity."""

from typing import Any

from jaxtyping import Array, Float

from ..fields import amount
from ..runner import jnp
from .base import AbstractCurve

_FLAT = 1e-6  # exponent of a worth that is told from none by its logarithm


class Isoelastic(AbstractCurve):
    """What consumers lose whose use falls by `elasticity` percent where its price rises by one.

    Of c kW the next kWh is worth price (c / power)^(-1 / elasticity): at this `price` this `power`
    is used. What has been used for an hour is worth a power of c, with elasticity 1 a logarithm,
    here counted from that at `power`. The first kWh is worth more than any number, so bounds keep
    some consumption up.
    """

    price: Float[Array, "*G"] = amount("EUR/kWh", "price at which the power is used", "[0, inf)")
    power: Float[Array, "*G"] = amount("kW", "consumption at that price", "[0, inf)")
    elasticity: Float[Array, "*G"] = amount("", "percent less for a percent dearer", "[0, inf)")

    def __init__(self, price: Any, power: Any, elasticity: Any):
        self.price, self.power, self.elasticity = (
            jnp.asarray(a) for a in (price, power, elasticity)
        )

    def cost(self, power: Float[Array, "*G H"]) -> Float[Array, "*G H"]:
        used, steep, price, unit = self._shares(power)
        exponent = 1 - steep
        flat = jnp.abs(exponent) < _FLAT
        worth = jnp.log(used)
        bent = jnp.expm1(exponent * worth) / jnp.where(flat, 1.0, exponent)
        return -price * unit * jnp.where(flat, worth * (1 + exponent * worth / 2), bent)

    def slope(self, power: Float[Array, "*G H"]) -> Float[Array, "*G H"]:
        used, steep, price, _ = self._shares(power)
        return price * used**-steep

    def curvature(self, power: Float[Array, "*G H"]) -> Float[Array, "*G H"]:
        used, steep, price, unit = self._shares(power)
        return price * steep / unit * used ** (-steep - 1)

    def _shares(self, power: Array) -> tuple[Array, Array, Array, Array]:
        """Consumption as a share of `power`, 1 / elasticity, price and power; of none 1."""
        price = self.price[..., None]
        given = (price != 0) | (self.power != 0)[..., None] | (self.elasticity != 0)[..., None]
        unit = jnp.where(given, self.power[..., None], 1.0)
        steep = 1 / jnp.where(given, self.elasticity[..., None], 1.0)
        return jnp.where(given, -power / unit, 1.0), steep, price, unit
