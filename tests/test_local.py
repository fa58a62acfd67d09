"""The mechanism's two local projections against a convex solver, on random prosumers and lines."""

from dataclasses import replace
from typing import Any

import clarabel as clarabel_module
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgne.solvers.local import Choice, Prosumer, best_response, tolerance
from jaxgne.solvers.projection import Network, project_network
from jaxgne.solvers.setting import looseness

clarabel: Any = clarabel_module  # an extension module without type stubs
HOURS = 6
FIELDS = ("generation", "charge", "discharge", "energy", "imports", "exports", "curtailed")
SIZES = [(0, 0, 0), (1, 1, 3), (2, 2, 4), (0, 1, 0), (2, 0, 2)]  # generators, buffers, neighbors
respond = jax.jit(best_response)
project = jax.jit(project_network)


def choice(draw: Any, generators: int, buffers: int, neighbors: int) -> Choice:
    """A `Choice` whose entries are `draw(name, shape)`."""
    slots = {"generation": generators, "charge": buffers, "discharge": buffers, "energy": buffers}
    slots["trades"] = neighbors
    names = (*FIELDS, "trades")
    shapes = {name: (slots[name], HOURS) if name in slots else (HOURS,) for name in names}
    return Choice(**{name: jnp.asarray(draw(name, shapes[name])) for name in names})


def prosumer(seed: int, size: tuple[int, int, int]) -> tuple[Prosumer, Choice, Choice]:
    """A random prosumer that can meet its load, prices for it, and a center.

    The load and the drains are those of a random inner plan, so the local set is never empty;
    about a third of all decisions have an interval of width zero.
    """
    rng = np.random.default_rng(seed)
    _, buffers, neighbors = size
    retention = rng.uniform(0.9, 1.0, (buffers, HOURS))
    hours = np.linspace(0.5, 1.5, HOURS)  # of each step
    into, out = (rng.uniform(*ends, (buffers, 1)) * hours for ends in ((0.5, 1.0), (1.0, 1.5)))
    inner = choice(lambda name, shape: rng.uniform(0, 5, shape), *size)
    width = choice(lambda name, shape: rng.choice([0, 0.1, 4, 30], shape), *size)
    share = choice(lambda name, shape: rng.choice([0, 0.5, 1.0], shape), *size)
    lower = jax.tree.map(lambda u, w, s: u - s * w, inner, width, share)
    upper = jax.tree.map(lambda u, w, s: u + (1 - s) * w, inner, width, share)
    before = np.concatenate([np.ones((buffers, 1)), inner.energy[:, :-1]], axis=1)
    stored = into * inner.charge - out * inner.discharge
    supply = inner.generation.sum(0) + inner.discharge.sum(0) + inner.trades.sum(0) + inner.imports
    demand = inner.charge.sum(0) + inner.exports + inner.curtailed
    one = Prosumer(
        load=supply - demand,
        lower=lower,
        upper=upper,
        curvature=choice(lambda name, shape: rng.choice([0.0, 0.02], shape), *size),
        proximal=choice(
            lambda name, shape: np.full(shape, 3e-5 if name == "energy" else 0.03), *size
        ),
        toll=jnp.asarray(rng.uniform(0, 0.1, (neighbors, 1)) * hours),
        retention=jnp.asarray(retention),
        into=jnp.asarray(into),
        out=jnp.asarray(out),
        energy_start=jnp.ones(buffers),
        drain=jnp.asarray(retention * before + stored - inner.energy),
        power_scale=jnp.asarray(10.0),
        energy_scale=jnp.asarray(10.0),
    )
    priced = choice(lambda name, shape: rng.normal(0.1, 0.3, shape), *size)
    return one, priced, choice(lambda name, shape: rng.normal(0, 5, shape), *size)


def flat(u: Choice) -> np.ndarray:
    return np.concatenate([np.asarray(a).ravel() for a in jax.tree.leaves(u)])


