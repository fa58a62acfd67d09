"""The network's part of the primal-dual preconditioner: the exact inverse of A tau A^T."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ..market import Market
from ..model import Rows, drop_factor

FLOW = 2.0  # step of a flow in prosumers behind its line
FALL = 10.0  # step of a voltage in what such flows do to it
HELD = 0.1  # and what is left of it where a bound holds the voltage


class Network(eqx.Module):
    """Steps tau of flows, voltages and angles, and Sigma of the rows of buses and lines."""

    flow: Float[Array, "L 1"]
    voltage: Float[Array, "B 1"]
    angle: Float[Array, "B 1"]
    sigma: Float[Array, "R R"]

    def __call__(self, market: Market, value: Rows) -> Rows:
        """Sigma times the rows of the network; zero elsewhere."""
        nothing = jax.tree.map(jnp.zeros_like, value)
        if market.grid.model == "copperplate":
            return nothing
        stacked = jnp.concatenate([value.bus, value.bus_reactive, value.voltage, value.angle])
        buses, lines = market.grid.passive.shape[0], market.grid.source.shape[0]
        ends = (buses, 2 * buses, 2 * buses + lines)
        bus, bus_reactive, voltage, angle = jnp.split(self.sigma @ stacked, ends)
        return replace(nothing, bus=bus, bus_reactive=bus_reactive, voltage=voltage, angle=angle)


def network(
    market: Market, devices: Float[Array, " B"], step: float, held: Bool[Array, " B"]
) -> Network:
    """Steps of a grid on which `devices` columns, each with step `step`, meet the balance of a bus.

    A flow's step is twice the number of prosumers behind its line, a voltage's ten times what such
    flows do to it: where no bound is near, its price has to vanish fast. Where one has `held` it in
    some hour the step is a tenth, for that price to find its level. Feeders' rows and rows that the
    model lacks meet free variables: they are left out (0 in Sigma).
    """
    grid = market.grid
    buses, lines = grid.passive.shape[0], grid.source.shape[0]
    if grid.model == "copperplate":
        line, bus = (jnp.ones((size, 1), grid.passive.dtype) for size in (lines, buses))
        return Network(line, bus, bus, jnp.zeros((0, 0), grid.passive.dtype))
    with jax.enable_x64(True):
        r, x = grid.resistance.astype(jnp.float64), grid.reactance.astype(jnp.float64)
        line = jnp.arange(lines)
        leaving = jnp.zeros((buses, lines), jnp.float64)
        leaving = leaving.at[grid.source, line].add(1.0).at[grid.target, line].add(-1.0)
        fed = jnp.zeros(buses, bool).at[grid.feeder].set(True)
        tied = jnp.where(fed[:, None], 0.0, leaving)
        laplacian = tied @ tied.T + jnp.diag(fed.astype(jnp.float64))
        at = jnp.zeros(buses, jnp.float64).at[market.prosumers.bus].add(1.0)
        behind = tied.T @ jnp.linalg.solve(laplacian, jnp.where(fed, 0.0, at))
        flow = FLOW * jnp.maximum(jnp.abs(behind), 1.0)
        square, k = (r**2 + x**2) * flow, drop_factor(market)
        usual = jnp.maximum(1e-3 * jnp.mean(square), 1e-12)  # for lines without impedance
        angle = jnp.linalg.solve(laplacian, tied @ jnp.maximum(square, usual))
        angle = jnp.where(fed, 1.0, FALL * jnp.where(held, HELD, 1.0) * jnp.abs(angle))
        voltage = jnp.where(fed, 1.0, k**2 * angle)
        along = tied * flow
        balance = along @ tied.T
        # the ends of lines, of which feeders' are fixed
        spread = tied.T @ (jnp.where(fed, 0.0, angle)[:, None] * tied) + jnp.diag(square)
        nothing, apart = jnp.zeros_like(balance), jnp.zeros_like(spread)
        inverse = jnp.block(
            [
                [balance + step * jnp.diag(devices), nothing, -k * along * r, -along * x],
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
        size = jnp.sqrt(jnp.diag(inverse))
        sigma = jnp.linalg.inv(inverse / size[:, None] / size) / size[:, None] / size
        return Network(flow[:, None], voltage[:, None], angle[:, None], jnp.where(both, sigma, 0.0))
