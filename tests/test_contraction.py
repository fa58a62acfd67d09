"""The order in which a forest is eliminated: whole, in wide steps, and few of them."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import model
from jaxgne.solvers.contraction import contract
from jaxgne.solvers.network import network

COUNT = 600
SHAPES: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "chain": lambda each, rng: each - 1,
    "comb": lambda each, rng: np.where(each % 2, each - 1, each - 2),
    "star": lambda each, rng: 0 * each,
    "pairs": lambda each, rng: (each - 1) // 2,
    "bush": lambda each, rng: rng.integers(0, each),
    "deep": lambda each, rng: np.maximum(each - 1 - rng.integers(0, 3, each.size), 0),
}
order = jax.jit(contract)


@pytest.mark.parametrize("shape", SHAPES)
def test_nodes_go_at_leaves_or_between_two(shape: str):
    """Each goes once, with the parent and the only child that it has then, neither in its step."""
    rng = np.random.default_rng(0)
    parent = np.concatenate([[COUNT], SHAPES[shape](np.arange(1, COUNT), rng)])
    parent[COUNT // 2] = COUNT  # a forest
    found = order(jnp.asarray(parent, jnp.int32))
    assert int(found.steps) <= 24 + 3 * np.log2(COUNT)
    ends = np.asarray(found.first)[: int(found.steps) + 1]
    assert ends[0] == 0 and ends[-1] == COUNT
    node, near = np.asarray(found.ends)[:-1, 0], np.asarray(found.ends)[:-1, 1:]
    assert np.array_equal(np.sort(node), np.arange(COUNT))
    for begin, end in pairwise(ends):
        here = node[begin:end]
        assert not np.isin(near[begin:end], here).any()
        for x, (above, below) in zip(here, near[begin:end], strict=True):
            assert parent[x] == above
            children = np.flatnonzero(parent == x)
            assert np.array_equal(children, [] if below == COUNT else [below])
            parent[children] = above
        parent[here] = -1


def test_circles_end():
    """Parents that go round in a circle, which are no forest, hold nobody up."""
    assert order(jnp.asarray([1, 2, 0, 2], jnp.int32)).steps > 0


def test_a_batch_of_feeders():
    """Feeders of other shapes in one batch are inverted as each alone."""
    buses, rng = 70, np.random.default_rng(0)
    each = np.arange(1, buses)
    people = jg.Prosumers(rng.integers(0, buses, 5), np.ones((5, 1)), import_max=9.0)

    def feeder(shape: str) -> jg.Market:
        drop = 10 ** rng.uniform(-5, -3, (2, buses - 1))
        grid = jg.Grid(np.ones((buses, 1)), SHAPES[shape](each, rng), each, *drop)
        return jg.Market(people, grid, jg.Tariff(0.01, hours=1))

    markets = [feeder(shape) for shape in ("chain", "star", "bush")]

    def solve(market: jg.Market) -> jg.Rows:
        found = network(market, jnp.ones((2, buses)), jnp.zeros(buses, bool))
        rows = jax.tree.map(jnp.ones_like, model.rows_like(market))
        return found(market, replace(rows, voltage=0.01 * rows.voltage))

    together = jax.jit(jax.vmap(solve))(jax.tree.map(lambda *a: jnp.stack(a), *markets))
    alone = jax.jit(solve)
    for at, market in enumerate(markets):
        one = alone(market)
        for name in ("bus", "bus_reactive", "voltage"):
            wanted = getattr(one, name)
            assert np.allclose(getattr(together, name)[at], wanted, rtol=1e-9, atol=1e-12)
            assert np.abs(wanted).max() > 1e-3
