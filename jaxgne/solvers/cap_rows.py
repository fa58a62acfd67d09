"""What caps add to A theta A^T: rows of their sums, which see what members do, and of levels."""

import numpy as np
from jaxtyping import Array, Float

from ..market import Market
from ..model import OF_CAPS, Plan, chosen, in_zones
from ..runner import jnp, vmap
from ..succession import entered
from ..tables import device_buses, places


class CapRows:
    """What caps add to A theta A^T: rows of their sums, which see what members do, and levels."""

    def __init__(self, market: Market, plan: Plan):
        caps, tables = market.caps, chosen(plan)
        ends = np.cumsum([table.shape[0] for table in tables.values()])
        none = jnp.zeros((caps.carry.shape[0], ends[-1], plan.imports.shape[1]))
        weight = none.at[caps.cap, places(market)].add(caps.weight)
        moved = weight * jnp.concatenate(list(tables.values()))  # by cap, member and hour
        self.market = market
        parts = jnp.split(moved, ends[:-1].tolist(), axis=1)
        self.moved = dict(zip(tables, parts, strict=True))
        self.among = jnp.einsum("mrh,nrh->hmn", moved, weight)
        adds, keep = (caps.adds[:, None] > 0) * 1.0, caps.carry[:, None]
        level, rise, spare = (getattr(plan, name) for name in OF_CAPS)
        before = entered(market.before, jnp.zeros_like(caps.carry), level)
        cap = spare + adds * rise + (1 - adds) * level
        held = level + keep**2 * before + rise
        self.own = jnp.concatenate([cap + jnp.diagonal(self.among, axis1=1, axis2=2).T, held])
        self.level = level
        if market.before is not None:  # a tree's sweep adds what levels do
            level, cap, held = 0 * level, spare + adds * rise, rise
        self.tie = adds * rise - (1 - adds) * level  # of a sum and its level
        self.alone = cap, held
        self.ahead = keep * jnp.stack([(1 - adds) * level, -level])  # of both, to the next level

    @property
    def coupling(self) -> Float[Array, "H N+Z+1 2M"]:
        """With own balances, then with each zone's import and the net exchange."""
        moved, market = self.moved, self.market
        drawn, sold = moved["imports"], moved["exports"]
        own = sold - drawn + moved["load"]
        own = own.at[:, market.generators.owner].add(-moved["generation"])
        own = own.at[:, market.buffers.owner].add(moved["charge"] - moved["discharge"])
        own = own.at[:, market.trading.buyer].add(-moved["trades"])
        own = own.at[:, market.trading.seller].add(moved["trades"])
        total = vmap(lambda each: in_zones(market, each))(drawn)
        net = jnp.sum(total, axis=1) - jnp.sum(sold, axis=1)
        seen = jnp.concatenate([own, total, net[:, None]], axis=1)
        seen = jnp.transpose(seen, (2, 1, 0))
        return jnp.concatenate([seen, jnp.zeros_like(seen)], axis=2)

    def beside(self, content: Array, held: Array) -> tuple[Array, Array]:
        """The block of what reaches into other hours, and its coupling to the next."""
        stores, market, count = held.shape[1], self.market, self.tie.shape[0]
        ts, store = market.hour_length, market.buffers
        into = ts * store.charge_efficiency
        out = ts / store.discharge_efficiency
        seen = out * self.moved["discharge"] - into * self.moved["charge"]  # M K H
        hours, size = held.shape[0], stores + 2 * count
        which, cap, level = (jnp.arange(n) + at for n, at in (
            (stores, 0), (count, stores), (count, stores + count)))  # fmt: skip
        whole = jnp.zeros((hours, size, size), content.dtype)
        ahead = whole.at[:, which, which].set(held)
        ahead = ahead.at[:, cap, level].set(self.ahead[0].T)
        ahead = ahead.at[:, level, level].set(self.ahead[1].T)
        seen = jnp.transpose(seen, (2, 1, 0))
        end = slice(stores, stores + count)
        whole = whole.at[:, :stores, :stores].set(content)
        whole = whole.at[:, :stores, end].set(seen).at[:, end, :stores].set(seen.mT)
        whole = whole.at[:, end, end].set(self.among)
        whole = whole.at[:, cap, cap].add(self.alone[0].T)
        whole = whole.at[:, cap, level].add(self.tie.T).at[:, level, cap].add(self.tie.T)
        return whole.at[:, level, level].add(self.alone[1].T), ahead

    def at_buses(self) -> Float[Array, "H B M"] | None:
        """With the balances of buses."""
        market, moved = self.market, self.moved
        if not market.grid.model.networked:
            return None
        grid, (made, kept) = market.grid, device_buses(market)
        fed = jnp.ones(grid.passive.shape[0]).at[grid.feeder].set(0.0)
        seen = jnp.zeros((self.tie.shape[0], *grid.passive.shape))
        seen = seen.at[:, market.prosumers.bus].add(moved["load"])
        seen = seen.at[:, made].add(-moved["generation"])
        seen = seen.at[:, kept].add(moved["charge"] - moved["discharge"])
        return jnp.transpose(seen * fed[:, None], (2, 1, 0))
