"""All that computes is lowered for CUDA, on a machine without it: nothing waits for a host."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.core import jaxprs_in_params
from jax._src.source_info_util import user_frames
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec

import jaxgne as jg
from jaxgne import lanes, scenarios
from jaxgne.market import cast
from jaxgne.placement import TABLES
from jaxgne.programs import _FRUGAL
from jaxgne.sensitivity import implicit
from jaxgne.solve import _steps, begin
from tests.agreement import SOLVERS
from tests.branched import SHARE, SPLIT, drawn
from tests.curved import with_curves
from tests.markets import Shape, random_caps, random_market

GRIDS = ("lindistflow", "paper", "paper with reactive power", "copperplate")
SHAPE = Shape(prosumers=7, hours=3, buses=5, generators=11, buffers=13, pairs=17)
ROWS = {SHAPE.prosumers, SHAPE.generators, SHAPE.buffers, SHAPE.pairs}  # no other table has as many

# Custom calls of CUDA's libraries, and words to the partitioner; LAPACK's are `lapack_*`.
OF_CUDA = ("cusolver_", "cublas_", "cu_", "cuda_")
OF_SHARDING = ("Sharding", "SPMDFullToShardShape", "SPMDShardToFullShape")

# Where a market in float32 has hourly arrays in float64 with a row for each prosumer, device or
# pair. What there are few of is in float64 anyway: grid, tariff, totals.
MEANT = {
    "residuals": "the yardstick: rounding is to be the answer's own",
    "_proof": "a proof of infeasibility holds in float64 or not at all",
    "finish": "the certificate of the answer",
    "answered": "what a certificate says beyond the error",
    "differentiable": "the answer's own sums",
}
# The same for what steps of the primal-dual method make; none of it has rows of pairs.
MEANT_OF_STEPS = {
    "own_gradient": "differences of prices, of which those of grid and tariff are in float64",
    "pull": "the same, rounded once it is a slope",
    "at_buses": "sums over many at a bus are the network's rows, which float32 is too coarse for",
    "_rows": "the same",
    "_iterate": "the same, rounded to each column's dtype",
    "metric": "step sizes: made of the network's, at the start and where a bus is held anew",
    "steps": "the same, at restarts",
    "squares": "how far a restart has come: sums over everybody",
    "squared": "how far a look has: by bends, of which the tariff's are in float64",
    "_along": "the same, by prices of the grid",
    "_balance": "the same",
}


def market(grid: Any = "lindistflow", dtype: Any = jnp.float64) -> jg.Market:
    return cast(random_market(3, grid=grid, shape=SHAPE), dtype)


def lowered(function: Callable[..., Any], *given: Any) -> tuple[str, Any]:
    """The program for CUDA of a function of trees with arrays, as text; and its jaxpr."""
    arrays, rest = eqx.partition(given, lambda a: eqx.is_array(a) or _is_shape(a))

    def program(arrays: Any) -> Any:
        return eqx.filter(function(*eqx.combine(arrays, rest, is_leaf=_is_shape)), eqx.is_array)

    jitted = jax.jit(program)
    exported = jax.export.export(jitted, platforms=("cuda",))(arrays)
    return exported.mlir_module(), jitted.trace(arrays).jaxpr.jaxpr


def _is_shape(a: Any) -> bool:
    return isinstance(a, jax.ShapeDtypeStruct)


def calls(text: str) -> set[str]:
    """What a program calls that is no operation of XLA."""
    assert not re.search(r"stablehlo\.(send|recv|infeed|outfeed)", text), "it waits for the host"
    return set(re.findall(r"custom_call @([\w.$]+)", text))


def check(text: str) -> None:
    """Nothing of a host, and nothing of a CPU."""
    strange = {name for name in calls(text) if not name.startswith(OF_CUDA + OF_SHARDING)}
    assert not strange, f"not of CUDA: {strange}"


def cleared(solver: Any, **options: Any) -> Callable[[jg.Market], jg.Clearing]:
    return lambda market: jg.clear(market, solver, **options)


def wide(jaxpr: Any, within: tuple[str, ...] = ()) -> Iterator[tuple[tuple[int, ...], set[str]]]:
    """Shapes of arrays in float64 that are no scalars, and the functions that made them."""
    for equation in jaxpr.eqns:
        frames = user_frames(equation.source_info.traceback)
        names = tuple(re.sub(r"\.?<.*", "", f.function_name) for f in frames)
        here = within + tuple(name.rpartition(".")[2] for name in names)
        for value in equation.outvars:
            if getattr(value.aval, "dtype", None) == jnp.float64 and value.aval.size > 1:
                yield value.aval.shape, set(here)
        for inner in jaxprs_in_params(equation.params):
            yield from wide(inner, here)


def unmeant(jaxpr: Any, meant: dict[str, str]) -> set[tuple[tuple[int, ...], frozenset[str]]]:
    """Hourly ones with a row for each prosumer, device or pair that no function of `meant` made."""
    return {
        (shape, frozenset(made))
        for shape, made in wide(jaxpr)
        if ROWS & set(shape) and SHAPE.hours in shape and not made & set(meant)
    }


def test_what_waits_for_a_host_would_be_seen():
    """The tests below can fail: a callback is no program for CUDA, LAPACK's calls are strange."""
    square = jax.ShapeDtypeStruct((2, 2), jnp.float64)

    def told(a: Any) -> Any:
        jax.debug.callback(print, a)
        return a

    with pytest.raises(ValueError, match="different from the lowering platform"):
        lowered(told, square)
    on_cpu = jax.export.export(jax.jit(jnp.linalg.cholesky), platforms=("cpu",))(square)
    with pytest.raises(AssertionError, match="lapack_dpotrf"):
        check(on_cpu.mlir_module())
    text, _ = lowered(jnp.linalg.cholesky, square)
    assert calls(text) == {"cusolver_potrf_ffi"}
    check(text)


