"""NumPy runs what JAX compiles: the same steps, words and digits, and nothing else changes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import choosing, model, runner
from jaxgne.arrays import cast
from jaxgne.record import Record, changed
from jaxgne.runner import HostArray, by_numpy, on_host, to_device, to_host
from tests.infeasible import KINDS, SMALL, infeasible_market
from tests.markets import GRIDS, random_market


def both(market: jg.Market, **options) -> tuple[jg.Clearing, jg.Clearing]:
    """A market cleared by either runner."""
    found = [
        jg.clear(market, jg.InteriorPoint(), runner=runner, throw=False, **options)
        for runner in ("numpy", "jax")
    ]
    assert [one.runner for one in found] == ["numpy", "jax"]
    return found[0], found[1]


def check_same(host: jg.Clearing, compiled: jg.Clearing) -> None:
    """Steps, status and every kind of array; costs and what is unique to 1e-9."""
    assert int(host.steps) == int(compiled.steps)
    assert bool(eqx.tree_equal(host.status, compiled.status))
    assert jax.tree.structure(host) == jax.tree.structure(compiled)
    for one, other in zip(jax.tree.leaves(host), jax.tree.leaves(compiled), strict=True):
        assert (one.shape, one.dtype, type(one)) == (other.shape, other.dtype, type(other))
    if not host.ok:
        return
    scales = compiled.certificate.scales
    assert np.allclose(host.aggregate, compiled.aggregate, atol=1e-9 * float(scales.total))
    assert abs(float(host.costs.sum() - compiled.costs.sum())) <= 1e-9 * float(scales.bill)
    assert np.allclose(host.plan.imports, compiled.plan.imports, atol=1e-7 * float(scales.power))
    error = float(compiled.certificate.error)
    assert float(host.certificate.error) == pytest.approx(error, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    "grid",
    [
        pytest.param(g, marks=pytest.mark.slow if g in ("paper", "copperplate") else ())
        for g in GRIDS
    ],
)
def test_either_runner_clears_alike(grid):
    """Random markets of one shape, so that JAX compiles once; they may be infeasible."""
    ended = set()
    for seed in range(6):
        market = random_market(seed, shape=SMALL, grid=grid)
        host, compiled = both(market)
        check_same(host, compiled)
        ended.add(jg.status.status_name(host.status))
    for kind in KINDS:
        host, compiled = both(infeasible_market(kind, 1, grid))
        check_same(host, compiled)
        ended.add(jg.status.status_name(host.status))
    assert ended == {"cleared", "infeasible"}
    market = random_market(0, shape=SMALL, grid=grid)
    host, compiled = both(market, max_steps=3)
    check_same(host, compiled)
    check_same(*both(market, start=host))


def test_numpy_comes_first_and_jax_when_it_pays(monkeypatch):
    """By the seconds that a shape has taken; who names a runner, or a solver, gets it."""
    monkeypatch.setattr(choosing, "_spent", choosing.defaultdict(float))
    monkeypatch.setattr(choosing, "_LOADING", 1.0)
    monkeypatch.setattr(choosing, "_PATIENCE", 60.0)
    market = random_market(3, shape=SMALL, grid="copperplate")
    assert jg.clear(market).runner == "numpy"
    choosing.note(market, None, "numpy", choosing._PATIENCE)
    assert jg.clear(market).runner == "jax"
    assert jg.clear(market, runner="numpy").runner == "numpy"
    choosing._spent.clear()  # as in another process, which finds the programs on disk
    assert jg.clear(market).runner == "numpy"
    choosing.note(market, None, "numpy", choosing._LOADING)
    assert jg.clear(market).runner == "jax"
    other = jg.clear(market, jg.PrimalDual(), throw=False)  # its programs are not the default's
    assert other.runner == "jax"
    choosing._spent.pop(choosing._shape(market, jg.InteriorPoint()))
    assert jg.clear(market).runner == "numpy"
    other = random_market(3, grid="lindistflow")
    with pytest.raises(ValueError, match=r"runs InteriorPoint\(\) only, not PrimalDual"):
        jg.clear(other, jg.PrimalDual(), runner="numpy")
    with pytest.raises(ValueError, match='give "numpy", "jax" or None'):
        jg.clear(other, runner="cupy")  # type: ignore[arg-type]
    narrow = jax.tree.map(lambda a: a.astype(np.float32) if a.dtype == float else a, other)
    with pytest.raises(ValueError, match="float64"):
        jg.clear(narrow, runner="numpy")
    choosing.note(narrow, None, "jax", 1.0)  # whose programs do not clear the market in float64
    assert jg.clear(other).runner == "numpy"


def test_what_users_call_is_run_by_jax():
    """A callback of progress gets JAX's arrays and may compile; threads do not see each other."""
    market, seen = random_market(3, shape=SMALL, grid="lindistflow"), []

    def look(progress):
        assert not on_host()
        seen.append(jax.jit(jg.costs)(market, model.zeros(market)))

    clearing = jg.clear(market, runner="numpy", progress=look)
    assert seen and all(isinstance(costs, jax.Array) for costs in seen)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(clearing))
    with by_numpy(), ThreadPoolExecutor(1) as pool:
        assert on_host() and not pool.submit(on_host).result()
        traced = jax.jit(lambda m: jg.model.rows(m, model.zeros(m)))(market)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(traced))


