"""The paper's mechanism: its step sizes, its rounds, and where they end."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.model import boxes, rows, rows_like, zeros
from jaxgne.optimality import residuals
from jaxgne.runner import built, by_numpy, to_host
from jaxgne.solvers.semidecentralized import (
    SemiDecentralized,
    State,
    move_limit,
    move_price,
    paper_residual,
    play_round,
)
from jaxgne.solvers.setting import Rule, Steps, busiest, default_balance, slots, step_sizes

from .markets import feeder, many_devices, random_market, two_neighbors, unequal_fees
from .reference import solve

DEVICES = ("generation", "charge", "discharge", "curtailed")
GRIDS = {
    "copperplate": unequal_fees,
    "lindistflow": lambda: feeder(voltage_min=0.979),
    "paper": lambda: feeder("paper", rating=29.0),
    "paper with reactive power": lambda: feeder("paper", reactive_balance=True, hour_length=0.25),
}
begin = eqx.filter_jit(lambda market, solver: solver.init(market, zeros(market), rows_like(market)))


@eqx.filter_jit
def advance(market: jg.Market, solver: SemiDecentralized, state: State, rounds: jax.Array):
    """Rounds, and the relative KKT error after them."""
    state = jax.lax.fori_loop(0, rounds, lambda _, s: solver.step(market, s), state)
    plan, prices = solver.point(market, state)
    return state, plan, prices, residuals(market, plan, prices).error


def solver_for(market: jg.Market, **options: float) -> SemiDecentralized:
    """Prepared, its numbers as arrays, so that markets of one shape share compiled code."""
    numbers = {name: jnp.asarray(value, float) for name, value in options.items()}
    chosen = replace(SemiDecentralized(balance=default_balance(market)), **numbers)
    return chosen.prepare(market)


def run(market: jg.Market, solver: SemiDecentralized, tol: float = 1e-6, most: int = 8000):
    """Play until the KKT error is below `tol`: rounds, plan, prices, error, state."""
    state, played = begin(market, solver), 0
    while True:
        state, plan, prices, error = advance(market, solver, state, jnp.asarray(200))
        played += 200
        if not float(error) > tol or played >= most:
            return played, plan, prices, float(error), state


def shared_matrix(market: jg.Market, steps: Steps) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows whose prices are exchanged, over all decisions that can move in hour 0.

    Also the step size of each row and the kind of each column. Limits that do not exist are no
    rows; both copies of a trade are columns of their own.
    """
    lower, upper = boxes(market)
    tariff, plan, columns, kinds = market.tariff, zeros(market), [], []
    start = rows(market, plan)

    def stack(value: jg.Rows) -> np.ndarray:
        limits = [[value.aggregate[0]], [-value.aggregate[0]], [value.exchange[0]]]
        return np.concatenate([*limits, value.bus[:, 0]])

    for kind in (*DEVICES, "imports", "exports", "active", "exchange"):
        table = getattr(plan, kind)
        free = np.asarray(getattr(upper, kind) > getattr(lower, kind))[:, 0]
        for index in np.flatnonzero(free):
            moved = replace(plan, **{kind: table.at[index, 0].set(1.0)})
            columns.append(stack(rows(market, moved)) - stack(start))
            kinds.append(kind)
    pairs = market.trading.buyer.shape[0]
    shared, agree = np.array(columns).T, np.hstack([np.eye(pairs), np.eye(pairs)])
    gap = np.zeros((len(shared), 2 * pairs)), np.zeros((pairs, shared.shape[1]))
    matrix = np.block([[shared, gap[0]], [gap[1], agree]])
    limits = [steps.limit[0], steps.limit[0], steps.exchange[0]]
    beta = np.concatenate([limits, steps.bus, np.full(pairs, float(steps.trade))])
    exists = np.ones(len(matrix), bool)
    exists[:2] = np.isfinite(tariff.total_max[0]), np.isfinite(tariff.total_min[0])
    return matrix[exists], beta[exists], kinds + ["trades"] * (2 * pairs)


sizes = built(step_sizes)


@pytest.mark.parametrize("rule", ["columns", "paper"])
@pytest.mark.parametrize("seed", range(12))
def test_step_rule_makes_the_metric_positive_definite(rule: Rule, seed: int):
    """[[1/alpha - Ts d 1 1', -Ts A'], [-Ts A, Ts/beta]] > 0, built densely for one hour."""
    market = random_market(seed)
    steps = sizes(market, jnp.asarray(0.01), rule)
    with by_numpy():
        matrix, beta, kinds = shared_matrix(*to_host((market, steps)))
    ts, slope = float(market.hour_length[0]), float(market.tariff.slope[0])
    imports = np.array([kind == "imports" for kind in kinds], float)
    weight = np.diag([column_weight(steps, kind, ts) for kind in kinds])
    primal = weight - ts * slope * np.outer(imports, imports)
    metric = np.block([[primal, -ts * matrix.T], [-ts * matrix, np.diag(ts / beta)]])
    size = np.sqrt(np.diag(metric))
    assert np.min(np.linalg.eigvalsh(metric / size[:, None] / size)) > 1e-6


def column_weight(steps: Steps, kind: str, ts: float) -> float:
    """1/alpha of one decision in hour 0, EUR/kW^2."""
    name = "device" if kind in DEVICES else "network" if kind in ("active", "exchange") else kind
    return float(np.ravel(getattr(steps, name))[0]) * (ts if name == "network" else 1.0)