@pytest.mark.parametrize("name", SOLVERS)
def test_clear(name: str):
    """A market in float32 is cleared in it, but where float64 is meant."""
    text, jaxpr = lowered(cleared(SOLVERS[name][0]), market(dtype=jnp.float32))
    check(text)
    if name != "interior point":  # its systems are too ill-conditioned: all of it is in float64
        assert not unmeant(jaxpr, MEANT | (MEANT_OF_STEPS if name == "primal-dual" else {}))
    assert unmeant(jaxpr, {}), "the yardstick is in float64"


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_clear_on_grids(name: str, grid: str):
    check(lowered(cleared(SOLVERS[name][0]), market(grid))[0])


def test_steps_have_no_pairs_in_float64():
    """They are what a step moves most of; a state has no prosumers in float64 either."""
    narrow, solver = market(dtype=jnp.float32), jg.PrimalDual()
    with jax.enable_x64(True):
        given = lanes.ready(narrow, solver, None)
        start = eqx.filter_eval_shape(lambda m, s, *at: s.init(m, *at), *given)
        kept = [a.shape for a in jax.tree.leaves(start) if a.dtype == jnp.float64 and a.size > 1]
        _, jaxpr = lowered(lambda m, s, at: s.step(m, at), *given[:2], start)
    assert kept and not [shape for shape in kept if ROWS & set(shape) and SHAPE.hours in shape]
    assert not [shape for shape, _ in wide(jaxpr) if SHAPE.pairs in shape]
    assert not unmeant(jaxpr, MEANT_OF_STEPS)


def test_a_loop_of_steps_reads_nothing_of_pairs_that_it_can_make():
    """Nor tolls by hour: XLA would make both once, ahead of the loop, to be read in each step."""
    given = lanes.ready(market(), jg.PrimalDual(), None)
    start = eqx.filter_eval_shape(lambda m, s, *at: s.init(m, *at), *given)
    sizes = start.steps.plan.trades, start.steps.plan.imports, start.steps.balance
    assert {a.dtype for a in sizes} == {jnp.dtype("float32")}
    solver = given[1]

    def loop(market: jg.Market, state: Any) -> Any:
        return jax.lax.fori_loop(0, 9, lambda _, state: solver.step(market, state), state).travel

    text = jax.jit(loop).lower(given[0], start).compile().as_text()
    state = max(re.findall(r"= \((.*)\) while\(", text or ""), key=len)
    kept = Counter(re.findall(rf"(f\d\d)\[{SHAPE.pairs},{SHAPE.hours}\]", state))
    assert kept == {"f64": 1, "f32": 2}, "anchor; and travel and steps"
    body = _computation(text or "", re.findall(r"while\(.*body=%([\w.-]+)", text or "")[-1])
    made = re.findall(rf"= (f\d\d)\[{SHAPE.pairs},(?:1,)?{SHAPE.hours}\]\S* fusion\(", body)
    assert made == ["f32"], "of pairs a step makes their travel, and that once"


