"""Splits of what coalitions gain: closed forms of game theory, and markets worked by hand."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog, minimize

import jaxgne as jg
from jaxgne import coalitions
from jaxgne.cooperative import every

GLOVES = [0, 0, 0, 1, 0, 1, 0, 1]  # who has the left one, and two who have a right one
MAJORITY = [0, 0, 0, 1, 0, 1, 1, 1]  # any two share 1
STREET = [0, 0, 0, 0, 0, 0.6, 0.4, 0.6]  # of `street` below: buyers of 4 and 2 kW, 3 kW for sale


def street(limit: float = 9.0, **more) -> jg.Market:
    """Two buyers and who feeds in 3 kW, for an hour in which the main grid's spread is 0.20."""
    return jg.Market(
        jg.Prosumers([0, 0, 0], [[4.0], [2.0], [-3.0]], export_max=10.0, **more),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.30, export=0.10),
        trading=jg.Trading([0, 1], [2, 2], limit),
    )


def drawn(seed: int, players: int) -> np.ndarray:
    """Values that grow with the coalition, of coalitions of one 0."""
    rng = np.random.default_rng(seed)
    members = every(players)
    values = rng.uniform(size=2**players) * (members.sum(axis=1) > 1)
    subset = (members[:, None] >= members).all(axis=2)  # of row k those within it
    return np.where(subset, values, 0.0).max(axis=1)


@pytest.mark.parametrize(
    ("values", "right"),
    [(GLOVES, [2 / 3, 1 / 6, 1 / 6]), (MAJORITY, [1 / 3] * 3), (STREET, [1 / 6, 1 / 15, 11 / 30])],
)
def test_shapley_values_of_textbooks(values, right):
    np.testing.assert_allclose(coalitions.shapley(values).gains, right, atol=1e-12)


@given(st.integers(0, 999))
@settings(max_examples=20, deadline=None)
def test_the_shapley_value_is_the_mean_over_all_orders(seed):
    """By its definition, order by order."""
    values, total = drawn(seed, 4), np.zeros(4)
    for order in permutations(range(4)):
        inside = 0
        for player in order:
            total[player] += values[inside | 1 << player] - values[inside]
            inside |= 1 << player
    np.testing.assert_allclose(coalitions.shapley(values).gains, total / 24, atol=1e-12)


@given(st.integers(0, 999), st.floats(-2, 2))
@settings(max_examples=20, deadline=None)
def test_the_axioms_of_shapley_hold(seed, factor):
    """Additive, efficient; whoever adds nothing gets nothing, and who add alike get alike."""
    one, other = drawn(seed, 4), drawn(seed + 1000, 4)
    both = coalitions.shapley(one + factor * other).gains
    parts = coalitions.shapley(one).gains + factor * coalitions.shapley(other).gains
    np.testing.assert_allclose(both, parts, atol=1e-12)
    assert both.sum() == pytest.approx(one[-1] + factor * other[-1])
    dummy = coalitions.shapley(np.tile(one, 2)).gains
    np.testing.assert_allclose(dummy, [*coalitions.shapley(one).gains, 0.0], atol=1e-12)
    swapped = every(4)[:, [1, 0, 2, 3]] @ (1 << np.arange(4))
    alike = coalitions.shapley(one + one[swapped]).gains
    assert alike[0] == pytest.approx(alike[1])


def test_sampled_shapley_values_have_the_error_that_they_say():
    """Within four standard errors of the exact ones, which fall with samples; sums are exact."""
    values = drawn(3, 6)
    exact = coalitions.shapley(values).gains
    few, many = (coalitions.shapley(values, samples=n, seed=1) for n in (40, 640))
    for found in (few, many):
        assert (np.abs(found.gains - exact) <= 4 * found.error).all() and (found.error > 0).all()
        assert found.gains.sum() == pytest.approx(values[-1], abs=1e-12)
    np.testing.assert_allclose(few.error / many.error, 4.0, rtol=0.5)


@pytest.mark.parametrize(
    ("estate", "right"),
    [(100, [100 / 3] * 3), (200, [50, 75, 75]), (300, [50, 100, 150])],
)
def test_the_nucleolus_divides_as_the_talmud_does(estate, right):
    """Claims of 100, 200 and 300 (Aumann, Maschler, Journal of Economic Theory 36, 1985)."""
    claims = np.array([100, 200, 300])
    values = np.maximum(estate - ~every(3) @ claims, 0)
    np.testing.assert_allclose(coalitions.nucleolus(values).gains, right, atol=1e-6)


