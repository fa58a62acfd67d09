"""The linear system of Newton's method on a market, solved exactly by its structure.

With compliances theta (how far a column moves, kW per EUR/kW, when the worth of a unit of it
changes) the prices of the rows A satisfy  A theta A^T y = r.  Rows of different hours meet only in
the content of buffers, and there through diagonal blocks. So the rows of the network other than the
balances of buses are eliminated first, hour by hour; then these balances; then all other rows of
the hour; what is left is a block tridiagonal system over the hours with one row a buffer, or in a
tree of hours one of its shape, which is swept once. Each elimination is a Cholesky factorization.

On a tree without inverters reactive flows are data. Told so, the system leaves them and their rows
out, which more than halves the network's part.

O(H (N + B)^3) time and O(H (N + B)^2) memory: for small markets.
"""

from dataclasses import replace

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int

from ..incidence import ends_of, entries
from ..market import Market
from ..model import Plan, Rows, at_buses, by_owner, in_zones, limits, ratios, rows_like
from ..record import Record
from ..runner import jnp
from ..succession import entered, handed
from ..tables import device_buses, has_caps, has_zones, retained
from .blocks import Eliminated, diagonal, eliminate, factored
from .cap_rows import CapRows
from .sweeps import Branches, Path, branches, path


class Compliance(Record):
    """theta of every column; a line's active and reactive flow share a 2 x 2 block."""

    plan: Plan  # `active` and `reactive` are the diagonal of the block
    cross: Float[Array, "L H"]
    total: Float[Array, "Z H"]
    net: Float[Array, " H"]


class Worth(Record):
    """One number per row: those of the market, and the link of each zone's import to its parts."""

    rows: Rows
    total: Float[Array, "Z H"]


class _Buses(Record):
    """Balances of buses, eliminated: devices behind the same or other buses feel one another.

    In three phases prosumers' and buffers' devices are among what may be at many, not at a `home`.
    """

    inverse: Float[Array, "H B B"]
    moved: Float[Array, "H M"]  # what prosumers' and buffers' devices add to the bus per price
    home: Int[Array, " M"]  # bus of each
    spread: Float[Array, "H B M"] | None  # the same of caps, and all others that are at many

    def alone(self, at_bus: Float[Array, "H B"]) -> Float[Array, "H B"]:
        """Their prices, were no other price to change."""
        return jnp.einsum("hij,hj->hi", self.inverse, at_bus)

    def felt(self, prices: Float[Array, "H B"]) -> Float[Array, "H M"]:
        """What the right-hand sides of prosumers, buffers and caps lose."""
        felt = self.moved * prices[:, self.home]
        if self.spread is None:
            return felt
        return jnp.concatenate([felt, jnp.einsum("hbm,hb->hm", self.spread, prices)], axis=1)

    def among(self) -> Float[Array, "H M M"]:
        """What all of them feel of one another by the buses."""
        home, moved, spread = self.home, self.moved, self.spread
        felt = moved[:, :, None] * self.inverse[:, home[:, None], home] * moved[:, None]
        if spread is None:
            return felt
        solved = self.inverse @ spread
        across = moved[:, :, None] * solved[:, home]
        among = jnp.einsum("hbm,hbn->hmn", spread, solved)
        first = jnp.concatenate([felt, across], axis=2)
        return jnp.concatenate([first, jnp.concatenate([across.mT, among], axis=2)], axis=1)

    def given(self, others: Float[Array, "H M"]) -> Float[Array, "H B"]:
        """What buses' right-hand sides lose when the prices of these are known."""
        nothing = jnp.zeros(self.inverse.shape[:2], others.dtype)
        count = self.home.shape[0]
        lost = nothing.at[:, self.home].add(self.moved * others[:, :count])
        if self.spread is None:
            return lost
        prices = others[:, count : count + self.spread.shape[2]]
        return lost + jnp.einsum("hbm,hm->hb", self.spread, prices)


