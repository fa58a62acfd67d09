"""Derivatives where several limits are about to switch at once, against the oracle's sides."""

from collections import Counter
from operator import attrgetter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.model import aggregate, energy_prices, length
from tests.reference import solve

LIMITS = {
    "generation": "generators.power_max",
    "energy": "buffers.energy_max",
    "charge": "buffers.charge_max",
    "discharge": "buffers.discharge_max",
    "imports": "prosumers.import_max",
    "rating": "grid.rating",
    "total": "tariff.total_max",
}
SLOPES = ("prosumers.load", "generators.linear", "tariff.base")
BOTH_WAYS = [pytest.param(jax.jit, marks=pytest.mark.slow), lambda run: run]  # as it is compiled
REFUSED = ("not the same on both sides", "not determined", "not known to lie between")


def twins(way: Any) -> jg.Market:
    """Two generators of (0.1 + way) p + 0.02 p^2, each where `way` is 0 at its limit of 3.28125 kW.

    They serve 16 kW over trades of 0.001 u^2, beside a grid of 0.15 + 0.01 s.
    """
    market = jg.Market(
        jg.Prosumers([0, 0, 0], [[16.0], [0.0], [0.0]], import_max=30.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.15, anticipation=0.0),
        jg.Generators([1, 2], 3.28125, hours=1, quadratic=0.02, linear=0.1),
        trading=jg.Trading([0, 0], [1, 2], 20.0, quadratic=0.001),
    )
    return eqx.tree_at(lambda m: m.generators.linear, market, market.generators.linear + way)


def made(way: Any, adjoint: Any = None) -> Any:
    """What twins make, kW."""
    return jg.clear(twins(way), tol=1e-6, adjoint=adjoint).plan.generation[:, 0]


# kW per EUR/kWh, of 2 * 0.02 for making, 2 * 2 * 0.001 for trading, 0.01 for what the grid saves
LESS = 1 / 0.054  # one twin makes that much less, alone
BOTH = 1 / 0.064  # each of two


@pytest.mark.slow  # compiles for half a minute
def test_limits_that_let_go_together_have_the_derivative_of_a_side():
    """Both twins dearer by t: each makes `BOTH` t less for t > 0, and as much as before else."""
    _, slopes = jax.jvp(lambda t: made(t * jnp.ones(2)), (0.0,), (1.0,))
    assert any(np.allclose(slopes, side, atol=1e-5) for side in (0.0, -BOTH))


def test_where_one_limit_holds_and_another_lets_go_a_derivative_ahead_raises():
    """One twin dearer, the other cheaper by t: neither all held nor all let go is on a side."""
    with pytest.raises(RuntimeError, match="limits are about to switch"):
        jax.jvp(lambda t: made(t * jnp.array([1.0, -1.0])), (0.0,), (1.0,))


@pytest.mark.slow  # compiles for half a minute
def test_reverse_gives_no_value_that_is_on_neither_side():
    """Total generation has a value between both sides, whatever changes; the difference has none.

    With both held or both free it is not between, for the one that lets go carries more.
    """
    slope = eqx.filter_jit(
        lambda weight: jax.grad(lambda way: jnp.vdot(weight, made(way)))(jnp.zeros(2))
    )
    total = slope(jnp.ones(2))
    assert np.all((total >= -LESS - 1e-5) & (total <= 1e-5))
    with pytest.raises(RuntimeError, match="limits are about to switch"):
        jax.block_until_ready(slope(jnp.array([1.0, -1.0])))


@pytest.mark.slow
def test_without_raising_what_is_about_to_switch_is_held():
    """So that a search by gradients goes on: neither twin moves."""
    quiet = jg.Implicit(throw=False)
    weight = jnp.array([1.0, -1.0])
    slope = jax.grad(lambda way: jnp.vdot(weight, made(way, quiet)))(jnp.zeros(2))
    assert np.allclose(slope, 0, atol=1e-5)