@given(st.integers(0, 999))
@settings(max_examples=15, deadline=None)
def test_the_nucleolus_meets_kohlberg_s_criterion(seed):
    """Those whose excess is above any level cover all players alike, each with a weight above 0."""
    values, members = drawn(seed, 4), every(4)[1:-1]
    split = coalitions.nucleolus(values).gains
    assert split.sum() == pytest.approx(values[-1])
    excess = values[1:-1] - members @ split
    for level in np.unique(np.round(excess, 7)):
        rows = members[excess >= level - 1e-6] * 1.0
        found = linprog(
            np.r_[np.zeros(len(rows)), -1.0],
            A_ub=np.c_[-np.eye(len(rows)), np.ones(len(rows))],
            b_ub=np.zeros(len(rows)),
            A_eq=np.c_[rows.T, np.zeros(4)],
            b_eq=np.ones(4),
            bounds=(None, None),
        )
        assert found.status == 0 and found.x[-1] > 1e-6


@pytest.mark.parametrize(
    ("values", "right", "gain"),
    [(GLOVES, [1, 0, 0], 0.0), (MAJORITY, [1 / 3] * 3, 1 / 3), (STREET, [0.2, 0, 0.4], 0.0)],
)
def test_least_cores_of_textbooks(values, right, gain):
    """What the worst off coalition would gain; of `STREET` the core's split next to equal."""
    split = coalitions.least_core(values)
    np.testing.assert_allclose(split.gains, right, atol=1e-6)
    found = coalitions.core_check(split.game, split)
    assert float(found.gain) == pytest.approx(gain, abs=1e-6) and found.proof


@pytest.mark.parametrize("seed", range(6))
def test_equal_profit_is_the_nearest_split_that_coalitions_accept(seed):
    """Against SLSQP, also where there is no core."""
    values, energy = drawn(seed, 4), np.random.default_rng(seed).uniform(0.5, 3.0, 4)
    values[-1] *= 1.0 + 0.6 * (seed % 3)
    members, goal = every(4)[1:-1] * 1.0, values[-1] * energy / energy.sum()
    worst = coalitions.core_check(values, coalitions.least_core(values)).gain
    assert (worst > 0) == (seed % 3 == 0)
    left = min(-float(worst), 0.0)
    found = coalitions.equal_profit(values, energy=energy).gains
    best = minimize(
        lambda x: np.sum((x - goal) ** 2 / energy),
        coalitions.nucleolus(values).gains,
        method="SLSQP",
        constraints=[
            {"type": "eq", "fun": lambda x: x.sum() - values[-1]},
            {"type": "ineq", "fun": lambda x: members @ x - values[1:-1] - left},
        ],
        options={"ftol": 1e-14, "maxiter": 500},
    )
    np.testing.assert_allclose(found, best.x, atol=1e-5)


def test_simple_rules_split_by_what_they_say():
    values = STREET
    np.testing.assert_allclose(coalitions.equal(values).gains, [0.2] * 3)
    np.testing.assert_allclose(coalitions.by_benefit(values).gains, [0.15, 0.0, 0.45])
    found = coalitions.by_energy(values, energy=[2, 1, 3])
    np.testing.assert_allclose(found.gains, [0.2, 0.1, 0.3])
    nothing = coalitions.by_energy(np.zeros(8), energy=[0, 0, 0])
    np.testing.assert_allclose(nothing.gains, 0.0)


def test_the_core_check_names_who_would_leave():
    game = coalitions.game(STREET, names=("Miller", "Bakery", "School"))
    found = coalitions.core_check(game, [0.2, 0.2, 0.2])
    assert (found.coalition, found.holds) == ((0, 2), False)
    assert float(found.gain) == pytest.approx(0.2)
    assert str(found) == "not in the core: Miller, School would gain 0.20 EUR by leaving"
    wasted = coalitions.core_check(game, [0.15, 0.0, 0.43])  # 0.02 is handed to nobody
    assert not wasted.holds and float(wasted.gain) == pytest.approx(0.02)
    found = coalitions.core_check(game, [0.1, 0.0, 0.5])
    assert found.holds and str(found).startswith("no coalition gains by leaving, of all 6 coali")


def test_a_market_s_coalitions_gain_what_they_save_by_hand():
    """Each kWh that passes among members saves 0.20: of 3 kW the first takes 3, the second 2."""
    game = coalitions.game(street(), tol=1e-9)
    np.testing.assert_allclose(game.values[np.lexsort(game.members.T)], STREET, atol=1e-6)
    np.testing.assert_allclose(game.energy, [2.0, 1.0, 3.0], atol=1e-6)
    found = coalitions.shapley(street(), samples=12, tol=1e-9)
    exact = np.array([1 / 6, 1 / 15, 11 / 30])
    assert (np.abs(found.gains - exact) <= 4 * found.error + 1e-6).all()
    assert "+- EUR" in str(found)
    for rule in ("equal", "by_benefit"):
        whole = getattr(coalitions, rule)(street(), tol=1e-9)
        right = getattr(coalitions, rule)(game)
        np.testing.assert_allclose(whole.gains, right.gains, atol=1e-6)