def _computation(text: str, name: str) -> str:
    """A computation of a compiled program, as text."""
    start = text.index(f"\n%{name} ")
    return text[start : text.index("\n}\n", start)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_solve_takes_few_numbers_beside_its_state(dtype: str):
    """In float64 whatever the market is in: what looks need is not kept from one to the next."""
    one = cast(jg.synthetic(500, degree=8.0, buses=5, stress=True, seed=0), dtype)
    asked = lanes.ready(one, jg.PrimalDual(), None)
    start = eqx.filter_eval_shape(begin.fn, *asked)
    given = (*asked[:2], start, jnp.asarray(1e-6), jnp.asarray(80), jnp.asarray(80))
    arrays, rest = eqx.partition(given, lambda a: eqx.is_array(a) or _is_shape(a))

    def run(arrays: Any) -> Any:
        return eqx.filter(_steps.fn(*eqx.combine(arrays, rest, is_leaf=_is_shape)), eqx.is_array)

    made = jax.jit(run).lower(arrays).compile(compiler_options=_FRUGAL)
    used: Any = made.memory_analysis()
    assert used.temp_size_in_bytes < 75 * 8 * one.prosumers.load.size  # 120 and 129 once


def test_a_step_asks_no_host_how_often_a_loop_turns(monkeypatch: pytest.MonkeyPatch):
    """A GPU does at each turn of one whose length is no constant, as in climbs of a tree."""
    deep = jg.synthetic(3, hours=2, buses=100, seed=0)
    loops = {}
    for device in ("cpu", "gpu"):
        monkeypatch.setattr(jax, "default_backend", lambda device=device: device)
        market, solver, plan, prices = lanes.ready(deep, jg.PrimalDual(), None)
        start = eqx.filter_eval_shape(solver.init, market, plan, prices)
        text, _ = lowered(lambda m, s, at: s.step(m, at), market, solver, start)
        loops[device] = text.count("stablehlo.while")
    assert loops["cpu"] > 0 and loops["gpu"] == 0


@pytest.mark.parametrize("enabled", [True, False], ids=["x64", "x32"])
@pytest.mark.parametrize("name", SOLVERS)
def test_batches(name: str, enabled: bool):
    """What `clear_many` runs on a GPU: scenarios that step together."""
    markets = scenarios.perturb(market(), jax.random.key(0), 4, load=0.05)
    with jax.enable_x64(enabled):
        text, _ = lowered(together(SOLVERS[name][0], None), cast(markets, jnp.float32))
    check(text)


def together(solver: Any, mesh: Any) -> Callable[[jg.Market], jg.Clearing]:
    """`lanes.together` in one program, where none of the scenarios is in doubt."""

    def run(markets: jg.Market) -> jg.Clearing:
        plans, prices = lanes._cold(markets)
        tol, limit, few = jnp.asarray(1e-4), jnp.asarray(100), jnp.asarray(0)
        with jax.enable_x64(True):
            carry = lanes._begin_all(markets, plans, prices, solver, mesh=mesh)
            steps = lanes._watched(carry)
            steps = lanes._until(markets, steps, solver, tol, limit, limit, few, False, mesh=mesh)
        return lanes._finish_all(markets, steps.carry, solver, mesh=mesh)

    return run


def cut(tree: Any, axis: str, whole: Callable[[Any], bool]) -> Any:
    """Shapes of arrays that lie on four devices, of which there need not be any."""
    mesh = AbstractMesh((4,), (axis,))

    def placed(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec() if whole(path[0].name) or not leaf.ndim else PartitionSpec(axis)
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(placed, tree)


def test_scenarios_over_devices():
    """Each steps its own: they say nothing to one another."""
    markets = scenarios.perturb(market(), jax.random.key(0), 8, load=0.05)
    mesh = AbstractMesh((4,), ("scenarios",))
    text, _ = lowered(
        together(jg.PrimalDual(), mesh), cut(markets, "scenarios", lambda name: False)
    )
    check(text)
    assert not re.search(r"stablehlo\.(all_gather|all_reduce|collective_permute)", text)


def test_prosumers_over_devices():
    one = scenarios.pad(market(), prosumers=8, generators=12, buffers=16, pairs=20)
    placed = cut(one, "prosumers", lambda name: name not in TABLES)
    text, _ = lowered(cleared(jg.PrimalDual()), placed)
    check(text)
    assert "sdy.mesh" in text or "Sharding" in text


ADJOINTS = {
    "implicit": jg.Implicit(),
    "implicit, of what is not unique": jg.Implicit(throw=False),
    "smoothed": jg.Smoothed(),
}


@pytest.mark.parametrize("grid", ["copperplate", "lindistflow"])
@pytest.mark.parametrize("name", ADJOINTS)
def test_gradients(name: str, grid: str):
    """Of an output by every number of a market, by each adjoint."""

    def output(market: jg.Market) -> Any:
        return jnp.sum(jg.clear(market, adjoint=ADJOINTS[name]).plan.imports ** 2)

    check(lowered(eqx.filter_grad(output), market(grid))[0])


def test_gradients_of_some_numbers_warn_nobody():
    """Where numbers only count together a CPU warns, which is a word to the host."""

    def output(start: Any, market: jg.Market) -> Any:
        moved = eqx.tree_at(lambda m: m.buffers.energy_start, market, start)
        return jnp.sum(jg.clear(moved).plan.imports)

    own = market()
    check(lowered(jax.grad(output), own.buffers.energy_start, own)[0])


def test_gradients_of_many_prosumers():
    """Whose systems are solved by conjugate gradients, in float32 outside."""

    def output(market: jg.Market) -> Any:
        return jnp.sum(jg.clear(market).plan.imports)

    large = cast(jg.synthetic(150, hours=2, buses=5, seed=0), jnp.float32)
    check(lowered(eqx.filter_grad(output), large)[0])


def test_derivatives_ahead_and_of_batches():
    one = market()

    def total(load: Any) -> Any:
        return jg.clear(eqx.tree_at(lambda m: m.prosumers.load, one, load)).aggregate

    load = one.prosumers.load
    check(lowered(lambda a: jax.jvp(total, (a,), (a,)), load)[0])
    check(lowered(jax.vmap(jax.jacrev(lambda a: total(a)[0])), jnp.stack([load, load]))[0])


MARKETS: dict[str, Callable[[], jg.Market]] = {
    "three phases": lambda: jg.synthetic(5, hours=2, hour_length=6.0, buses=12, phases=3, seed=0),
    "a grid for the tree": lambda: jg.synthetic(5, hours=2, buses=100, seed=0),
    "caps": lambda: random_caps(market(), 0),
    "curves": lambda: with_curves(market(), 0),
    "branches": lambda: scenarios.tree(drawn(0), SHARE, SPLIT),
}


@pytest.mark.parametrize("kind", MARKETS)
@pytest.mark.parametrize("name", SOLVERS)
def test_other_markets(name: str, kind: str):
    check(lowered(cleared(SOLVERS[name][0]), MARKETS[kind]())[0])


def test_a_derivative_that_means_nothing_is_nan_where_no_error_can_be_raised(
    monkeypatch: pytest.MonkeyPatch,
):
    """What a GPU runs, run here; a CPU raises."""
    move: Any = {"price": jnp.ones(3)}
    for bad in (False, True):
        with monkeypatch.context() as there:
            there.setattr(
                implicit, "platform_dependent", lambda *given, cpu, default: default(*given)
            )
            found = jax.jit(lambda a: implicit._unless(a, move, "no derivative"))(bad)
        np.testing.assert_array_equal(found["price"], np.full(3, np.nan if bad else 1.0))
    with pytest.raises(RuntimeError, match="no derivative"):
        eqx.filter_jit(implicit._unless)(jnp.asarray(True), move, "no derivative")
