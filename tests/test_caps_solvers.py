"""Limits that many share, by every solver that knows them: against the oracle, and by hand."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import clarabel
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne.clearing import differentiable
from jaxgne.model import energy_prices, potential
from jaxgne.sensitivity import implicit, kinks, linear
from jaxgne.status import status_name
from jaxgne.tables import Caps
from tests.agreement import SOLVERS
from tests.cap_checks import at_once, changed, check_ends, known, multipliers
from tests.markets import GRIDS, SHAPES, levels, random_caps, random_market
from tests.reference import solve

cl: Any = clarabel
IMPORTS, EXPORTS, GENERATION, CHARGE, DISCHARGE = range(5)
SLOW = pytest.mark.slow


def home(load: Any, *, hour_length: float = 1.0, **tables: Any) -> jg.Market:
    """One prosumer on one bus, who takes a price of 0.1 EUR/kWh that does not rise."""
    load = np.atleast_2d(load)
    hours = load.shape[1]
    return jg.Market(
        jg.Prosumers([0], load),
        jg.Grid(np.zeros((1, hours)), model="copperplate"),
        jg.Tariff(0.0, hours=hours, base=0.1),
        hour_length=hour_length,
        **tables,
    )


def capped(market: jg.Market, **caps: Any) -> jg.Market:
    """The market with one table of caps."""
    table = Caps(**({"level_max": [np.inf], "hours": market.prosumers.load.shape[1]} | caps))
    return eqx.tree_at(lambda m: m.caps, market, table)


def cleared(market: jg.Market, tol: float = 1e-9) -> jg.Clearing:
    return jg.clear(market, jg.InteriorPoint(), tol=tol, runner="numpy")


# By hand


@pytest.mark.parametrize("battery_cost", [0.02, 0.1])
def test_a_demand_charge_is_paid_on_the_peak(battery_cost: float):
    """0.3 EUR per kW of the peak of 2 and 6 kW, in half-hours; a battery costs q x^2 either way.

    Moving x kW to the first saves 0.3 x and costs Ts 2 q x^2: x = 0.3 / (4 Ts q), at most 2, where
    both are the peak. The peak's price is on whoever makes it: 0.3 EUR per kW in all.
    """
    ts, price = 0.5, 0.3
    battery = jg.Buffers([0], 9.0, 9.0, 9.0, 0.0, hours=2, quadratic=battery_cost)
    market = capped(
        home([2.0, 6.0], hour_length=ts, buffers=battery),
        rise_min=0.0, rise_max=[[np.inf, 0.0]], carry=1.0, slack=np.inf, price=price, adds=[0],
        owner=[0], cap=[0], quantity=[IMPORTS], row=[0],
    )  # fmt: skip
    clearing = cleared(market)
    moved = min(price / (4 * ts * battery_cost), 2.0)
    assert np.allclose(clearing.plan.imports, [[2 + moved, 6 - moved]], atol=1e-6)
    assert np.allclose(known(clearing.plan.level), 6 - moved, atol=1e-6)
    bill = ts * (0.1 * 8 + 2 * battery_cost * moved**2) + price * (6 - moved)
    assert float(clearing.costs[0]) == pytest.approx(bill, abs=1e-7)
    first = (price - 4 * ts * battery_cost * moved) / 2  # what the second is dearer by is the use
    assert np.allclose(known(clearing.prices.cap), [[first, price - first]], atol=1e-6)


def test_a_ramp_has_a_price_in_both_of_its_hours():
    """Imports may rise by 3 kW a half-hour from 1 kW: 4 kW at most, 4 of 8 kW are made at 0.25.

    A kW of room in the second is worth 0.5 h (0.25 - 0.1), a kW more in the first as much.
    """
    unit = jg.Generators([0], 20.0, hours=2, linear=0.25)
    market = capped(
        home([1.0, 8.0], hour_length=0.5, generators=unit),
        rise_min=-3.0, rise_max=3.0, start=[1.0], carry=1.0, adds=[0],
        cap=[0], quantity=[IMPORTS], row=[0],
    )  # fmt: skip
    clearing = cleared(market)
    assert np.allclose(clearing.plan.imports, [[1.0, 4.0]], atol=1e-6)
    assert np.allclose(known(clearing.plan.rise), [[0.0, 3.0]], atol=1e-6)
    assert np.allclose(known(clearing.prices.cap), [[-0.075, 0.075]], atol=1e-6)


def test_a_carbon_cap_makes_the_dirty_unit_dearer():
    """0.5 kg/kWh of a unit at 0.05, none of the grid at 0.1; 2 kg in a day of 2 x 4 h at 3 kW.

    4 kWh are made, the rest imported; a kg less costs (0.1 - 0.05) / 0.5 = 0.1 EUR. Where a quarter
    leaks per step and only the end counts, 2 / 0.75 kg are made in the first, at 2 kg per kW.
    """
    unit = jg.Generators([0], 3.0, hours=2, linear=0.05)
    market = capped(
        home([3.0, 3.0], hour_length=4.0, generators=unit),
        level_max=[2.0], carry=1.0, cap=[0], quantity=[GENERATION], row=[0], weight=0.5 * 4.0,
        names=("carbon",), units=("kg",),
    )  # fmt: skip
    clearing = cleared(market)
    assert float(clearing.plan.generation.sum()) == pytest.approx(1.0, abs=1e-6)  # kW: 4 kWh
    assert np.allclose(known(clearing.prices.cap), 0.1, atol=1e-6)
    leaky = cleared(changed(market, carry=[0.75], level_max=[[np.inf, 2.0]]))
    assert np.allclose(leaky.plan.generation, [[4 / 3, 0.0]], atol=1e-5)
    assert np.allclose(known(leaky.prices.cap), [[0.1, 0.1 / 0.75]], atol=1e-5)


REACHING = {  # caps of a load of 1 kW over 8 h, 0.88 EUR with a slope of 0.01: what they add to it
    "rises that last": ({"carry": 1.0, "rise_min": 10.0, "slack": np.inf}, 0.0),
    "paid to count": ({"price": -0.1, "slack": 100.0}, -0.1 * 8 * 101),
    "paid to a level": ({"price": -0.1, "slack": np.inf, "level_max": [50.0], "carry": 1.0}, -5.0),
    "nothing summed": ({"price": 0.1, "slack": np.inf, "cap": [], "quantity": [], "row": []}, 0.0),
    "nothing weighed": ({"price": -0.1, "slack": 1.0, "weight": 0.0}, -0.8),
    "nothing but a base": ({"price": 0.1, "base": 2.0, "cap": [], "quantity": [], "row": []}, 1.6),
}


@pytest.mark.parametrize("kind", REACHING)
def test_levels_go_where_no_member_takes_them(kind: str):
    caps, added = REACHING[kind]
    market = eqx.tree_at(lambda m: m.tariff.slope, home(np.ones(8)), jnp.full(8, 0.01))
    market = capped(market, **({"cap": [0], "quantity": [IMPORTS], "row": [0]} | caps))
    found = float(at_once(potential, market, cleared(market).plan))
    assert found == pytest.approx(0.88 + added, abs=1e-6)


# Against the oracle


def random_street(seed: int, **kind: Any) -> jg.Market:
    """A random market with random caps; of odd seeds with steps of unlike length."""
    market = random_market(seed, **kind)
    if seed % 2:
        lengths = np.random.default_rng(seed).uniform(0.2, 1.0, market.hour_length.shape)
        market = eqx.tree_at(lambda m: m.hour_length, market, jnp.asarray(lengths))
    return random_caps(market, seed)


def check_random(seed: int, name: str = "interior point", runner: Any = None, **kind: Any) -> str:
    """One random market: it ends as the oracle says, with its potential, quantities and prices."""
    return check_ends(random_street(seed, **kind), seed, name, runner)


@settings(derandomize=True, max_examples=6, deadline=None)
@given(seed=st.integers(0, 999))
def test_random_caps_by_numpy(seed: int):
    check_random(seed, runner="numpy")


@pytest.mark.parametrize("seed", [89, 831])
def test_levels_without_bounds_leave_what_members_can_do(seed: int):
    """Infeasible, and cleared: a level that is fixed in one step, and with its rises free in all
    others, is as good as fixed where little of what it counts can move; a dozen steps find it.
    """
    found = jg.clear(random_street(seed), jg.InteriorPoint(), runner="numpy", throw=False)
    assert status_name(found.status) == {89: "infeasible", 831: "cleared"}[seed]
    assert int(found.steps) <= 15


@pytest.mark.parametrize("name", ["primal-dual", pytest.param("interior point", marks=SLOW)])
def test_random_caps_by_programs(name: str):
    """Twenty of one shape; a program for each solver."""
    kind = {"shape": SHAPES[0], "grid": "copperplate"}
    ended = Counter(check_random(seed, name, "jax", **kind) for seed in range(20))
    assert min(ended["cleared"], ended["infeasible"]) > 3


@SLOW
def test_no_status_is_false_by_numpy(record_property: Any):
    """Some hundred random markets, of which enough end either way."""
    ended = Counter(check_random(seed, runner="numpy") for seed in range(1000, 1400))
    record_property("counts", dict(ended))
    assert min(ended["cleared"], ended["infeasible"]) > 100


KINDS = [
    (name, shape, grid)
    for name in ("interior point", "primal-dual")
    for shape in (0, 1, 3)
    for grid in GRIDS
]
KINDS.append(("mechanism", 0, "copperplate"))  # of thousands of rounds each


@SLOW
@pytest.mark.parametrize(("name", "shape", "grid"), KINDS)
def test_no_status_is_false_by_programs(name: str, shape: int, grid: Any, record_property: Any):
    """Forty of each kind; whoever ends does so as the oracle says, and almost all end."""
    kind = {"shape": SHAPES[shape], "grid": grid}
    ended = Counter(check_random(seed, name, "jax", **kind) for seed in range(2000, 2040))
    record_property("counts", dict(ended))
    assert ended["cleared"] > 8
    assert ended["max_steps"] < 2


# What follows from caps


def street(seed: int = 4) -> jg.Market:
    """A random market in which four kinds of caps bind, a little below where it is without.

    Carbon of a day, with a leak; imports of two prosumers in an hour; a demand charge for who
    imports most; a ramp of the total.
    """
    market = random_market(seed, shape=SHAPES[0], grid="copperplate", hour_length=0.5)
    units, (people, hours) = market.generators.owner.shape[0], market.prosumers.load.shape
    plan = jax.tree.map(np.asarray, solve(market).plan)
    payer = int(plan.imports.sum(axis=1).argmax())
    dirt = np.linspace(0.2, 0.5, hours)
    members = [(0, IMPORTS, i, dirt) for i in range(people)]
    members += [(0, GENERATION, k, 0.6) for k in range(units)]
    members += [*((1, IMPORTS, i, 1.0) for i in (0, 1)), (2, IMPORTS, payer, 1.0)]
    members += [(3, what, i, s) for i in range(people) for what, s in ((0, 1.0), (1, -1.0))]
    cap, quantity, row, weight = zip(*members, strict=True)
    total = plan.imports.sum(axis=0) - plan.exports.sum(axis=0)
    carbon = (dirt * plan.imports).sum(axis=0) + 0.6 * plan.generation.sum(axis=0)
    kept = levels(carbon[None], np.ones(1), np.array([0.9]), np.array([1.0]))[0]
    step, later = 0.5 * np.abs(np.diff(total)).max(), np.arange(hours) > 0
    limits = np.full((4, hours), np.inf)
    free = limits[2].copy()
    limits[0, -1], limits[1] = 0.97 * kept[0, -1], 0.9 * plan.imports[:2].sum(axis=0).max()
    return capped(
        market,
        level_max=limits,
        rise_min=np.stack([-free, -free, 0 * later, np.where(later, -step, -np.inf)]),
        rise_max=np.stack([free, free, np.where(later, 0, np.inf), np.where(later, step, np.inf)]),
        start=[1.0, 0.0, 0.0, 0.0], carry=[0.9, 0.0, 1.0, 1.0], slack=[0.0, 0.0, np.inf, 0.0],
        price=[0.0, 0.0, 0.05, 0.0], adds=[1, 1, 0, 0], owner=[-1, -1, payer, -1],
        cap=cap, quantity=quantity, row=row, weight=np.stack([w + np.zeros(hours) for w in weight]),
        names=("carbon", "group", "peak", "ramp"), units=("kg", "kW", "kW", "kW"),
    )  # fmt: skip


@pytest.mark.parametrize("seed", [4, pytest.param(0, marks=SLOW), pytest.param(2, marks=SLOW)])
def test_prices_of_caps_are_the_slopes_of_the_potential(seed: int):
    """Differences of the oracle's in each number, to either side; of the price it is the rise."""
    market = street(seed)
    clearing, oracle = cleared(market), solve(market)
    slopes = multipliers(market, clearing.prices)
    slopes["price"] = np.asarray(clearing.plan.rise).sum(axis=1)
    step, seen = 1e-3, set()
    for name, slope in slopes.items():
        value = np.asarray(getattr(market.caps, name))
        found = np.isfinite(value) & (np.abs(slope) > 1e-3)
        found &= (value > 0) | (name != "slack")  # which no one has less than none of
        for at in [tuple(at) for at in np.argwhere(found)[::2]]:
            sides = []
            for sign in (1, -1):
                there = value.copy()
                there[at] += sign * step
                beside = solve(changed(market, **{name: there}))
                more = beside.potential if beside.status == "solved" else np.inf  # no plan
                sides.append((more - oracle.potential) / (sign * step))
            assert min(sides) - 5e-4 < slope[at] < max(sides) + 5e-4, name
            seen |= {name} if max(sides) - min(sides) < 1e-3 else set()  # no kink
    assert seen >= {"base", "start", "level_max", "price"}
    assert seen & {"rise_min", "rise_max"}


