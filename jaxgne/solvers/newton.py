"""The linear system of Newton's method on a market, solved exactly by its structure.

With compliances theta (how far a column moves, kW per EUR/kW, when the worth of a unit of it
changes) the prices of the rows A satisfy  A theta A^T y = r.  Rows of different hours meet only in
the content of buffers, and there through diagonal blocks. So the rows of the network other than the
balances of buses are eliminated first, hour by hour; then all other rows of the hour; what is left
is a block tridiagonal system over the hours with one row a buffer, which is swept once. Each
elimination is a Cholesky factorization.

O(H (N + B)^3) time and O(H (N + B)^2) memory: for small markets.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from threading import Lock
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jax.lax import platform_dependent
from jax.lax.linalg import cholesky, triangular_solve
from jaxtyping import Array, Bool, Float

from ..market import Market
from ..model import Plan, Rows, drop_factor, limits, rows_like

_SMALL = 128  # rows an hour: prosumers, buses and buffers
_ROUNDING = 1e-13  # share of its diagonal that is added to a block: keeps it positive definite


def is_small(market: Market) -> bool:
    """Whether factoring a market's rows is faster than many cheap steps; for a batch, of each."""
    buses = 0 if market.grid.model == "copperplate" else market.grid.passive.shape[-2]
    return market.prosumers.bus.shape[-1] + buses + market.buffers.owner.shape[-1] <= _SMALL


class Compliance(eqx.Module):
    """theta of every column; a line's active and reactive flow share a 2 x 2 block."""

    plan: Plan  # `active` and `reactive` are the diagonal of the block
    cross: Float[Array, "L H"]
    total: Float[Array, " H"]
    net: Float[Array, " H"]


class Worth(eqx.Module):
    """One number per row: those of the market, and the link of the total import to its parts."""

    rows: Rows
    total: Float[Array, " H"]


class _Eliminated(eqx.Module):
    """Rows that were eliminated: L^-1 of their Cholesky factor, and that times their coupling."""

    inverse: Float[Array, "... n n"]
    coupling: Float[Array, "... n m"]

    def reduce(self, r: Float[Array, "... n"]) -> Float[Array, "... n"]:
        """L^-1 r."""
        return jnp.einsum("...ij,...j->...i", self.inverse, r)

    def felt(self, reduced: Float[Array, "... n"]) -> Float[Array, "... m"]:
        """What the others' right-hand side loses."""
        return jnp.einsum("...nm,...n->...m", self.coupling, reduced)

    def restore(
        self, reduced: Float[Array, "... n"], others: Float[Array, "... m"]
    ) -> Float[Array, "... n"]:
        """The rows' solution, given that of the others."""
        rest = reduced - jnp.einsum("...nm,...m->...n", self.coupling, others)
        return jnp.einsum("...ji,...j->...i", self.inverse, rest)


class _OneThread:
    """How many are inside `one_thread`, and what the last of them to leave restores."""

    def __init__(self):
        self.lock, self.inside = Lock(), 0
        self.limits: Any = None


_ONE = _OneThread()


@contextmanager
def one_thread() -> Iterator[None]:
    """While it lasts, LAPACK runs on one thread in this process; threads may overlap in it.

    For systems as small as these, threads wait for one another longer than they compute: clears
    took 2 to 13 times as long on a busy machine with two.
    """
    import scipy.linalg  # noqa: F401  the library that JAX calls, loaded to be limited
    from threadpoolctl import threadpool_limits

    with _ONE.lock:
        if _ONE.inside == 0:
            _ONE.limits = threadpool_limits(1, "blas")
        _ONE.inside += 1
    try:
        yield
    finally:
        with _ONE.lock:
            _ONE.inside -= 1
            if _ONE.inside == 0:
                _ONE.limits.restore_original_limits()


