"""The state of a grid for powers that nobody chooses, by its own model where that is a tree."""

from typing import Any

import jax
from jaxtyping import Array, Float

from .acflow import flow
from .incidence import ends_of, fallen, falls, flow_matrix, gathered, levelled, ratios
from .market import Grid, Market
from .radial import Forest, forest, loops
from .runner import jnp

States = dict[str, Array]  # fields of a `Plan`, by name


def grid_state(
    market: Market, active: Float[Array, "B H"], reactive: Float[Array, "B H"]
) -> States:
    """The grid's fields of a plan whose buses draw `active` kW and `reactive` kvar.

    On a radial grid all rows of its model hold. Where lines close loops the model alone need not
    settle the flows: these are those of an AC power flow, which has losses. No fields where there
    is no network.
    """
    grid = market.grid
    if not grid.model.networked:
        return {}
    if not grid.reactive_balance:
        reactive = jnp.zeros_like(active)
    if loops(grid):
        return _by_ac(market, active, reactive)
    fed: dict[str, Any] = {
        "voltage": grid.feeder_voltage**grid.model.power,
        "angle": jnp.zeros_like(grid.feeder_voltage),
    }
    return tree_state(grid, active, reactive, fed)


def tree_state(
    grid: Grid,
    active: Float[Array, "B H"],
    reactive: Float[Array, "B H"],
    fed: dict[str, Float[Array, "F H"]],
) -> States:
    """The same of a radial grid whose feeders hold the states `fed`."""
    tree = forest(grid)
    outward = jnp.where(tree.outward[:, None], 1, -1)
    drawn = gathered(grid, tree.ladder, active, reactive)
    behind = [tree.ladder.behind(each) for each in drawn]
    p, q = (outward * each[tree.far] for each in behind)
    states = {
        state: _state(grid, tree, state, fed[state], fallen(grid, state, p, q))
        for state in falls(grid)
    }
    return {"active": p, "reactive": q, "exchange": behind[0][grid.feeder], **states}


def _state(grid: Grid, tree: Forest, state: str, fed: Array, fall: Array) -> Float[Array, "B H"]:
    """Voltage or angle at each bus, from those at feeders and what lines take on the way.

    At a line's target it is that at its source over its ratio, less its fall. Divided by `base`,
    the product of ratios on the way, it is a sum of falls.
    """
    outward = tree.outward[:, None]
    nothing = jnp.zeros((grid.passive.shape[0], fall.shape[1]), fall.dtype)
    step = jnp.log(ratios(grid)[state])[:, None]
    step = jnp.where(outward, -step, step)
    base = jnp.exp(tree.ladder.along(nothing[:, :1].at[tree.far].set(step)))
    less = jnp.where(outward, -fall / base[tree.far], fall / base[tree.near])
    given = nothing.at[grid.feeder].set(fed).at[tree.far].set(less)
    return levelled(grid, tree.ladder, base, base * tree.ladder.along(given))


def check_linear(caller: str, market: Market) -> None:
    """Raise `ValueError` for a grid whose state is not linear in what buses draw."""
    if market.grid.tangent is not None:
        raise ValueError(f"{caller}: this market is about an AC state; give the one it is made of.")
    if market.grid.model.networked and loops(market.grid):
        raise ValueError(
            f"{caller}: {loops(market.grid)} lines close loops, where flows do not follow from "
            "what buses draw; give a radial grid."
        )


def answers(market: Market) -> tuple[dict[str, Float[Array, "R N"]], ...]:
    """What a kW that each prosumer draws at its bus does to flows and states, and what a kvar."""
    grid, bus = market.grid, market.prosumers.bus
    fed = jnp.zeros((grid.feeder.shape[0], bus.shape[0]), grid.passive.dtype)
    held: States = dict.fromkeys(grid.model.states, fed)
    none = jnp.zeros((grid.passive.shape[0], bus.shape[0]), grid.passive.dtype)
    each = none.at[bus, jnp.arange(bus.shape[0])].set(1.0)
    felt = each if grid.reactive_balance else none
    return tree_state(grid, each, none, held), tree_state(grid, none, felt, held)


def worths(grid: Grid, weights: States) -> tuple[Float[Array, "B H"], Float[Array, "B H"]]:
    """What a kW and a kvar more drawn at each bus add to a weighted sum of flows and states.

    `weights` are of `active`, `reactive` and the model's states: the transpose of its rows. With
    loops by a dense matrix, O((B + L)^3); there reactive power has to be balanced.
    """
    none = jnp.zeros_like(grid.passive)
    if not loops(grid):
        fed = {state: jnp.zeros_like(grid.feeder_voltage) for state in grid.model.states}

        def found(active: Array, reactive: Array) -> States:
            state = tree_state(grid, active, reactive, fed)
            return {name: state[name] for name in weights}

        return jax.vjp(found, none, none)[1](weights)
    buses, lines = grid.passive.shape[0], grid.source.shape[0]
    free = jnp.ones(buses, grid.resistance.dtype).at[grid.feeder].set(0.0)
    matrix = flow_matrix(grid)
    matrix = matrix.at[: 2 * buses].multiply(jnp.concatenate([free, free])[:, None])
    parts, size = [matrix], matrix.shape[0]
    for k, ratio in enumerate(ratios(grid).values()):
        row, bus = 2 * buses + k * lines, jnp.arange(buses)
        ends = (
            jnp.zeros((size, buses), matrix.dtype)
            .at[row : row + lines]
            .set(ends_of(grid, ratio) * free)
        )
        parts.append(ends.at[k * buses + bus, bus].add(1 - free))  # feeders' states are fixed
    given = [weights["active"], weights["reactive"]]
    given += [weights[state] * free[:, None] for state in grid.model.states]
    price = -jnp.linalg.solve(jnp.concatenate(parts, axis=1).T, jnp.concatenate(given))
    return price[:buses], price[buses : 2 * buses]


def _by_ac(market: Market, active: Array, reactive: Array) -> States:
    found = flow(market.grid, active, reactive)
    states = {"voltage": found.voltage**market.grid.model.power, "angle": found.angle}
    fields = {"active": found.active, "reactive": found.reactive, "exchange": found.exchange}
    fields |= {state: states[state] for state in market.grid.model.states}
    return {name: field.astype(active.dtype) for name, field in fields.items()}