def resting(load: Any, runner: Any) -> Any:
    """What a consumer of 4 kW and a producer of `load` pay in total, EUR.

    The grid's price is 0.15 + 0.01 s, it takes energy back at 0.05; the producer makes nothing,
    at a marginal cost of 0.4, and trades cost 0.1 on either side.
    """
    market = jg.Market(
        jg.Prosumers([0, 0], [[4.0], [0.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.15, export=0.05, anticipation=0.0),
        jg.Generators([1], 5.0, hours=1, quadratic=0.02, linear=0.4),
        trading=jg.Trading([0], [1], 20.0, toll=0.1, quadratic=0.001),
    )
    market = eqx.tree_at(lambda m: m.prosumers.load, market, market.prosumers.load.at[1].add(load))
    return jnp.sum(jg.clear(market, runner=runner).costs)


@pytest.mark.parametrize("runner", ["numpy", pytest.param("jax", marks=pytest.mark.slow)])
def test_load_where_nothing_moves_has_the_derivative_of_a_side(runner: str):
    """More of it is imported at 0.19 and makes the consumer's 4 kW dearer; less is fed in at 0.05.

    Its price is open between both, and with all that rests held no cost would change at all.
    """
    slope = float(jax.grad(lambda load: resting(load, runner))(0.0))
    assert any(np.isclose(slope, side, atol=1e-6) for side in (0.15 + 0.08, 0.05))


def just_enough(load: Any = 0.0, base: Any = 0.15, adjoint: Any = None) -> Any:
    """What two consumers of 4 kW and of 2 + `load` pay where 6 kW is all that the grid gives."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[4.0], [2.0]], curtail_max=0.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.15, anticipation=0.0, total_max=6.0),
    )
    fields = (market.prosumers.load.at[1].add(load), jnp.full(1, base))
    market = eqx.tree_at(lambda m: (m.prosumers.load, m.tariff.base), market, fields)
    return jnp.sum(jg.clear(market, adjoint=adjoint).costs)


@pytest.mark.parametrize("way", BOTH_WAYS)
def test_a_load_that_a_limit_on_the_total_just_meets_has_no_derivative(way: Any):
    """More of it cannot be served; less lets the total's limit go, and the grid's price falls.

    The tariff's base has one: 6 kW, whatever holds the total.
    """
    with pytest.raises(RuntimeError, match="not known to lie between"):
        jax.block_until_ready(way(jax.grad(just_enough))(0.0))
    with pytest.raises(RuntimeError, match="not determined"):
        jax.block_until_ready(way(lambda t: jax.jvp(just_enough, (t,), (1.0,))[1])(0.0))
    base = way(jax.grad(lambda base: just_enough(0.0, base)))(0.15)
    assert np.isclose(base, 6.0, atol=1e-6)


def full(capacity: Any) -> Any:
    """Imports over three hours, the second in which a full battery of `capacity` by hour rests."""
    battery = jg.devices.battery(
        0, power=5.0, capacity=2.0, hours=3, start=0.0, floor=0.0, efficiency=1.0, final=0.0
    )
    market = jg.Market(
        jg.Prosumers([0], [[4.0, 4.0, 4.0]]),
        jg.Grid(np.zeros((1, 3)), model="copperplate"),
        jg.Tariff(0.01, hours=3, base=np.array([0.1, 0.3, 0.5]), anticipation=0.0),
        buffers=battery,
    )
    market = eqx.tree_at(lambda m: m.buffers.energy_max, market, jnp.asarray(capacity))
    return market, jg.clear(market, tol=1e-9).plan.imports[0]


@pytest.mark.parametrize("way", BOTH_WAYS)
def test_limits_of_a_battery_that_rests_full_count_together(way: Any):
    """A kWh more in all hours is bought in the first and saved in the last.

    More room in the second hour alone is of no use, less lets the battery give away at once what
    it takes up then.
    """
    here = np.array([[2.0, 2.0, 2.0]])
    with pytest.warns(UserWarning, match="count together.*a battery rests full"):
        slopes = jax.block_until_ready(way(jax.jacobian(lambda room: full(room)[1]))(here))
    assert np.allclose(slopes[:, 0].sum(-1), [1.0, 0.0, -1.0], atol=1e-6)


def test_a_gradient_by_all_of_a_market_does_not_warn():
    """Nor does one by other fields: tests take warnings for errors."""
    market, _ = full(np.array([[2.0, 2.0, 2.0]]))
    slopes = jg.sensitivities(market, lambda market, cleared: jnp.sum(cleared.costs))
    dearer = 0.16 + 6 * 0.01 + 0.005  # the grid's price, what it rises by, wear
    saved = 0.52 + 2 * 0.01 - 0.005
    assert np.allclose(slopes.buffers.energy_max.sum(), dearer - saved, atol=1e-6)
    base = jg.sensitivities(
        market, lambda market, cleared: jnp.sum(cleared.costs), where=lambda m: m.tariff.base
    )
    assert np.allclose(base, [6.0, 4.0, 2.0], atol=1e-6)


def outputs(market: jg.Market, plan: Any, prices: Any) -> Any:
    """What is unique: total import, generation, prices."""
    parts = (aggregate(market, plan), plan.generation, energy_prices(market, prices))
    return jnp.concatenate([jnp.ravel(a) for a in parts])


def told(market: jg.Market) -> np.ndarray:
    """The same from the oracle."""
    found = solve(market, tol=1e-11)
    assert found.status == "solved"
    return np.asarray(outputs(market, found.plan, found.prices))


def kinked(market: jg.Market, rng: np.random.Generator) -> tuple[jg.Market, list[Any]]:
    """Two to four limits, each of another kind, put where the oracle's equilibrium already is."""
    plan = solve(market, tol=1e-11).plan
    net = aggregate(market, plan) - jnp.sum(plan.exports, axis=0)
    flow = length(plan.active, plan.reactive)
    at = {"rating": jnp.max(flow, axis=1, initial=0.0), "total": net}
    put, most = [], rng.integers(2, 5)
    for kind in rng.permutation(list(LIMITS)):
        where = attrgetter(LIMITS[kind])
        value, limit = at[kind] if kind in at else getattr(plan, kind), where(market)
        inside = (value > 0.02 * jnp.max(value, initial=0.0)) & (value < 0.999 * limit)
        if kind == "energy":
            inside &= value > market.buffers.energy_min + 1e-6
        places = np.argwhere(np.asarray(inside))
        if places.size and len(put) < most and (kind != "rating" or flow.any()):
            place = tuple(places[rng.integers(len(places))])
            market = eqx.tree_at(where, market, limit.at[place].set(value[place]))
            put.append((LIMITS[kind], place))
    return market, put


def sides(market: jg.Market, field: str, place: Any) -> tuple[np.ndarray, np.ndarray] | None:
    """The one-sided derivatives, where no other limit switches near.

    An equilibrium is piecewise linear in what is asked for, and has no kink one step away, where
    the oracle knows it well.
    """
    where = attrgetter(field)
    numbers = where(market)
    step = 1e-3 * float(jnp.max(jnp.where(jnp.isfinite(numbers), jnp.abs(numbers), 0.0)))
    found = []
    for sign in (1, -1):
        try:
            one, two, three = (
                told(eqx.tree_at(where, market, numbers.at[place].add(sign * k * step)))
                for k in (1, 2, 3)
            )
        except AssertionError:  # no plan meets all limits on this side
            return None
        if not np.allclose(three - two, two - one, rtol=0, atol=1e-4 * np.abs(three - two).max()):
            return None
        found.append(sign * (three - one) / (2 * step))
    return found[0], found[1]


def unless_refused(count: Counter[str], way: str, derivative: Any, *args: Any) -> Any:
    """The derivative, or None where it is refused, which is counted with the reason."""
    try:
        return jax.block_until_ready(derivative(*args))
    except RuntimeError as error:
        for text in REFUSED:
            if text in str(error):
                count[f"{way}: {text}"] += 1
                return None
        raise


def survey(grid: Any, behavior: Any, seeds: range, tol: float) -> Counter[str]:
    """Hold derivatives of markets at kinks between the sides; counts what was seen."""

    @eqx.filter_jit
    def back(market: jg.Market, output: Any) -> Any:
        def seen(market: jg.Market) -> Any:
            clearing = jg.clear(market, tol=tol)
            return outputs(market, clearing.plan, clearing.prices)[output]

        return eqx.filter_grad(seen)(market)

    @eqx.filter_jit
    def ahead(market: jg.Market, change: jg.Market) -> Any:
        def seen(market: jg.Market) -> Any:
            clearing = jg.clear(market, tol=tol)
            return outputs(market, clearing.plan, clearing.prices)

        return eqx.filter_jvp(seen, (market,), (change,))[1]

    def entry(output: Any, market: jg.Market, clearing: jg.Clearing) -> Any:
        return outputs(market, clearing.plan, clearing.prices)[output]

    def alone(market: jg.Market, clearing: jg.Clearing, output: Any, field: str) -> Any:
        """By one field, by NumPy."""
        where, seen = attrgetter(field), eqx.Partial(entry, output)
        return jg.sensitivities(market, seen, clearing=clearing, where=where)

    count: Counter[str] = Counter()

    def hold(value: Any, up: Any, down: Any, noise: float, label: Any) -> None:
        close = 1e-4 * np.maximum(np.abs(up), np.abs(down)) + noise
        low, high = np.minimum(up, down), np.maximum(up, down)
        assert np.all((low - close <= value) & (value <= high + close)), (label, low, value, high)
        count["between" if np.any(high - low > 10 * close) else "smooth"] += 1

    for seed in seeds:
        rng = np.random.default_rng(seed)
        calm = jg.synthetic(
            prosumers=4, hours=2, buses=4, degree=2.0,
            grid=grid, behavior=behavior, stress=True, seed=seed,
        )  # fmt: skip
        market, put = kinked(calm, rng)
        if len(put) < 2:
            continue
        shapes = [(field, attrgetter(field)(market).shape) for field in SLOPES]
        fields = [(field, tuple(rng.integers(n) for n in shape)) for field, shape in shapes] + put
        pairs = [(field, place, sides(market, field, place)) for field, place in fields]
        known = [(field, place, both) for field, place, both in pairs if both is not None]
        if not known:
            continue
        slopes, clearing = {}, jg.clear(market, tol=tol, runner="numpy")
        for output in rng.permutation(len(known[0][2][0]))[:4]:
            slopes[output] = unless_refused(count, "whole", back, market, jnp.asarray(output))
        for field, place, (up, down) in known:
            where = attrgetter(field)
            noise = 1e-5 * max(np.abs(up).max(), np.abs(down).max())
            unique = {}
            for output, slope in slopes.items():
                at = jnp.asarray(output), field
                found = unless_refused(count, "reverse", alone, market, clearing, *at)
                unique[output] = found is not None
                for way, value in (("alone", found), ("whole", slope and where(slope))):
                    if value is not None:
                        label = (seed, way, field, place, output)
                        hold(np.asarray(value[place]), up[output], down[output], noise, label)
            none = jax.tree.map(jnp.zeros_like, eqx.filter(market, eqx.is_inexact_array))
            change = eqx.tree_at(where, none, where(none).at[place].set(1.0))
            slope = unless_refused(count, "forward", ahead, market, change)
            if slope is not None:
                told = [output for output, known in unique.items() if known]
                label = (seed, "forward", field, place, told)
                hold(np.asarray(slope)[told], up[told], down[told], noise, label)
    return count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("grid", "behavior", "seeds", "tol"),
    [
        ("copperplate", "nash", range(40), 1e-10),
        ("copperplate", "wardrop", range(40), 1e-6),
        ("lindistflow", "nash", range(40), 1e-6),
        ("lindistflow", "nash", range(40), 1e-8),
    ],
)
def test_derivatives_at_kinks_lie_between_the_sides(
    grid: str, behavior: str, seeds: range, tol: float
):
    """Limits of generators, stores, lines, imports where the equilibrium is.

    Of outputs that are unique few derivatives by one field are refused; where a limit is put on the
    total, many prices are not.
    """
    count = survey(grid, behavior, seeds, tol)
    assert count["between"] > 0
    told = count["between"] + count["smooth"]
    assert sum(count[f"reverse: {REFUSED[k]}"] for k in (0, 2)) <= 0.3 * told
