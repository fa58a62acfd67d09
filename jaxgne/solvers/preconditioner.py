"""Step sizes of the primal-dual solver: a preconditioner that knows what the rows mean."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..market import Market
from ..model import Plan, Rows, boxes, by_owner, drop_factor

STEP = 0.5  # of powers, before the balance omega; dimensionless


class Metric(eqx.Module):
    """Step sizes: tau per entry of the plan, Sigma per row; `network` is Sigma's dense block."""

    plan: Plan
    total: Float[Array, ""]
    rows: Rows  # Sigma; for rows of the network, the inverse of Sigma^-1's diagonal
    price: Float[Array, ""]
    network: Float[Array, "R R"]


def wide_plan(plan: Plan) -> Plan:
    """A plan with flows, voltages and exchange in float64."""
    names = ("active", "reactive", "voltage", "angle", "exchange")
    return replace(plan, **{name: getattr(plan, name).astype(jnp.float64) for name in names})


def wide_rows(rows: Rows) -> Rows:
    """Rows with all but those of prosumers and buffers in float64."""
    names = ("aggregate", "bus", "bus_reactive", "exchange", "voltage", "angle")
    return replace(rows, **{name: getattr(rows, name).astype(jnp.float64) for name in names})


def network_rows(market: Market, value: Rows) -> Float[Array, "R H"]:
    """The rows of the network, stacked; 0 for feeders, whose rows free variables meet."""
    feeder = market.grid.feeder
    if market.grid.model == "copperplate":
        return value.bus[:0]
    parts = [value.bus.at[feeder].set(0.0), value.bus_reactive.at[feeder].set(0.0)]
    parts += [value.voltage, value.angle]
    return jnp.concatenate(parts)


def with_network(market: Market, prices: Rows, change: Float[Array, "R H"]) -> Rows:
    """Prices with those of the network moved by `change`."""
    if market.grid.model == "copperplate":
        return prices
    bus, bus_reactive, voltage, angle = _split(market, change)
    return replace(
        prices,
        bus=prices.bus + bus,
        bus_reactive=prices.bus_reactive + bus_reactive,
        voltage=prices.voltage + voltage,
        angle=prices.angle + angle,
    )


def _split(market: Market, values: Float[Array, "R H"]) -> list[Array]:
    """The network's rows apart again: bus, bus_reactive, voltage, angle."""
    buses, lines = market.grid.passive.shape[0], market.grid.source.shape[0]
    return jnp.split(values, (buses, 2 * buses, 2 * buses + lines))


def preconditioner(market: Market) -> Metric:
    """Step sizes with A^T Sigma A <= 1/tau: every group of rows takes its share of 1/tau.

    Groups: own balances, buffer dynamics, the link of the main grid's price and the aggregate limit
    (Sigma diagonal, rows bounded by their sums), and the network, whose Sigma is the exact inverse
    of A tau A^T. Entries that cannot move take no part.
    """
    lower, upper = boxes(market)
    live = jax.tree.map(lambda low, high: (high > low).astype(low.dtype), lower, upper)
    ts, stores, pairs = market.hour_length, market.buffers, market.trading
    own = by_owner(market, live.generation, market.generators.owner) + by_owner(
        market, live.charge + live.discharge, stores.owner
    )
    degree = by_owner(market, live.trades, pairs.buyer) + by_owner(
        market, live.trades, pairs.seller
    )
    terms = own + live.imports + live.exports + live.curtailed + 2 * degree
    into, out = ts * stores.charge_efficiency, ts / stores.discharge_efficiency
    dynamics = (1 + stores.retention) ** 2 + STEP * (into**2 + out**2)
    limited = jnp.isfinite(market.tariff.total_max) | jnp.isfinite(market.tariff.total_min)
    network, flow, volt, turn, diagonal = _network_metric(market, live)
    share, ones = 1 / STEP, jax.tree.map(jnp.ones_like, lower)
    networked = 0.0 if market.grid.model == "copperplate" else share
    plan = Plan(
        generation=ones.generation / (share + networked),
        charge=ones.charge / (2 * share + networked),
        discharge=ones.discharge / (2 * share + networked),
        energy=ones.energy,
        imports=ones.imports / (share + 1 + limited),
        exports=ones.exports / (share + limited),
        curtailed=ones.curtailed / (share + networked),
        trades=ones.trades / share,
        active=ones.active * flow[:, None],
        reactive=ones.reactive * flow[:, None],
        voltage=ones.voltage * volt[:, None],
        angle=ones.angle * turn[:, None],
        exchange=ones.exchange,
    )
    total = jnp.asarray(market.prosumers.bus.shape[0], market.tariff.slope.dtype)
    bus, bus_reactive, voltage, angle = _split(market, 1 / diagonal[:, None])
    rows = Rows(
        balance=1 / (STEP * jnp.maximum(terms, 1.0)),
        energy=jnp.broadcast_to(1 / dynamics[:, None], lower.energy.shape),
        aggregate=jnp.full_like(market.tariff.slope, 1 / (2 * total)),
        bus=bus,
        bus_reactive=bus_reactive,
        exchange=jnp.ones_like(market.tariff.slope),
        voltage=voltage,
        angle=angle,
    )
    return Metric(wide_plan(plan), total, wide_rows(rows), 1 / (2 * total), network)


