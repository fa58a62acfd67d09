"""The network's part of the primal-dual preconditioner: the exact inverse of A tau A^T."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import block_diag
from jaxtyping import Array, Bool, Float

from ..incidence import ends_of, falls, flow_matrix, gathered, ratios
from ..market import Grid, Market, cast
from ..model import Rows
from ..radial import climb
from ..record import Record
from .groups import groups
from .tree import Tree, eliminate

FLOW = 2.0  # step of a flow in prosumers behind its line
FALL = 10.0  # step of a voltage in what such flows do to it
DENSE = 64  # buses up to which one dense product is faster than two climbs of a tree, on a CPU
DENSE_ELSEWHERE = 1024  # on a GPU, which waits for the host at each turn of a climb
HELD = 0.1  # and what is left of it where a bound holds the voltage


class Network(Record):
    """Steps tau of flows, voltages and angles, and Sigma of the rows of buses and lines."""

    flow: Float[Array, "L 1"]
    voltage: Float[Array, "B 1"]
    angle: Float[Array, "B 1"]
    sigma: Tree | Float[Array, "R R"] | None  # none: no network

    def __call__(self, market: Market, value: Rows) -> Rows:
        """Sigma times the rows of the network; zero elsewhere."""
        nothing = jax.tree.map(jnp.zeros_like, value)
        if self.sigma is None:
            return nothing
        if isinstance(self.sigma, Tree):
            solved = self.sigma(value.bus, value.bus_reactive, value.voltage)
            return replace(nothing, bus=solved[0], bus_reactive=solved[1], voltage=solved[2])
        names = ("bus", "bus_reactive", *market.grid.model.states)
        families = [getattr(value, name) for name in names]
        ends = np.cumsum([family.shape[0] for family in families])[:-1]
        solved = jnp.split(self.sigma @ jnp.concatenate(families), ends)
        return replace(nothing, **dict(zip(names, solved, strict=True)))


def network(market: Market, devices: Float[Array, "2 B"], held: Bool[Array, " B"]) -> Network:
    """Steps of a grid at whose buses columns with steps of `devices` meet either power's balance.

    A flow's step is twice the number of prosumers behind its line, a voltage's ten times what such
    flows do to it: where no bound is near, its price has to vanish fast. Where one has `held` it in
    some hour the step is a tenth, for that price to find its level. Feeders' rows and rows that the
    model lacks meet free variables: they are left out (0 in Sigma).

    The feeders of `lindistflow` are trees, whose Sigma takes O(B), but one dense matrix where they
    are small, which a thousand buses are on a GPU; so does that of the paper's model, whose grid
    may be meshed.
    """
    if not market.grid.model.networked:
        none = jnp.ones((), market.grid.passive.dtype)
        return Network(none, none, none, None)
    with jax.enable_x64(True):
        grid = cast(market.grid, jnp.float64)
        fed = jnp.zeros(grid.passive.shape[0], bool).at[grid.feeder].set(True)
        people = jnp.zeros(fed.shape, jnp.float64).at[market.prosumers.bus].add(1.0)
        build = _radial if grid.model.radial else _general
        return build(grid, fed, people, devices.astype(jnp.float64), held)


def _flow_steps(behind: Array) -> Array:
    return FLOW * jnp.maximum(jnp.abs(behind), 1.0)


def _squared_falls(grid: Grid, state: str, flow: Array) -> Float[Array, " L"]:
    """Squared drop of a state that flow steps make; never 0, for lines without impedance."""
    active, reactive = falls(grid)[state]
    square = (active**2 + reactive**2) * flow
    least = 1e-12 * grid.model.power**2
    return jnp.maximum(square, jnp.maximum(1e-3 * jnp.mean(square), least))


def _voltage_steps(falls: Array, fed: Array, held: Array) -> Array:
    return jnp.where(fed, 1.0, FALL * jnp.where(held, HELD, 1.0) * jnp.abs(falls))


def _radial(grid: Grid, fed: Array, people: Array, devices: Array, held: Array) -> Network:
    """By a tree."""
    ladder = climb(grid.source, grid.target, grid.tap, fed)
    there, _ = gathered(grid, ladder, people[:, None], jnp.zeros_like(people[:, None]))
    flow = _flow_steps(ladder.behind(there[:, 0])[grid.target])
    at = jnp.zeros(fed.shape, flow.dtype).at[grid.target].set(_squared_falls(grid, "voltage", flow))
    voltage = _voltage_steps(ladder.along(at), fed, held)
    square = jnp.sum(jnp.stack(falls(grid)["voltage"]) ** 2, axis=0)
    least = jnp.maximum(1e-6 * jnp.mean(square), 1e-12 / flow)  # for lines without impedance
    slack = flow * jnp.maximum(least - square, 0.0)
    both = flow[:, None, None] * jnp.eye(2)
    tree = eliminate(groups(grid), both, slack, voltage, devices)
    buses, lines = fed.shape[0], grid.source.shape[0]
    steps = (flow[:, None], voltage[:, None], voltage[:, None])
    if buses > (DENSE if jax.default_backend() == "cpu" else DENSE_ELSEWHERE):
        return Network(*steps, tree)
    each = jnp.split(jnp.eye(2 * buses + lines), (buses, 2 * buses))
    return Network(*steps, jnp.concatenate(tree(*each)))


def _general(grid: Grid, fed: Array, people: Array, devices: Array, held: Array) -> Network:
    """By a dense matrix; lines may close loops."""
    buses, lines = fed.shape[0], grid.source.shape[0]
    states, dtype = grid.model.states, grid.resistance.dtype
    free = jnp.where(fed[:, None], 0.0, 1.0)
    matrix = flow_matrix(grid)
    tied = free * matrix[:buses, :lines]
    laplacian = tied @ tied.T + jnp.diag(fed.astype(dtype))
    flow = _flow_steps(tied.T @ jnp.linalg.solve(laplacian, jnp.where(fed, 0.0, people)))
    none = jnp.ones(buses, dtype)
    step = {"voltage": none, "angle": none}
    for state in states:
        fall = jnp.linalg.solve(laplacian, tied @ _squared_falls(grid, state, flow))
        step[state] = _voltage_steps(fall, fed, held)
    matrix = matrix.at[: 2 * buses].multiply(jnp.concatenate([free, free]))
    inverse = (matrix * jnp.concatenate([flow, flow])) @ matrix.T
    own = [*devices]
    for state, ratio in ratios(grid).items():
        ends = ends_of(grid, ratio) * free.T  # of lines, of which feeders' are fixed
        own.append((ends * step[state]) @ ends.T)
    inverse += block_diag(*(jnp.diag(a) if a.ndim == 1 else a for a in own))
    used = [~fed, ~fed & grid.reactive_balance, jnp.ones(len(states) * lines, bool)]
    used = jnp.concatenate(used)
    both = used[:, None] & used[None, :]
    inverse = jnp.where(both, inverse, jnp.eye(used.shape[0], dtype=dtype))
    size = jnp.sqrt(jnp.diag(inverse))
    sigma = jnp.linalg.inv(inverse / size[:, None] / size) / size[:, None] / size
    steps = (flow[:, None], step["voltage"][:, None], step["angle"][:, None])
    return Network(*steps, jnp.where(both, sigma, 0.0))
