"""Consumption of constant elasticity."""

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from ..fields import amount
from ..runner import jnp
from .base import AbstractCurve, Cones

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

    def cones(self) -> Cones:
        """Of the share x = -power / unit that is used and w = -cost / (price unit), its worth.

        With k = 1 - 1 / elasticity, x^k >= 1 + k w for positive k, x^k <= 1 + k w for negative
        ones, and exp(w) <= x where k is 0: a power cone of x, 1 and 1 + k w in two orders, and the
        exponential cone. Where k is small, 1 + k w has the fewer digits of w: solvers find 1e-4 kW.
        """
        price, unit, elasticity = (
            np.asarray(a, float) for a in (self.price, self.power, self.elasticity)
        )
        given = price != 0
        unit = np.where(given, unit, 1.0)
        k = 1 - 1 / np.where(given, elasticity, 1.0)
        k = np.where(np.abs(k) < _FLAT, 0.0, k)
        zero, one = np.zeros_like(k), np.ones_like(k)
        used = np.stack([-1 / unit, zero, zero], axis=-1)
        full = np.stack([zero, zero, one], axis=-1)
        worth = np.stack([zero, -1 / np.where(given, price * unit, 1.0), zero], axis=-1)
        bent = k[:, None] * worth + full
        kinds = [
            (k > 0, k, (used, full, bent)),
            (k < 0, 1 / (1 - np.minimum(k, 0)), (bent, used, full)),
            (k == 0, np.full_like(k, np.nan), (worth, full, used)),
        ]
        which = [kind for kind, _, _ in kinds]
        share = np.select(which, [share for _, share, _ in kinds])
        rows = [np.stack(terms, axis=1) for _, _, terms in kinds]
        return Cones(given, share, np.select([kind[:, None, None] for kind in which], rows))

    def _shares(self, power: Array) -> tuple[Array, Array, Array, Array]:
        """Consumption as a share of `power`, 1 / elasticity, price and power; of none 1."""
        price = self.price[..., None]
        given = (price != 0) | (self.power != 0)[..., None] | (self.elasticity != 0)[..., None]
        unit = jnp.where(given, self.power[..., None], 1.0)
        steep = 1 / jnp.where(given, self.elasticity[..., None], 1.0)
        return jnp.where(given, -power / unit, 1.0), steep, price, unit