def test_threads_clear_alike():
    """Four at once, as one after the other."""
    markets = [random_market(seed, shape=SMALL, grid="lindistflow") for seed in range(4)]

    def clear(market):
        return jg.clear(market, runner="numpy", throw=False)

    with ThreadPoolExecutor(4) as pool:
        at_once = list(pool.map(clear, markets))
    assert all(eqx.tree_equal(a, clear(m)) for a, m in zip(at_once, markets, strict=True))


INDICES = {
    "rows": lambda rng, n, m: rng.integers(0, n + 2, 7),  # some out of range, some twice
    "row and column": lambda rng, n, m: (rng.integers(0, n, 5), rng.integers(0, m, 5)),
    "column": lambda rng, n, m: (slice(None), rng.integers(0, m, 5)),
    "one row": lambda rng, n, m: int(rng.integers(0, n)),
    "last column": lambda rng, n, m: (slice(None), -1),
    "dots": lambda rng, n, m: (..., np.arange(min(n, m))),
}


@given(st.sampled_from(sorted(INDICES)), st.integers(1, 6), st.integers(1, 6), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_updates_are_jaxs(kind: str, n: int, m: int, seed: int):
    """`.at[...]` of a host array against JAX's own, repeated indices and ones out of range too."""
    rng = np.random.default_rng(seed)
    array, index = rng.normal(size=(n, m)), INDICES[kind](rng, n, m)
    ours, theirs = array.view(HostArray), jnp.asarray(array)
    shape = theirs[index].shape if kind != "rows" else (7, m)
    values = rng.normal(size=shape)
    operations = ["add", "subtract", "max", "min"]
    if kind in ("one row", "last column", "dots"):  # set of a repeated index is anything in JAX
        operations.append("set")
    for name in operations:
        found = getattr(ours.at[index], name)(values)
        right = getattr(theirs.at[index], name)(values)
        assert isinstance(found, HostArray)
        np.testing.assert_allclose(found, right, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(ours, array)  # never in place
    ours += 1.0
    np.testing.assert_array_equal(array + 1.0, ours)
    if kind == "rows":
        found = array.view(HostArray).at[index].get(mode="fill", fill_value=0)
        np.testing.assert_array_equal(found, theirs.at[index].get(mode="fill", fill_value=0))


def test_mathematics_is_equal_by_either():
    """Every function of the model that solvers and the judge are made of."""
    market = random_market(3, shape=SMALL, grid="paper")
    rng = np.random.default_rng(0)
    plan, prices = jax.tree.map(
        lambda a: jnp.asarray(rng.normal(size=a.shape)),
        (model.zeros(market), model.rows_like(market)),
    )
    step = jax.tree.map(lambda a: jnp.full_like(a, 0.3), plan)

    def values(market, plan, prices, step):
        return (
            model.rows(market, plan), model.moved(market, plan), model.pull(market, prices),
            model.prox(market, plan, step), model.pseudo_gradient(market, plan),
            model.boxes(market), model.limits(market), model.costs(market, plan),
            jg.optimality.residuals(market, plan, prices),
            jg.feasibility.infeasibility_proof(market, prices), jg.acflow.check(market, plan),
        )  # fmt: skip

    right = jax.jit(values)(market, plan, prices, step)
    with by_numpy():
        found = values(*to_host((market, plan, prices, step)))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-11)


def test_rows_and_their_transpose_are_what_jax_derives():
    """`moved` is the derivative of `rows`, `pull` its transpose with hours as weights."""
    for grid in GRIDS:
        market = random_market(5, shape=SMALL, grid=grid)
        rng, zero = np.random.default_rng(1), model.zeros(market)
        plan, prices = jax.tree.map(
            lambda a, rng=rng: jnp.asarray(rng.normal(size=a.shape)),
            (zero, model.rows_like(market)),
        )
        _, slope = jax.jvp(lambda u: model.rows(market, u), (zero,), (plan,))  # noqa: B023
        assert_close(model.moved(market, plan), slope)
        weights = dict.fromkeys(model.families(prices), market.hour_length) | {"energy": 1.0}
        weighted = jg.Rows(**{name: w * getattr(prices, name) for name, w in weights.items()})
        _, transpose = jax.vjp(lambda u: model.rows(market, u), zero)  # noqa: B023
        assert_close(model.pull(market, prices), transpose(weighted)[0])


def assert_close(one, other) -> None:
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_what_a_trace_computes_is_not_remembered():
    """Of a market that outlives its traces, as one that a function closes over."""
    market = random_market(3)

    def bend() -> jg.Plan:
        return model.curvature(market, model.zeros(market))

    def slope(k: int):
        return jax.grad(lambda x: jnp.sum(bend().imports) * x * k)

    found = [float(jax.jit(slope(k))(1.0)) for k in range(30)]
    want = float(jnp.sum(bend().imports))
    np.testing.assert_allclose(found, want * np.arange(30))
    with jax.checking_leaks():
        jax.jit(slope(31))(1.0)


def test_cast_of_what_needs_none_is_the_same_record():
    market = random_market(3)
    assert cast(market, jnp.float64) is market
    narrow = cast(market, jnp.float32)
    assert narrow is not market and narrow.prosumers.load.dtype == jnp.float32


def test_records_are_trees_that_do_not_change():
    market = random_market(3)
    with pytest.raises(AttributeError, match="cannot assign to field 'slope'"):
        market.tariff.slope = 0.0  # type: ignore[assignment]
    copy = jax.tree.map(lambda a: a, market)
    assert copy == market and copy is not market
    assert changed(market, clock=None) == market
    assert market != eqx.tree_at(lambda m: m.tariff.slope, market, 2 + market.tariff.slope)
    with pytest.raises(TypeError, match="unhashable"):
        hash(market)
    (path, _), *_ = jax.tree_util.tree_flatten_with_path(market)[0]
    assert jax.tree_util.keystr(path) == ".prosumers.bus"

    class Pair(Record):
        first: float
        second: float = 2.0
        words: str = eqx.field(static=True, default="")

    pair = replace(Pair(1.0, words="a"), second=3.0)
    assert jax.tree.leaves(pair) == [1.0, 3.0] and "words='a'" in repr(pair)
    assert jax.tree.map(lambda a: 2 * a, pair) == Pair(2.0, 6.0, "a")
    assert runner.to_device({"b": np.ones(1), "a": np.ones(1)}).keys() == {"b": 0, "a": 0}.keys()
    assert list(to_device({"b": 1, "a": 2})) == ["b", "a"]