class Newton(Record):
    """A theta A^T, factored. Call it with right-hand sides to get the rows' prices."""

    inner: Eliminated  # rows of the network other than balances of buses
    buses: _Buses | None  # without a network: none
    outer: Eliminated  # all others of the hour
    stores: Path | Branches  # dynamics of storage, and caps
    used: Bool[Array, " R"]  # rows of the network that exist
    reactive: bool = eqx.field(static=True)

    def __call__(self, market: Market, right: Worth) -> Worth:
        """y with A theta A^T y = right; 0 for rows that do not exist or were left out."""
        count, r = market.prosumers.bus.shape[0], right.rows
        network = (stack_network(market, r, self.reactive) * self.used[:, None]).T
        split = 0 if self.buses is None else market.grid.passive.shape[0]
        hidden = self.inner.reduce(network[:, split:])
        at_bus = network[:, :split] - self.inner.felt(hidden)
        own, stored = r.balance.T, _stack_states(r).T
        if self.buses is not None:
            felt = self.buses.felt(self.buses.alone(at_bus))
            own = own - felt[:, :count]
            seen = felt[:, count:]  # levels of caps are at no bus
            stored = stored.at[:, : seen.shape[1]].subtract(seen)
        hour = jnp.concatenate([own, right.total.T, r.aggregate[:, None]], axis=1)
        mid = self.outer.reduce(hour)

        energy = self.stores(stored - self.outer.felt(mid))
        solved = self.outer.restore(mid, energy)
        balance = solved[:, :count]
        bus = at_bus
        if self.buses is not None:
            given = self.buses.given(jnp.concatenate([balance, energy], axis=1))
            bus = self.buses.alone(at_bus - given)
        others = self.inner.restore(hidden, bus)
        network = jnp.concatenate([bus, others], axis=1).T * self.used[:, None]
        found = unstack_network(market, network, self.reactive)
        states = _unstack_states(market, energy.T)
        found = replace(found, balance=balance.T, aggregate=solved[:, -1], **states)
        return Worth(found, solved[:, count:-1].T)


def _stack_states(rows: Rows) -> Float[Array, "S H"]:
    """Rows that reach into other hours, or are beside such: contents, then caps and levels."""
    if rows.cap is None:
        return rows.energy
    return jnp.concatenate([rows.energy, rows.cap, rows.level])


def _unstack_states(market: Market, stacked: Float[Array, "S H"]) -> dict[str, Array]:
    """`_stack_states` undone, by name."""
    if not has_caps(market):
        return {"energy": stacked}
    stores, caps = market.buffers.owner.shape[0], market.caps.carry.shape[0]
    energy, cap, level = jnp.split(stacked, [stores, stores + caps])
    return {"energy": energy, "cap": cap, "level": level}


def _network_rows(market: Market, reactive: bool) -> tuple[str, ...]:
    """Families of rows of the grid model, the balance of buses first."""
    if not market.grid.model.networked:
        return ()
    balances = ("bus", "bus_reactive") if reactive and market.grid.reactive_balance else ("bus",)
    return (*balances, *market.grid.model.states)


def stack_network(market: Market, rows: Rows, reactive: bool = True) -> Float[Array, "R H"]:
    """The network's rows, one family below the other."""
    families = [getattr(rows, name) for name in _network_rows(market, reactive)]
    return jnp.concatenate([rows.bus[:0], *families])


def unstack_network(market: Market, stacked: Float[Array, "R H"], reactive: bool = True) -> Rows:
    """`stack_network` undone; 0 in all other rows."""
    found, at = rows_like(market), 0
    for name in _network_rows(market, reactive):
        size = getattr(found, name).shape[0]
        found = replace(found, **{name: stacked[at : at + size]})
        at += size
    return found