@pytest.mark.parametrize("grid", GRIDS)
def test_rounds_end_at_the_equilibrium(grid: str):
    """Nash and Wardrop, with limits that bind: KKT error 1e-6, potential and sigma of Clarabel."""
    for anticipation in (1.0, 0.0):
        market = GRIDS[grid]()
        market = eqx.tree_at(lambda m: m.tariff.anticipation, market, jnp.asarray(anticipation))
        _, plan, _, error, _ = run(market, solver_for(market))
        assert error < 1e-6
        expected = solve(market)
        assert float(jg.model.potential(market, plan)) == pytest.approx(
            expected.potential, rel=1e-5
        )
        assert np.allclose(jg.aggregate(market, plan), expected.sigma, atol=1e-2)


@pytest.mark.parametrize(
    "options", [{"relaxation": 1.8}, pytest.param({"inertia": 0.3}, marks=pytest.mark.slow)]
)
def test_variants_end_at_the_same_plan(options: dict[str, float]):
    """Over-relaxed and inertial rounds reach what the basic mechanism reaches."""
    market = feeder(voltage_min=0.979)
    _, basic, *_ = run(market, solver_for(market), tol=1e-7)
    _, plan, _, error, _ = run(market, solver_for(market, **options), tol=1e-7)
    assert error < 1e-7
    assert np.allclose(plan.imports, basic.imports, atol=1e-2)


def test_paper_rule_ends_at_the_same_plan():
    """One alpha for all, as the paper has it, takes more rounds to the same equilibrium."""
    market = feeder()
    rounds, plan, *_ = run(market, solver_for(market))
    more, paper, _, error, _ = run(market, replace(solver_for(market), rule="paper"))
    assert error < 1e-6
    assert more >= rounds
    assert np.allclose(paper.imports, plan.imports, atol=1e-2)


def test_step_is_one_round():
    """Without relaxation and inertia a step is `play_round` from the last point."""
    market = many_devices()
    solver = solver_for(market)
    state = advance(market, solver, begin(market, solver), jnp.asarray(3))[0]
    image, private, operator = jax.jit(play_round)(
        market, state.setting, state.now, state.private, state.rows
    )
    stepped = advance(market, solver, state, jnp.asarray(1))[0]
    for one, other in zip(
        jax.tree.leaves((image, private, operator)),
        jax.tree.leaves((stepped.now, stepped.private, stepped.rows)),
        strict=True,
    ):
        assert np.allclose(one, other, atol=1e-12)


def test_equilibrium_is_a_fixed_point_and_the_paper_residual_vanishes():
    """At 1e-9 KKT error one more round moves nothing by more than 1e-6 kW."""
    market = feeder()
    solver = solver_for(market)
    *_, error, state = run(market, solver, tol=1e-9)
    assert error < 1e-9
    after = advance(market, solver, state, jnp.asarray(1))[0]
    assert float(paper_residual(market, state, after)) < 1e-6


def test_answer_starts_another_run_where_it_ended():
    """`init` at an equilibrium's plan and prices stays there: error still small after a round."""
    market = many_devices()
    solver = solver_for(market)
    _, plan, prices, error, _ = run(market, solver, tol=1e-8)
    assert error < 1e-8
    again = eqx.filter_jit(lambda m, s, p, y: s.init(m, p, y))(market, solver, plan, prices)
    assert float(advance(market, solver, again, jnp.asarray(1))[3]) < 1e-5


def test_rooms_for_all_equal_the_fewest_slots():
    """With more (empty) slots, which `prepare` leaves, the answer is the same."""
    market = many_devices()
    lean = solver_for(market)
    assert (lean.generators, lean.buffers, lean.pairs) == (2, 2, 1)
    wide = replace(lean, generators=3, buffers=1, pairs=4).prepare(market)
    assert (wide.generators, wide.buffers, wide.pairs) == (3, 2, 4)
    few, many = (
        advance(market, solver, begin(market, solver), jnp.asarray(50))[1]
        for solver in (lean, wide)
    )
    for one, other in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        assert np.allclose(one, other, atol=1e-8)


def test_slots_give_back_what_they_took():
    """Five items of three owners: padded to (3, 3, ...) and back unchanged, empty slots 0."""
    owner = jnp.asarray([2, 0, 2, 2, 0], jnp.int32)
    values = jnp.arange(10.0).reshape(5, 2) + 1
    places = slots(owner, 3, busiest(np.asarray(owner)))
    padded = places.pad(values)
    assert padded.shape == (3, 3, 2)
    assert np.array_equal(places.take(padded), values)
    assert float(jnp.sum(padded)) == float(jnp.sum(values))


def test_reflected_steps():
    """price + step (2 now - before), and never below 0 for a limit."""
    price, step, now, before = (jnp.asarray(a) for a in (0.1, 0.5, 3.0, 2.0))
    assert float(move_price(price, step, now, before)) == pytest.approx(2.1)
    assert float(move_limit(price, step, -now)) == 0.0
    assert float(move_limit(price, step, jnp.asarray(-jnp.inf))) == 0.0


def test_infeasible_market_neither_hangs_nor_turns_nan():
    """100 kW of load, 8 kW of trade limit and no import: prices grow, everything stays finite."""
    market = two_neighbors(load=100.0)
    solver = solver_for(market)
    _, plan, prices, error = advance(market, solver, begin(market, solver), jnp.asarray(50))
    assert float(error) > 1e-2
    assert all(bool(jnp.all(jnp.isfinite(a))) for a in jax.tree.leaves((plan, prices)))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"relaxation": 2.0}, "relaxation"),
        ({"relaxation": 0.5}, "relaxation"),
        ({"inertia": 0.34}, "inertia"),
        ({"balance": 0.0}, "balance"),
    ],
)
def test_options_outside_the_guarantee_are_refused(options: dict[str, float], named: str):
    with pytest.raises(ValueError, match=named):
        replace(SemiDecentralized(), **options)