def test_splits_stand_beside_prices():
    """At marginal prices who sells has all; the mid-market rate leaves sellers and Miller less."""
    found = coalitions.compare(street(names=("Miller", "Bakery", "School")), tol=1e-9)
    for gains in found.gains.values():
        assert gains.sum() == pytest.approx(0.6, abs=1e-5)
    np.testing.assert_allclose(found.gains["marginal"], [0, 0, 0.6], atol=1e-5)
    np.testing.assert_allclose(found.gains["nucleolus"], [0.1, 0, 0.5], atol=1e-5)
    assert found.cores["marginal"].holds and not found.cores["mid-market"].holds
    assert "Miller, School: 0.10" in str(found)


@pytest.mark.parametrize("seed", range(3))
def test_marginal_prices_of_price_takers_are_in_the_core(seed):
    """As a competitive equilibrium is, where the main grid's price and the total do not move."""
    rng = np.random.default_rng(seed)
    market = jg.Market(
        jg.Prosumers([0] * 4, rng.uniform(-3, 3, (4, 3)), export_max=20.0),
        jg.Grid([[0.0] * 3], model="copperplate"),
        jg.Tariff(0.0, hours=3, base=rng.uniform(0.2, 0.4, 3), export=0.05, anticipation=0.0),
        jg.Generators([0], 2.0, hours=3, quadratic=0.02, linear=0.1),
        jg.Buffers([1], 1.0, 1.0, 4.0, 2.0, hours=3, charge_efficiency=0.9),
        jg.Trading([0, 0, 1, 2, 3], [1, 2, 2, 3, 0], limit=1.5, toll=0.01),
    )
    game = coalitions.game(market, tol=1e-8)
    alone = jg.comparison.baselines(market)["no trading"]
    costs = [jg.comparison.outcome(m, jg.clear(m, tol=1e-8)).cost for m in (alone, market)]
    assert game.whole > 1e-2
    found = coalitions.core_check(game, np.asarray(costs[0] - costs[1]), tolerance=1e-5)
    assert found.holds and found.proof


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda: coalitions.game([0, 1, 2]), r"values of shape \(3,\); give a finite one for each"),
        (lambda: coalitions.game([1, 1]), "nobody gains 1 EUR; give 0 as the first"),
        (lambda: coalitions.game("street"), "game: 'street' was given; give a jaxgne.Market"),
        (lambda: coalitions.game(STREET, names=("Miller",)), "1 names for 3 players"),
        (lambda: coalitions.game(street(), most=2), "3 prosumers make 8 coalitions to clear"),
        (lambda: coalitions.game(street(), most=13), "most=13; give 12 at most"),
        (lambda: coalitions.shapley(STREET, samples=5), "samples=5; give an even number, 4 or"),
        (lambda: coalitions.by_energy(STREET), "a table of values has no energy; give energy="),
        (lambda: coalitions.by_energy(STREET, energy=[1, -1, 0]), r"energy of shape \(3,\); give"),
        (lambda: coalitions.core_check(STREET, [np.nan] * 3), "numbers that are not finite"),
        (lambda: coalitions.core_check(STREET, [0.3] * 3), "hands out 0.3 EUR more than the 0.6"),
        (lambda: coalitions.core_check(STREET, [0.3]), "give one number for each of the 3"),
        (
            lambda: coalitions.nucleolus(coalitions.equal(street()).game),
            "the value of a coalition is not known",
        ),
        (lambda: coalitions.game(street(import_max=3.0)), "where nobody trades the market does"),
    ],
)
def test_mistakes_are_told(ask, said):
    with pytest.raises(ValueError, match=said):
        ask()


def test_rounding_makes_nobody_leave():
    """Two who have nothing to sell gain nothing together, to what their market is cleared to."""
    market = jg.Market(
        jg.Prosumers([0, 0], [[4.0], [2.0]]),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.30),
        trading=jg.Trading([0], [1], limit=9.0),
    )
    game = coalitions.game(market)
    assert np.abs(game.values).max() <= game.precision <= 1e-5
    off = 0.9 * game.precision
    for split in (coalitions.equal(game), np.array([-off, off])):
        assert coalitions.core_check(game, split).holds
    assert not coalitions.core_check(game, [0.0, 0.0], tolerance=-1e-5).holds


def test_a_sample_is_no_proof():
    """Those who were not asked may leave, and the sentence says so."""
    found = coalitions.equal(street(limit=0.0))
    assert "others were not asked, so this is no proof" in str(found)