def clarabel_response(one: Prosumer, priced: Choice, center: Choice) -> tuple[np.ndarray, float]:
    """The same program for Clarabel, its rows written out hour by hour; entries and cost."""
    place, count = {}, 0
    for name in (*FIELDS, "trades"):
        shape = getattr(one.lower, name).shape
        place[name] = count + np.arange(np.prod(shape, dtype=int)).reshape(shape)
        count += place[name].size
    trades = place["trades"].size
    rows, right = [], []
    for h in range(HOURS):
        row = np.zeros(count + trades)
        for name in FIELDS[:3]:
            row[place[name][:, h]] = 1.0 if name == "charge" else -1.0
        row[place["trades"][:, h]] = -1.0
        row[[place["exports"][h], place["curtailed"][h]]] = 1.0
        row[place["imports"][h]] = -1.0
        rows.append(row)
        right.append(-float(one.load[h]))
    for k in range(len(one.into)):
        for h in range(HOURS):
            row = np.zeros(count + trades)
            row[place["energy"][k, h]] = 1.0
            row[place["charge"][k, h]] = -one.into[k, h]
            row[place["discharge"][k, h]] = one.out[k, h]
            start = one.retention[k, 0] * one.energy_start[k] if h == 0 else 0.0
            if h > 0:
                row[place["energy"][k, h - 1]] = -one.retention[k, h]
            rows.append(row)
            right.append(float(start - one.drain[k, h]))
    proximal, middle, price = flat(one.proximal), flat(center), flat(priced)
    toll = np.asarray(one.toll).ravel()
    quadratic = np.concatenate([flat(one.curvature) + proximal, np.zeros(trades)])
    linear = np.concatenate([price - proximal * middle, toll])
    box = np.eye(count, count + trades)
    side = np.hstack([np.eye(count)[count - trades :], -np.eye(trades)])
    other = np.hstack([-np.eye(count)[count - trades :], -np.eye(trades)])
    matrix = np.vstack([*rows, box, -box, side, other])
    bound = np.concatenate([right, flat(one.upper), -flat(one.lower), np.zeros(2 * trades)])
    options = clarabel.DefaultSettings()
    options.verbose = False
    options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = 1e-11
    cones = [clarabel.ZeroConeT(len(rows)), clarabel.NonnegativeConeT(len(bound) - len(rows))]
    found = clarabel.DefaultSolver(
        sparse.csc_matrix(np.diag(quadratic)),
        linear,
        sparse.csc_matrix(matrix),
        bound,
        cones,
        options,
    ).solve()
    constant = float(np.sum(proximal * middle**2) / 2)
    return np.asarray(found.x)[:count], found.obj_val + constant


def cost(one: Prosumer, priced: Choice, center: Choice, u: Choice) -> float:
    v, c = flat(u), flat(center)
    smooth = (
        flat(priced) * v + flat(one.curvature) / 2 * v**2 + flat(one.proximal) / 2 * (v - c) ** 2
    )
    return float(np.sum(smooth) + np.sum(one.toll * np.abs(u.trades)))


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_best_response_is_the_minimizer(size: tuple[int, int, int], seed: int):
    """From zero multipliers: rows to 1e-10 of the scale, bounds exactly, cost as Clarabel's."""
    one, priced, center = prosumer(seed, size)
    details = respond(one, priced, center, jnp.zeros((1 + size[1], HOURS)))
    u = details.answer
    assert float(details.error) < 1e-10
    assert np.all(flat(u) >= flat(one.lower))
    assert np.all(flat(u) <= flat(one.upper))
    expected, best = clarabel_response(one, priced, center)
    assert cost(one, priced, center, u) == pytest.approx(best, abs=1e-7 * (1 + abs(best)))
    assert np.allclose(flat(u), expected, atol=2e-2 if size[1] else 1e-3)


@pytest.mark.parametrize(("size", "seed"), [((0, 1, 0), 10_423), ((1, 1, 3), 10_521)])
def test_an_hour_s_value_is_found_beyond_the_reach(size: tuple[int, int, int], seed: int):
    """Where water values go far, an hour's own is bracketed by one that is farther than a step may.

    Of 1,400 random programs each these two ended with such an hour unbalanced by kilowatts.
    """
    one, priced, center = prosumer(seed, size)
    details = respond(one, priced, center, jnp.zeros((1 + size[1], HOURS)))
    assert float(details.error) < 1e-10
    _, best = clarabel_response(one, priced, center)
    assert cost(one, priced, center, details.answer) == pytest.approx(best, rel=1e-6)