NUMBERS = ("level_max", "rise_min", "rise_max", "base", "start", "carry", "price", "weight")


def told(market: jg.Market, clearing: jg.Clearing) -> jax.Array:
    """One number of plan and prices, of those that are unique."""
    plan, prices = clearing.plan, clearing.prices
    assert plan.level is not None
    assert prices.cap is not None
    return (
        jnp.sum(clearing.aggregate**2) / 100
        + jnp.sum(jnp.sin(plan.generation))
        + jnp.sum(plan.level) / 10
        + jnp.sum(prices.cap * jnp.arange(1.0, 1 + prices.cap.size).reshape(prices.cap.shape))
        + 10 * jnp.sum(energy_prices(market, prices) ** 2)
        + potential(market, plan)
    )


def toward(market: jg.Market, name: str, step: float) -> jg.Market:
    """The market with one field of its caps moved in a direction of its own."""
    value = np.asarray(getattr(market.caps, name))
    way = np.random.default_rng(3).uniform(-1, 1, value.shape)
    if name == "carry":
        way = way * (value > 0) * (value < 1)  # a share stays one
    if name.startswith("rise"):  # what may not move stays so
        way = way * (np.asarray(market.caps.rise_min) < np.asarray(market.caps.rise_max))
    return changed(market, **{name: value + step * np.where(np.isfinite(value), way, 0.0)})