def factor(market: Market, theta: Compliance, reactive: bool = True) -> Newton:
    """Factor A theta A^T of a market, whose numbers are in float64.

    Without `reactive` the rows of reactive balances, and reactive flows, are left out.
    """
    grid, stores, ts = market.grid, market.buffers, market.hour_length
    count, hours = market.prosumers.bus.shape[0], theta.net.shape[0]
    plan = theta.plan
    devices = by_owner(market, plan.generation, market.generators.owner) + plan.curtailed
    devices += by_owner(market, plan.charge + plan.discharge, stores.owner)
    # storage: a charge enters its owner's balance by 1 and the content by -ts eta
    into, out = ts * stores.charge_efficiency, ts / stores.discharge_efficiency
    shared = -(into * plan.charge + out * plan.discharge)

    block = _hour_block(market, theta, devices)
    size = diagonal(block)
    which, keep = jnp.arange(stores.owner.shape[0]), retained(market)
    coupling = jnp.zeros((*block.shape[:2], which.shape[0]), block.dtype)
    coupling = coupling.at[:, stores.owner, which].set(shared.T)
    before = entered(market.before, jnp.zeros_like(plan.energy[:, 0]), plan.energy)
    moving = into**2 * plan.charge + out**2 * plan.discharge
    own = plan.energy + keep**2 * before + moving
    content = jnp.zeros((hours, which.shape[0], which.shape[0]), block.dtype)
    content = content.at[:, which, which].add((own if market.before is None else moving).T)

    held, capped, ends = -(handed(None, keep) * plan.energy).T, None, plan.energy
    if has_caps(market):
        block_of = CapRows(market, plan)
        coupling = jnp.concatenate([coupling, block_of.coupling], axis=2)
        content, held = block_of.beside(content, held)
        own, capped = jnp.concatenate([own, block_of.own]), block_of.at_buses()
        ends = jnp.concatenate([ends, block_of.level])

    whole, used = network_block(market, theta, reactive)
    split = grid.passive.shape[0] if grid.model.networked else 0
    others = whole[:, split:, split:]
    inner = eliminate(others, whole[:, split:, :split], diagonal(others))
    buses = None
    if split:
        home = jnp.concatenate([market.prosumers.bus, market.prosumers.bus[stores.owner]])
        moved = jnp.concatenate([devices, shared]) * used[home][:, None]
        each = (plan.curtailed, plan.generation, plan.charge + plan.discharge)
        at_bus = at_buses(market, jnp.zeros((split, hours)), moved[:count], *each)
        if grid.model.phased:
            at_bus, home, moved = at_bus * used[:split, None], home[:0], moved[:0]
            apart = _spread(market, plan, shared) * used[:split, None]
            capped = apart if capped is None else jnp.concatenate([apart, capped], axis=2)
        bus = whole[:, :split, :split] - inner.coupling.mT @ inner.coupling
        bus = bus.at[:, jnp.arange(split), jnp.arange(split)].add(at_bus.T)
        root = factored(bus, diagonal(whole)[:, :split] + at_bus.T)
        buses = _Buses(root.mT @ root, moved.T, home, capped)
        felt = buses.among()
        block = block.at[:, :count, :count].add(-felt[:, :count, :count])
        seen = felt.shape[1] - count  # levels of caps are at no bus
        coupling = coupling.at[:, :count, :seen].add(-felt[:, :count, count:])
        content = content.at[:, :seen, :seen].add(-felt[:, count:, count:])
    outer = eliminate(block, coupling, size)
    content = content - outer.coupling.mT @ outer.coupling
    if market.before is None:
        stores = path(content, held, own)
    else:
        stores = branches(market, content, ends, own)
    return Newton(inner, buses, outer, stores, used, reactive)


def _spread(market: Market, plan: Plan, shared: Float[Array, "K H"]) -> Float[Array, "H B M"]:
    """What columns of prosumers' balances and of buffers' contents add to those of buses."""
    (made, kept), units, stores = device_buses(market), market.generators, market.buffers
    count, many = plan.imports.shape[0], shared.shape[0]
    each, every = jnp.arange(count), count + jnp.arange(many)
    none = jnp.zeros((count + many, *market.grid.passive.shape))
    found = none.at[each, market.prosumers.bus].add(plan.curtailed)
    found = found.at[units.owner, made].add(plan.generation)
    found = found.at[stores.owner, kept].add(plan.charge + plan.discharge)
    return jnp.transpose(found.at[every, kept].add(shared), (2, 1, 0))