def _inverse_factors(blocks: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
    """L^-1 of each block's Cholesky factor L."""
    factor = cholesky(blocks, symmetrize_input=False)
    unit = jnp.broadcast_to(jnp.eye(blocks.shape[-1], dtype=blocks.dtype), blocks.shape)
    return triangular_solve(factor, unit, left_side=True, lower=True)


def _one_by_one(blocks: Float[Array, "... n n"]) -> Float[Array, "... n n"]:
    """The same, never two blocks in one call of LAPACK.

    jaxlib spreads a batch over the threads that run the program and waits for them: two such calls
    at once, from two threads or two parts of a program, can wait for one another forever.
    """
    alone = sequential_vmap(_inverse_factors)
    for _ in blocks.shape[:-2]:
        alone = jax.vmap(alone)
    return alone(blocks)


def _diagonal(block: Float[Array, "... n n"]) -> Float[Array, "... n"]:
    return jnp.diagonal(block, axis1=-2, axis2=-1)


def _eliminate(
    block: Float[Array, "... n n"], coupling: Float[Array, "... n m"], size: Float[Array, "... n"]
) -> _Eliminated:
    """Eliminate a block whose diagonal was `size` before other rows were."""
    add = jnp.where(size > 0, _ROUNDING * size, 1.0)  # rows that nothing can move
    n = jnp.arange(block.shape[-1])
    block = block.at[..., n, n].add(add)
    inverse = platform_dependent(block, cpu=_one_by_one, default=_inverse_factors)
    return _Eliminated(inverse, inverse @ coupling)


class Newton(eqx.Module):
    """A theta A^T, factored. Call it with right-hand sides to get the rows' prices."""

    inner: _Eliminated  # rows of the network other than balances of buses
    outer: _Eliminated  # all others of the hour
    stores: _Eliminated  # dynamics of storage; the coupling is to the next hour
    used: Bool[Array, " R"]  # rows of the network that exist

    def __call__(self, market: Market, right: Worth) -> Worth:
        """y with A theta A^T y = right; 0 for rows that do not exist."""
        count, buses = market.prosumers.bus.shape[0], market.grid.passive.shape[0]
        at_bus = slice(count + 2, None)
        r = right.rows
        network = (stack_network(market, r) * self.used[:, None]).T
        hour = jnp.concatenate(
            [r.balance.T, right.total[:, None], r.aggregate[:, None], network[:, :buses]], axis=1
        )
        hidden = self.inner.reduce(network[:, buses:])
        hour = hour.at[:, at_bus].add(-self.inner.felt(hidden))
        mid = self.outer.reduce(hour)

        def forward(felt: Array, now: tuple[_Eliminated, Array]) -> tuple[Array, Array]:
            block, r = now
            reduced = block.reduce(r - felt)
            return block.felt(reduced), reduced

        def backward(later: Array, now: tuple[_Eliminated, Array]) -> tuple[Array, Array]:
            block, reduced = now
            solved = block.restore(reduced, later)
            return solved, solved

        stored = r.energy.T - self.outer.felt(mid)
        nothing = jnp.zeros_like(stored[0])
        _, swept = jax.lax.scan(forward, nothing, (self.stores, stored))
        _, energy = jax.lax.scan(backward, nothing, (self.stores, swept), reverse=True)
        solved = self.outer.restore(mid, energy)
        others = self.inner.restore(hidden, solved[:, at_bus])
        network = jnp.concatenate([solved[:, at_bus], others], axis=1).T * self.used[:, None]
        found = unstack_network(market, network)
        return Worth(
            replace(
                found,
                balance=solved[:, :count].T,
                energy=energy.T,
                aggregate=solved[:, count + 1],
            ),
            solved[:, count],
        )


def _network_rows(market: Market) -> tuple[str, ...]:
    """Families of rows of the grid model, the balance of buses first."""
    if market.grid.model == "copperplate":
        return ("bus",)
    reactive = ("bus_reactive",) if market.grid.reactive_balance else ()
    angle = ("angle",) if market.grid.model == "paper" else ()
    return ("bus", *reactive, "voltage", *angle)


def stack_network(market: Market, rows: Rows) -> Float[Array, "R H"]:
    return jnp.concatenate([getattr(rows, name) for name in _network_rows(market)])


def unstack_network(market: Market, stacked: Float[Array, "R H"]) -> Rows:
    found, at = rows_like(market), 0
    for name in _network_rows(market):
        size = getattr(found, name).shape[0]
        found = replace(found, **{name: stacked[at : at + size]})
        at += size
    return found


def factor(market: Market, theta: Compliance) -> Newton:
    """Factor A theta A^T of a market, whose numbers are in float64."""
    grid, stores, ts = market.grid, market.buffers, market.hour_length
    count, buses, hours = market.prosumers.bus.shape[0], grid.passive.shape[0], theta.net.shape[0]
    plan, home = theta.plan, market.prosumers.bus
    whole, used = network_block(market, theta)
    block = jnp.zeros((hours, count + 2 + buses, count + 2 + buses), whole.dtype)
    total, net, first = count, count + 1, count + 2

    def add(row: Array, column: Array, values: Array) -> None:
        nonlocal block
        block = block.at[:, row, column].add(values.T)
        if row is not column:
            block = block.at[:, column, row].add(values.T)

    def device(owner: Array, values: Array) -> None:  # in the balance of its owner, and of its bus
        bus = first + home[owner]
        add(owner, owner, values)
        if grid.model != "copperplate":
            values = values * used[home[owner]][:, None]
            add(owner, bus, values)
            add(bus, bus, values)

    everyone = jnp.arange(count)
    device(market.generators.owner, plan.generation)
    device(stores.owner, plan.charge + plan.discharge)
    device(everyone, plan.curtailed)
    add(everyone, everyone, plan.imports + plan.exports)
    at_total, at_net = jnp.full(count, total), jnp.full(count, net)
    add(everyone, at_total, -plan.imports)
    add(everyone, at_net, -plan.imports - plan.exports)
    drawn, sold = jnp.sum(plan.imports, axis=0), jnp.sum(plan.exports, axis=0)
    block = block.at[:, total, total].add(drawn + theta.total)
    block = block.at[:, net, net].add(drawn + sold + theta.net)
    block = block.at[:, total, net].add(drawn).at[:, net, total].add(drawn)
    buyer, seller = market.trading.buyer, market.trading.seller
    add(buyer, buyer, plan.trades)
    add(seller, seller, plan.trades)
    add(buyer, seller, -plan.trades)

    others = whole[:, buses:, buses:]
    inner = _eliminate(others, whole[:, buses:, :buses], _diagonal(others))
    bus = whole[:, :buses, :buses] - jnp.swapaxes(inner.coupling, 1, 2) @ inner.coupling
    size = _diagonal(block).at[:, first:].add(_diagonal(whole)[:, :buses])
    block = block.at[:, first:, first:].add(bus)

    # storage: a charge enters its owner's balance by 1 and the content by -ts eta
    into = ts * stores.charge_efficiency[:, None]
    out = ts / stores.discharge_efficiency[:, None]
    shared = -(into * plan.charge + out * plan.discharge).T
    which, keep = jnp.arange(stores.owner.shape[0]), stores.retention[:, None]
    coupling = jnp.zeros((hours, block.shape[1], which.shape[0]), block.dtype)
    coupling = coupling.at[:, stores.owner, which].set(shared)
    if grid.model != "copperplate":
        at = home[stores.owner]
        coupling = coupling.at[:, first + at, which].set(shared * used[at])
    outer = _eliminate(block, coupling, size)
    before = jnp.concatenate([jnp.zeros_like(plan.energy[:, :1]), plan.energy[:, :-1]], axis=1)
    own = plan.energy + keep**2 * before + into**2 * plan.charge + out**2 * plan.discharge
    content = -jnp.swapaxes(outer.coupling, 1, 2) @ outer.coupling
    content = content.at[:, which, which].add(own.T)
    held = -(keep * plan.energy).T

    def sweep(felt: Array, now: tuple[Array, Array, Array]) -> tuple[Array, _Eliminated]:
        here, ahead, size = now
        block = _eliminate(here - felt, jnp.diag(ahead), size)
        return block.coupling.T @ block.coupling, block

    _, chain = jax.lax.scan(sweep, jnp.zeros_like(content[0]), (content, held, own.T))
    return Newton(inner, outer, chain, used)


def network_block(
    market: Market, theta: Compliance
) -> tuple[Float[Array, "H R R"], Bool[Array, " R"]]:
    """A theta A^T of the network's rows and columns alone, and which of its rows exist."""
    grid, plan = market.grid, theta.plan
    names, like = _network_rows(market), rows_like(market)
    low, high = (stack_network(market, side)[:, 0] for side in limits(market))
    fed = jnp.zeros(grid.passive.shape[0], bool).at[grid.feeder].set(True)
    used = (low == high).at[: fed.shape[0]].set(~fed)
    hours, size = theta.net.shape[0], used.shape[0]
    block = jnp.zeros((hours, size, size), plan.active.dtype)
    if grid.model == "copperplate":
        return block, jnp.zeros(size, bool)
    starts, at = {}, 0
    for name in names:
        starts[name], at = at, at + getattr(like, name).shape[0]
    line = jnp.arange(grid.source.shape[0])
    one, none = jnp.ones(line.shape), jnp.zeros(line.shape)
    fall = drop_factor(market)
    r, x = grid.resistance, grid.reactance
    # per line: rows it enters, with which coefficient its active and its reactive flow does
    entries = [(grid.source, one, none), (grid.target, -one, none)]
    if "bus_reactive" in starts:
        at = starts["bus_reactive"]
        entries += [(at + grid.source, none, one), (at + grid.target, none, -one)]
    entries.append((starts["voltage"] + line, -fall * r, -fall * x))
    if "angle" in starts:
        entries.append((starts["angle"] + line, -x, r))
    index = jnp.stack([row for row, _, _ in entries], axis=1)
    real, imaginary = (jnp.stack([e[k] for e in entries], axis=1) for k in (1, 2))

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
    ends = jnp.zeros((line.shape[0], fed.shape[0])).at[line, grid.source].add(1.0)
    ends = ends.at[line, grid.target].add(-1.0)
    for name, column in (("voltage", plan.voltage), ("angle", plan.angle)):
        if name in starts:
            at = slice(starts[name], starts[name] + line.shape[0])
            block = block.at[:, at, at].add(jnp.einsum("lb,bh,kb->hlk", ends, column, ends))
    return jnp.where(used[:, None] & used[None, :], block, 0.0), used