def check_slopes(market: jg.Market, slopes: jg.Market, names: Iterable[str] = NUMBERS) -> None:
    """Of numbers of caps: differences of clears, where they are the same to either side."""
    here, step = float(told(market, cleared(market, 1e-11))), 1e-5
    for name in names:
        there = [toward(market, name, s * step) for s in (-1, 1)]
        behind, ahead = (float(told(m, cleared(m, 1e-11))) for m in there)
        assert ahead - here == pytest.approx(here - behind, abs=2e-4 * step, rel=2e-3), name
        way = getattr(toward(market, name, 1.0).caps, name) - getattr(market.caps, name)
        slope = jnp.sum(getattr(slopes.caps, name) * jnp.where(jnp.isfinite(way), way, 0.0))
        assert float(slope) == pytest.approx((ahead - behind) / 2 / step, rel=1e-4, abs=1e-4), name


EASY = ("level_max", "carry", "weight")
MANY = (0, 2, 4, 7, 8, 11, 13, 14, 16, 18, 19)  # whose prices are unique: a peak is above 0


@pytest.mark.parametrize(
    ("seed", "names"), [(4, EASY), *(pytest.param(seed, NUMBERS, marks=SLOW) for seed in MANY)]
)
def test_derivatives_by_caps_are_differences_of_clears(seed: int, names: Iterable[str]):
    market = street(seed)
    slopes = jg.sensitivities(market, told, clearing=cleared(market, 1e-11))
    check_slopes(market, slopes, names)