def test_stored_energy_is_held_so_firmly_that_rounding_of_its_price_is_small():
    """In float32, at omega = 0.03: programs that reach their tolerance, 64 roundings of the scale.

    With the weight of float64, 0.001 omega, more than half of 40 did not.
    """

    def narrow(a: Any) -> Any:
        return jnp.asarray(a, jnp.float32)

    weight = 0.03 * looseness(jnp.float32)
    for seed in range(20):
        one, priced, center = jax.tree.map(narrow, prosumer(seed, (0, 1, 0)))
        firm = jnp.full_like(one.proximal.energy, weight)
        one = eqx.tree_at(lambda o: o.proximal.energy, one, firm)
        found = respond(one, priced, center, jnp.zeros((2, HOURS), jnp.float32))
        assert float(found.error) <= tolerance(jnp.float32)
    assert looseness(jnp.float64) == 1e-3


def test_no_devices_no_neighbors_imports_the_load():
    """Load 3 kW and only imports free: 3 kW, whatever the price; pi undoes price and prox.

    Stationarity: 0.2 + 0.03 (3 - 0) - Ts pi = 0, so Ts pi = 0.29.
    """
    one, priced, _ = prosumer(0, (0, 0, 0))
    nothing = jax.tree.map(jnp.zeros_like, one.lower)
    flexible = eqx.tree_at(lambda u: u.imports, nothing, jnp.full(HOURS, jnp.inf))
    one = replace(one, load=jnp.full(HOURS, 3.0), lower=nothing, upper=flexible, curvature=nothing)
    priced = eqx.tree_at(lambda u: u.imports, nothing, jnp.full(HOURS, 0.2))
    found = respond(one, priced, nothing, jnp.zeros((1, HOURS)))
    assert np.allclose(found.answer.imports, 3.0, atol=1e-10)
    assert np.allclose(found.duals[0], 0.29, atol=1e-10)


def test_nothing_to_decide_keeps_the_multiplier():
    """All intervals of width zero that add up: no residual, and pi stays where it was."""
    one, priced, center = prosumer(0, (1, 1, 3))
    plan = respond(one, priced, center, jnp.zeros((2, HOURS))).answer
    load = _load_of(plan)
    one = replace(one, load=load, lower=plan, upper=plan)
    start = jnp.full((2, HOURS), 0.17)
    found = respond(one, priced, center, start)
    assert float(found.error) < 1e-10
    assert np.allclose(found.duals, start)


def _load_of(plan: Choice) -> jax.Array:
    """The load that a plan serves, kW."""
    supply = plan.generation.sum(0) + plan.discharge.sum(0) + plan.trades.sum(0) + plan.imports
    return supply - plan.charge.sum(0) - plan.exports - plan.curtailed


def test_empty_local_set_ends_finite_and_says_so():
    """1e6 kW of load against bounded decisions: no answer, but no hang and no NaN either."""
    one, priced, center = prosumer(0, (1, 1, 3))
    found = respond(replace(one, load=one.load + 1e6), priced, center, jnp.zeros((2, HOURS)))
    assert float(found.error) > 1.0
    assert np.all(np.isfinite(found.duals))


def test_warm_start_repeats_itself():
    """Started at its own multipliers the answer does not move, to rounding."""
    one, priced, center = prosumer(3, (2, 2, 4))
    first = respond(one, priced, center, jnp.zeros((3, HOURS)))
    again = respond(one, priced, center, first.duals)
    assert np.allclose(flat(again.answer), flat(first.answer), atol=1e-9)


def test_all_prosumers_at_once_equal_a_loop():
    """`vmap` over five prosumers gives what each gets alone."""
    many = [prosumer(seed, (1, 1, 3)) for seed in range(5)]
    start = jnp.zeros((2, HOURS))
    stacked = jax.tree.map(lambda *a: jnp.stack([jnp.asarray(v) for v in a]), *many)
    together = jax.jit(jax.vmap(best_response, in_axes=(0, 0, 0, None)))(*stacked, start)
    for index, one in enumerate(many):
        alone = flat(respond(*one, start).answer)
        mine = flat(jax.tree.map(lambda a, i=index: a[i], together.answer))
        assert np.allclose(mine, alone, atol=1e-9)


