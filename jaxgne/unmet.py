"""What a plan leaves unfulfilled of what a market asks: contracts, contents, the total, caps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from .each import for_each
from .fields import naming
from .market import Market
from .model import Plan, counted, net_exchange
from .names import Owners, owners
from .record import Record
from .runner import jnp

_FINE = 1e-6  # kWh, or units of a cap, up to which a limit counts as kept
_TOLD = 3  # rows of each kind that are named


class Unmet(Record):
    """By how much a plan misses what a market asks, 0 where it does not; prints in words.

    Voltages and lines are not among it: `certificate.ac` and `frames.hot_spots` tell these.
    """

    imports: Float[Array, " N"]  # kWh bought beyond `Prosumers.import_max`
    exports: Float[Array, " N"]  # kWh sold beyond `Prosumers.export_max`
    missing: Float[Array, " K"]  # kWh by which the content is below its least, at worst
    overfull: Float[Array, " K"]  # kWh by which it is above its most, at worst
    total: Float[Array, ""]  # kWh through the transformer beyond `Tariff.total_min`, `total_max`
    levels: Float[Array, " M"]  # by which levels of caps are out of their bounds, at worst
    owners: Owners
    names: tuple[str, ...] = naming("name of each cap")
    units: tuple[str, ...] = naming("unit of each cap's level")

    @property
    def fulfilled(self) -> bool:
        """Whether nothing is missed by more than 1e-6 kWh. Of one plan."""
        return all(np.all(np.asarray(a) <= _FINE) for a in self._amounts())

    def energies(self) -> tuple[Array, ...]:
        """What is counted in kWh, without what is above the most."""
        return self.imports, self.exports, self.missing, self.total

    def _amounts(self) -> tuple[Array, ...]:
        return self.imports, self.exports, self.missing, self.overfull, self.total, self.levels

    def __str__(self) -> str:
        if isinstance(self.total, Tracer) or np.ndim(self.total):
            return f"Unmet of a batch of shape {np.shape(self.total)}"
        person, buffer = self.owners.prosumer, partial(self.owners.device, "buffer")
        said = [
            *_worst(self.imports, person, "buys {:.3g} kWh more than import_max allows"),
            *_worst(self.exports, person, "feeds in {:.3g} kWh more than export_max allows"),
            *_worst(self.missing, buffer, "lacks {:.3g} kWh that are due in it"),
            *_worst(self.overfull, buffer, "holds {:.3g} kWh more than it may"),
        ]
        if float(self.total) > _FINE:
            said.append(f"{float(self.total):.3g} kWh pass the transformer beyond its limits")
        for row in np.flatnonzero(np.asarray(self.levels) > _FINE)[:_TOLD]:
            amount = f"{float(self.levels[row]):.3g} {self.units[row]}".strip()
            said.append(f"{self.names[row]!r} is out of its bounds by {amount}")
        return "\n".join(said) or "all contracts, contents and limits are kept"


def _worst(amounts: Array, called: Callable[[Any], str], words: str) -> list[str]:
    """The rows of the largest amounts in words, and how many more there are."""
    found = np.asarray(amounts)
    rows = np.argsort(-found, kind="stable")[: int(np.sum(found > _FINE))]
    said = [f"{called(row)} {words.format(found[row])}" for row in rows[:_TOLD]]
    if len(rows) > _TOLD:
        rest = found[rows[_TOLD:]].sum()
        said[-1] += f"; and so do {len(rows) - _TOLD} more, {rest:.3g} kWh in all"
    return said


@for_each
def unmet(market: Market, plan: Plan) -> Unmet:
    """What a plan leaves unfulfilled, in kWh of all steps by `Market.weight`, contents at worst.

    Of a plan that cleared it is 0 to its tolerance. Of a batch by scenario.
    """
    people, stores, tariff, ts = market.prosumers, market.buffers, market.tariff, counted(market)

    def beyond(value: Array, most: Array) -> Array:
        return jnp.maximum(value - most, 0.0)

    def worst(table: Array) -> Array:
        return jnp.max(table, axis=1, initial=0.0)

    s, caps = net_exchange(market, plan), market.caps
    levels = jnp.zeros_like(caps.start)
    if plan.level is not None and plan.rise is not None:
        levels = worst(
            jnp.maximum(
                jnp.maximum(beyond(plan.level, caps.level_max), beyond(caps.level_min, plan.level)),
                jnp.maximum(beyond(plan.rise, caps.rise_max), beyond(caps.rise_min, plan.rise)),
            )
        )
    return Unmet(
        imports=jnp.sum(ts * beyond(plan.imports, people.import_max), axis=1),
        exports=jnp.sum(ts * beyond(plan.exports, people.export_max), axis=1),
        missing=worst(beyond(stores.energy_min, plan.energy)),
        overfull=worst(beyond(plan.energy, stores.energy_max)),
        total=jnp.sum(ts * (beyond(s, tariff.total_max) + beyond(tariff.total_min, s))),
        levels=levels,
        owners=owners(market),
        names=caps.names,
        units=caps.units,
    )