def _hour_block(
    market: Market, theta: Compliance, devices: Float[Array, "N H"]
) -> Float[Array, "H N+Z+1 N+Z+1"]:
    """A theta A^T of own balances, then of each zone's import and the net exchange, by hour."""
    plan, (count, hours), zones = theta.plan, devices.shape, theta.total.shape[0]
    everyone, last, final = jnp.arange(count), count + jnp.arange(zones), jnp.array([count + zones])
    total = count + market.prosumers.zone if has_zones(market) else jnp.broadcast_to(last, count)
    net, every = jnp.broadcast_to(final, count), jnp.broadcast_to(final, zones)
    buyer, seller = market.trading.buyer, market.trading.seller
    drawn, sold = in_zones(market, plan.imports), jnp.sum(plan.exports, axis=0)
    both = plan.imports + plan.exports
    entries = [  # rows, columns, and what is added there
        (everyone, everyone, devices + both),
        (everyone, total, -plan.imports),
        (total, everyone, -plan.imports),
        (everyone, net, -both),
        (net, everyone, -both),
        (buyer, buyer, plan.trades),
        (seller, seller, plan.trades),
        (buyer, seller, -plan.trades),
        (seller, buyer, -plan.trades),
        (last, last, drawn + theta.total),
        (final, final, (jnp.sum(drawn, axis=0) + sold + theta.net)[None]),
        (last, every, drawn),
        (every, last, drawn),
    ]
    row, column, values = (jnp.concatenate(each) for each in zip(*entries, strict=True))
    size = count + zones + 1
    block = jnp.zeros((hours, size, size), values.dtype)
    return block.at[:, row, column].add(values.T)


def network_block(
    market: Market, theta: Compliance, reactive: bool = True
) -> tuple[Float[Array, "H R R"], Bool[Array, " R"]]:
    """A theta A^T of the network's rows and columns alone, and which of its rows exist."""
    grid, plan = market.grid, theta.plan
    names, like = _network_rows(market, reactive), rows_like(market)
    low, high = (stack_network(market, side, reactive)[:, 0] for side in limits(market))
    used, hours, size = low == high, theta.net.shape[0], low.shape[0]
    block = jnp.zeros((hours, size, size), plan.active.dtype)
    if not grid.model.networked:
        return block, used
    fed = jnp.zeros(grid.passive.shape[0], bool).at[grid.feeder].set(True)
    used = used.at[: fed.shape[0]].set(~fed)
    starts, at = {}, 0
    for name in names:
        starts[name], at = at, at + getattr(like, name).shape[0]
    # per line: rows it enters, with which coefficient its active and its reactive flow does
    found, lines = entries(grid), grid.source.shape[0]
    enters = [(found.bus, found.real, -found.imaginary)]
    if "bus_reactive" in starts:
        enters += [(starts["bus_reactive"] + found.bus, found.imaginary, found.real)]
    enters += [
        (starts[state] + found.row, -found.active[state], -found.reactive[state])
        for state in found.active
    ]
    index, real, imaginary = (jnp.concatenate(each).T for each in zip(*enters, strict=True))

    def outer(a: Array, b: Array) -> Array:
        return a[:, :, None] * b[:, None, :]

    local = jnp.einsum("lh,lij->hlij", plan.active, outer(real, real))
    local += jnp.einsum("lh,lij->hlij", plan.reactive, outer(imaginary, imaginary))
    both = outer(real, imaginary) + outer(imaginary, real)
    local += jnp.einsum("lh,lij->hlij", theta.cross, both)
    block = block.at[:, index[:, :, None], index[:, None, :]].add(local)
    if "bus_reactive" in starts:
        at = starts["bus_reactive"] + jnp.arange(fed.shape[0])
        block = block.at[:, at, at].add(plan.compensation.T)
    for state, ratio in ratios(grid).items():
        ends = ends_of(grid, ratio)
        at = slice(starts[state], starts[state] + lines)
        spread = jnp.einsum("lb,bh,kb->hlk", ends, getattr(plan, state), ends)
        block = block.at[:, at, at].add(spread)
    return jnp.where(used[:, None] & used[None, :], block, 0.0), used