@SLOW
def test_derivatives_by_caps_through_clear_in_reverse_and_forward():
    market = street()

    def found(m: jg.Market) -> jax.Array:
        return told(m, jg.clear(m, jg.InteriorPoint(), tol=1e-10, runner="jax"))

    slopes = eqx.filter_grad(found)(market)
    check_slopes(market, slopes)
    for name in NUMBERS:
        here, there = (getattr(toward(market, name, step).caps, name) for step in (0.0, 1.0))
        way = jnp.where(jnp.isfinite(here), there - here, 0.0)

        def of(value: jax.Array, name: str = name) -> jax.Array:
            return found(changed(market, **{name: value}))

        forward = jax.jvp(of, (here,), (way,))[1]
        reverse = jnp.sum(getattr(slopes.caps, name) * way)
        assert float(forward) == pytest.approx(float(reverse), rel=1e-5, abs=1e-6), name


@settings(derandomize=True, max_examples=2, deadline=None)
@given(seed=st.integers(0, 999))
def test_caps_that_do_not_bind_change_nothing(seed: int):
    """Limits beyond what a plan without them does: its potential, total and prices."""
    market = random_market(seed)
    free = jg.clear(market, jg.InteriorPoint(), tol=1e-10, runner="numpy", throw=False)
    roomy = random_caps(market, seed)
    free_level = np.full(roomy.caps.level_max.shape, 1e4)
    roomy = changed(
        roomy, level_max=free_level, level_min=-free_level, rise_max=free_level,
        rise_min=-free_level, price=0 * roomy.caps.price,
    )  # fmt: skip
    held = jg.clear(roomy, jg.InteriorPoint(), tol=1e-10, runner="numpy", throw=False)
    assert status_name(held.status) == status_name(free.status)
    if not free.ok:
        return
    scales = free.certificate.scales
    gap = at_once(potential, roomy, held.plan) - at_once(potential, market, free.plan)
    assert abs(float(gap)) < 1e-8 * float(scales.bill)
    curved = np.asarray(market.tariff.slope) > 0
    off = np.abs(np.asarray(held.aggregate - free.aggregate))[curved]
    assert np.all(off < 1e-6 * float(scales.total))
    assert np.all(np.abs(np.asarray(held.prices.cap)) < 1e-8)


