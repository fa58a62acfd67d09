"""Consensus without a center: agents that mix what they hold over a graph, directed or not.

Each agent holds a mass of everything that is to be agreed on, and a weight; what it goes by is the
mass over the weight (push-sum: Kempe, Dobra, Gehrke, FOCS 2003). On each link it hands on a share
of both. Sums over all agents stay, so that an agent that adds its own change to its mass makes all
track the sum (dynamic average consensus). Links carry running sums of what was ever handed on: what
a lost message would have brought comes with the next one (Hadjicostis, Vaidya, Dominguez-Garcia,
"Robust Distributed Average Consensus via Exchange of Running Sums", IEEE TAC 61(6), 2016). Without
losses, and with shares that add up to 1 by row too, weights stay at 1.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .channels import Channel, Medium, along, either, opened, told
from .record import Record

_ROUND = 1e-9  # by which shares may miss a sum of 1


class Graph(Record):
    """Who hands on how much to whom, in turn: `T` patterns over `M` links between `N` agents."""

    source: Int[Array, " M"]
    target: Int[Array, " M"]
    share: Float[Array, "T M"]  # of what the source holds; 0 where the link is not there
    kept: Float[Array, "T N"]


class Masses(Record):
    """What agents hold of what they agree on, and what is on its way between them."""

    weight: Float[Array, " N"]
    mass: Any  # leading axis N
    pushed: Any  # weight and mass ever handed on by each link, leading axis M
    taken: Any  # of that, what its target has added to its own
    channel: Channel  # of `pushed`


def metropolis(adjacency: Any) -> np.ndarray:
    """Doubly stochastic shares of an undirected graph's `adjacency`, (A, A) or (T, A, A).

    Neighbors i and j give each other 1 / (1 + the larger number of neighbors of both): Xiao, Boyd,
    Systems and Control Letters 53, 2004. Raises `ValueError` for a graph that has a direction.
    """
    links = _links(adjacency)
    if np.any(links != np.swapaxes(links, -1, -2)):
        raise ValueError("metropolis: adjacency is not symmetric; give consensus.push_shares.")
    degree = links.sum(axis=-1)
    share = links / (1 + np.maximum(degree[..., :, None], degree[..., None, :]))
    return share + np.eye(links.shape[-1]) * (1 - share.sum(axis=-1))[..., None]


def push_shares(adjacency: Any) -> np.ndarray:
    """Shares of a directed graph, (A, A) or (T, A, A): each agent gives all that hear it the same.

    `adjacency[i, j]` is 1 where i hears j; columns of shares add up to 1.
    """
    links = _links(adjacency) + np.eye(np.shape(adjacency)[-1])
    return links / links.sum(axis=-2, keepdims=True)


def graph_of(given: Any, agents: int) -> Graph:
    """The graph of an adjacency matrix of 0 and 1, or of shares whose columns add up to 1.

    An entry [i, j] is what i takes of j; a leading axis has patterns that come in turn. A symmetric
    adjacency gets `metropolis` shares, another one `push_shares`. Raises `ValueError` for what is
    neither, and where someone is never heard by someone else.
    """
    matrix = np.asarray(given, float)
    if matrix.shape[-2:] != (agents, agents) or matrix.ndim not in (2, 3) or not matrix.size:
        raise ValueError(
            f"graph has shape {matrix.shape}; give {(agents, agents)}, a row and a column for each "
            "prosumer, or several of these in turn."
        )
    if not np.all(matrix >= 0):
        raise ValueError("graph has entries below 0 or that are no numbers; give shares from 0.")
    if np.all((matrix == 0) | (matrix == 1)):
        both = np.array_equal(matrix, np.swapaxes(matrix, -1, -2))
        matrix = metropolis(matrix) if both else push_shares(matrix)
    total = matrix.sum(axis=-2)
    if np.any(np.abs(total - 1) > _ROUND):
        who = int(np.argwhere(np.abs(total - 1) > _ROUND)[0][-1])
        raise ValueError(
            f"graph: the shares of prosumer {who} (column {who}) do not add up to 1; give an "
            "adjacency of 0 and 1, consensus.metropolis or consensus.push_shares of one."
        )
    patterns = matrix.reshape(-1, agents, agents)
    if not np.all(np.diagonal(patterns, axis1=1, axis2=2) > 0):
        raise ValueError("graph: everyone must keep a share of its own; the diagonal has a 0.")
    ever = np.any(patterns > 0, axis=0)
    reach = ever
    for _ in range(agents.bit_length()):
        reach = reach @ reach
    if not reach.all():
        deaf, mute = np.argwhere(~reach)[0]
        raise ValueError(f"graph: prosumer {deaf} never hears of prosumer {mute}; connect them.")
    target, source = np.nonzero(ever & ~np.eye(agents, dtype=bool))
    return Graph(
        jnp.asarray(source, jnp.int32),
        jnp.asarray(target, jnp.int32),
        jnp.asarray(patterns[:, target, source]),
        jnp.asarray(np.diagonal(patterns, axis1=1, axis2=2)),
    )


def masses_of(graph: Graph, values: Any, depth: int) -> Masses:
    """Agents that begin with `values` (leading axis N) at weights of 1, nothing on its way."""
    weight = jnp.ones(graph.kept.shape[1:], graph.kept.dtype)
    links = graph.source.shape[0]
    nothing = jax.tree.map(lambda a: jnp.zeros((links, *a.shape[1:]), a.dtype), (weight, values))
    return Masses(weight, values, nothing, nothing, opened(nothing, depth))


def mixed(
    graph: Graph,
    masses: Masses,
    acts: Bool[Array, " N"],
    medium: Medium,
    now: Int[Array, ""],
    key: Array,
) -> tuple[Masses, Bool[Array, " M"]]:
    """The masses after round `now`, and which links spoke: those there is of whoever acts."""
    turn = now % graph.share.shape[0]
    share, kept = graph.share[turn], jnp.where(acts, graph.kept[turn], 1.0)
    speaks = acts[graph.source] & (share > 0)
    share = jnp.where(speaks, share, 0.0)
    own = masses.weight, masses.mass
    pushed = jax.tree.map(
        lambda old, a: old + along(share, old) * a[graph.source], masses.pushed, own
    )
    channel = told(masses.channel, pushed, speaks, medium, now, key)
    opens = acts[graph.target]
    taken = either(opens, channel.held, masses.taken)
    weight, mass = jax.tree.map(
        lambda a, new, old: (along(kept, a) * a).at[graph.target].add(new - old),
        own,
        taken,
        masses.taken,
    )
    return Masses(weight, mass, pushed, taken, channel), speaks


def estimates(masses: Masses) -> Any:
    """What each agent goes by: its mass over its weight."""
    return jax.tree.map(lambda a: a / along(masses.weight, a), masses.mass)


def _links(adjacency: Any) -> Float[np.ndarray, "... A A"]:
    links = np.array(adjacency, float)
    if links.ndim < 2 or links.shape[-1] != links.shape[-2]:
        raise ValueError(f"adjacency has shape {links.shape}; give a row and a column for each.")
    return np.where(np.eye(links.shape[-1], dtype=bool), 0.0, (links != 0).astype(float))