def network(seed: int, lines: int = 5) -> tuple[Network, np.ndarray]:
    """A random operator's set on a path of buses, and a center outside it.

    Rows: voltage and angle drops, as the paper's grid has them. The set contains the origin.
    """
    rng = np.random.default_rng(seed)
    buses = lines + 1
    r, x = np.diag(rng.uniform(1e-3, 1e-2, lines)), np.diag(rng.uniform(1e-3, 1e-2, lines))
    drop = np.eye(lines, buses) - np.eye(lines, buses, 1)
    apart = np.zeros_like(drop)
    matrix = np.block([[-r, -x, drop, apart], [-x, r, apart, drop]])
    offset = rng.uniform(-1e-3, 1e-3, 2 * lines)
    boxes = rng.choice([0.02, 0.1, 10.0], 2 * buses)
    boxes[[0, buses]] = 0.0
    upper = np.concatenate([np.full(2 * lines, np.inf), boxes])
    proximal = np.concatenate([np.ones(2 * lines), np.full(2 * buses, 1e3)])
    free = np.where(upper > 0, 1 / proximal, 0.0)
    one = Network(
        matrix=jnp.asarray(matrix),
        offset=jnp.asarray(offset),
        lower=jnp.asarray(-upper),
        upper=jnp.asarray(upper),
        rating=jnp.asarray(rng.choice([3.0, 8.0, np.inf], lines)),
        proximal=jnp.asarray(proximal),
        preconditioner=jnp.asarray(np.linalg.inv((matrix * free) @ matrix.T)),
        row_scale=jnp.ones(2 * lines),
    )
    center = np.concatenate([rng.normal(0, 8, 2 * lines), rng.normal(0, 0.05, 2 * buses)])
    return one, center


def clarabel_projection(one: Network, center: np.ndarray) -> np.ndarray:
    """The same projection as a second-order cone program."""
    size, lines = center.size, one.rating.size
    weight = np.asarray(one.proximal)
    boxed = np.flatnonzero(np.isfinite(one.upper))
    box = np.eye(size)[boxed]
    parts = [np.asarray(one.matrix), box, -box]
    bounds = [np.asarray(a) for a in (one.offset, one.upper[boxed], -one.lower[boxed])]
    cones: list[Any] = [clarabel.ZeroConeT(2 * lines), clarabel.NonnegativeConeT(2 * boxed.size)]
    for line in np.flatnonzero(np.isfinite(one.rating)):
        disc = np.zeros((3, size))
        disc[1, line] = disc[2, lines + line] = -1.0
        parts.append(disc)
        bounds.append(np.array([one.rating[line], 0.0, 0.0]))
        cones.append(clarabel.SecondOrderConeT(3))
    options = clarabel.DefaultSettings()
    options.verbose = False
    options.tol_gap_abs = options.tol_gap_rel = options.tol_feas = 1e-11
    found = clarabel.DefaultSolver(
        sparse.csc_matrix(np.diag(weight)),
        -weight * center,
        sparse.csc_matrix(np.vstack(parts)),
        np.concatenate(bounds),
        cones,
        options,
    ).solve()
    return np.asarray(found.x)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_network_projection_is_the_closest_point(seed: int):
    """Voltage, angle and rating limits binding: rows to 1e-10, weighted distance as Clarabel's."""
    one, center = network(seed)
    found = project(one, jnp.asarray(center), jnp.zeros(one.offset.size))
    assert float(found.error) < 1e-10
    expected = clarabel_projection(one, center)
    assert np.allclose(found.answer, expected, atol=1e-4)


def test_unbounded_network_projects_in_one_step():
    """Where nothing binds, the preconditioner solves the rows at once."""
    one, center = network(0)
    wide = jnp.where(one.upper > 0, jnp.inf, 0.0)
    one = replace(one, lower=-wide, upper=wide, rating=jnp.full_like(one.rating, jnp.inf))
    weight = np.where(wide > 0, 1 / one.proximal, 0.0)
    start = np.where(wide > 0, center, 0.0)
    duals = np.linalg.solve((one.matrix * weight) @ one.matrix.T, one.matrix @ start - one.offset)
    found = project(one, jnp.asarray(center), jnp.zeros(one.offset.size))
    assert np.allclose(found.duals, duals, rtol=1e-9)
    assert np.allclose(found.answer, start - weight * (one.matrix.T @ duals), atol=1e-10)