def _network_metric(
    market: Market, live: Plan
) -> tuple[Float[Array, "R R"], Array, Array, Array, Float[Array, " R"]]:
    """Sigma of the network's rows; steps of flows, voltages and angles; the diagonal of 1/Sigma.

    A flow's step is a dozen times the prosumers behind its line (the flow that one kW at each of
    them causes), a voltage's what such flows do to it. Feeders' rows and rows that the model lacks
    meet free variables: they are left out (0 in Sigma).
    """
    grid, dtype = market.grid, market.grid.passive.dtype
    buses, lines = grid.passive.shape[0], grid.source.shape[0]
    if grid.model == "copperplate":
        ones = (jnp.ones(lines, dtype), jnp.ones(buses, dtype), jnp.ones(buses, dtype))
        return jnp.zeros((0, 0), dtype), *ones, jnp.ones(2 * (buses + lines), dtype)
    with jax.enable_x64(True):
        r, x = grid.resistance.astype(jnp.float64), grid.reactance.astype(jnp.float64)
        line, owners = jnp.arange(lines), market.prosumers.bus
        leaving = jnp.zeros((buses, lines), jnp.float64)
        leaving = leaving.at[grid.source, line].add(1.0).at[grid.target, line].add(-1.0)
        fed = jnp.zeros(buses, bool).at[grid.feeder].set(True)
        tied = jnp.where(fed[:, None], 0.0, leaving)
        laplacian = tied @ tied.T + jnp.diag(fed.astype(jnp.float64))
        at = jnp.zeros(buses, jnp.float64).at[owners].add(1.0)
        behind = tied.T @ jnp.linalg.solve(laplacian, jnp.where(fed, 0.0, at))
        flow = 12 * jnp.maximum(jnp.abs(behind), 1.0)
        square, k = (r**2 + x**2) * flow, drop_factor(market)
        usual = jnp.maximum(1e-3 * jnp.mean(square), 1e-12)  # for lines without impedance
        turn = jnp.abs(jnp.linalg.solve(laplacian, tied @ jnp.maximum(square, usual)))

        def movable(values: Array, owner: Array) -> Array:  # devices at each bus
            most = jnp.max(values, axis=1).astype(jnp.float64)
            return jnp.zeros(buses, jnp.float64).at[owners[owner]].add(most)

        devices = (
            movable(live.generation, market.generators.owner)
            + movable(live.charge, market.buffers.owner)
            + movable(live.discharge, market.buffers.owner)
            + movable(live.curtailed, jnp.arange(owners.shape[0]))
        )
        along = tied * flow
        balance = along @ tied.T
        spread = tied.T @ (jnp.where(fed, 0.0, turn)[:, None] * tied) + jnp.diag(square)
        nothing, apart = jnp.zeros_like(balance), jnp.zeros_like(spread)
        inverse = jnp.block(
            [
                [balance + STEP * jnp.diag(devices), nothing, -k * along * r, -along * x],
                [nothing, balance, -k * along * x, along * r],
                [-k * (along * r).T, -k * (along * x).T, k**2 * spread, apart],
                [-(along * x).T, (along * r).T, apart, spread],
            ]
        )
        used = jnp.concatenate(
            [
                ~fed,
                ~fed & grid.reactive_balance,
                jnp.ones(lines, bool),
                jnp.full(lines, grid.model == "paper"),
            ]
        )
        both = used[:, None] & used[None, :]
        inverse = jnp.where(both, inverse, jnp.eye(used.shape[0], dtype=jnp.float64))
        diagonal = jnp.diag(inverse)
        size = jnp.sqrt(diagonal)
        sigma = jnp.linalg.inv(inverse / size[:, None] / size) / size[:, None] / size
        sigma = jnp.where(both, sigma, 0.0)
        volt, turn = jnp.where(fed, 1.0, k**2 * turn), jnp.where(fed, 1.0, turn)
        return sigma, flow, volt, turn, diagonal