def test_a_batch_of_limits_is_each_of_them():
    """Three carbon caps in one call, of which the last is out of reach; less room costs more."""
    market = street()
    caps = [market.caps.level_max.at[0, -1].mul(share) for share in (1.0, 0.99, 0.1)]
    markets = [changed(market, level_max=limit) for limit in caps]
    many = jg.clear_many(jg.scenarios.stack(markets), jg.InteriorPoint(), tol=1e-9)
    assert many.ok.tolist() == [True, True, False]
    alone = [cleared(each) for each in markets[:2]]
    for lane, one in enumerate(alone):
        assert np.allclose(known(many.plan.level)[lane], known(one.plan.level), atol=1e-5)
        assert np.allclose(known(many.prices.cap)[lane], known(one.prices.cap), atol=1e-6)
    spent = [float(at_once(potential, m, c.plan)) for m, c in zip(markets, alone, strict=False)]
    worth = -multipliers(markets[0], alone[0].prices)["level_max"][0, -1]
    assert spent[1] - spent[0] >= worth * float(caps[0][0, -1] - caps[1][0, -1]) - 1e-6


def test_a_start_from_other_limits_saves_steps():
    market = street()
    first = cleared(market)
    other = changed(market, level_max=market.caps.level_max * 1.002)
    warm = jg.clear(other, jg.InteriorPoint(), tol=1e-9, start=first, runner="numpy")
    cold = cleared(other)
    assert int(warm.steps) < int(cold.steps)
    assert np.allclose(known(warm.prices.cap), known(cold.prices.cap), atol=1e-6)


@pytest.mark.parametrize("seed", [None, *(pytest.param(s, marks=SLOW) for s in range(20, 40))])
def test_an_outside_solver_finds_it_by_the_standard_form(seed: int | None):
    """`jg.convex` by Clarabel: the oracle's potential, and prices that `certify` takes."""
    market = street() if seed is None else random_street(seed)
    oracle = solve(market)
    if oracle.status != "solved":
        return
    made = jg.convex(market)
    P, q, A, b, equal, above, discs = made.conic()
    options = cl.DefaultSettings()
    options.verbose = False
    options.tol_feas = options.tol_gap_abs = options.tol_gap_rel = 1e-10
    cones = [cl.ZeroConeT(equal), cl.NonnegativeConeT(above), *[cl.SecondOrderConeT(3)] * discs]
    found = cl.DefaultSolver(sparse.triu(P, format="csc"), q, A, b, cones, options).solve()
    plan, prices = made.plan(np.array(found.x)), made.prices(made.multipliers(np.array(found.z)))
    judged = at_once(jg.optimality.residuals, market, plan, prices)
    assert float(judged.error) < 1e-5
    assert float(at_once(potential, market, plan)) == pytest.approx(oracle.potential, rel=1e-6)


@SLOW
@pytest.mark.parametrize("name", SOLVERS)
def test_single_precision_is_near(name: str):
    market, solver = street(), SOLVERS[name][0]
    single = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, market)
    clearing, right = jg.clear(single, solver, tol=1e-4, max_steps=20_000), cleared(market)
    assert clearing.plan.level is not None
    assert clearing.plan.level.dtype == jnp.float32
    size = np.abs(known(right.plan.level)).max(axis=1, keepdims=True)
    assert np.all(np.abs(known(clearing.plan.level) - known(right.plan.level)) < 5e-3 * size)
    assert np.all(np.abs(known(clearing.prices.cap) - known(right.prices.cap)) < 2e-2)


@pytest.fixture
def as_if_large(monkeypatch: Any) -> Iterator[None]:
    """No market is small: none is polished, none factored."""
    for module in (implicit, kinks, linear):
        monkeypatch.setattr(module, "is_small", lambda market: False)
    jax.clear_caches()
    yield
    jax.clear_caches()


@SLOW
@pytest.mark.parametrize("seed", [4, 0, 2])
def test_derivatives_by_iterations_are_those_of_small_markets(seed: int, as_if_large: None):
    """By every number of the market, in reverse and forward; by caps differences of clears, too."""
    market = street(seed)
    clearing = cleared(market, 1e-11)

    def output(market: jg.Market) -> jax.Array:
        return told(market, differentiable(market, clearing))

    exact = jg.sensitivities(market, told, clearing=clearing)  # by NumPy, which always factors
    slopes = eqx.filter_jit(eqx.filter_grad(output))(market)
    most = max(float(jnp.max(jnp.abs(a), initial=0.0)) for a in jax.tree.leaves(exact))
    for a, b in zip(jax.tree.leaves(exact), jax.tree.leaves(slopes), strict=True):
        assert np.allclose(a, b, rtol=1e-5, atol=1e-6 * most)
    check_slopes(market, slopes)

    rng, (real, rest) = np.random.default_rng(0), eqx.partition(market, eqx.is_inexact_array)
    change = jax.tree.map(lambda a: jnp.asarray(rng.uniform(-1, 1, a.shape)), real)
    found = eqx.filter_jit(
        lambda change: jax.jvp(lambda m: output(eqx.combine(m, rest)), (real,), (change,))[1]
    )(change)
    parts = jax.tree.map(lambda a, b: jnp.sum(a * b), slopes, change)
    assert float(found) == pytest.approx(float(sum(jax.tree.leaves(parts))), rel=1e-6)
