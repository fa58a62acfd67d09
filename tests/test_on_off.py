"""On/off units: patterns, best responses and regrets, against all patterns that there are."""

import itertools
from typing import Any

import clarabel as clarabel_module
import numpy as np
import pytest
import scipy.sparse as sparse

import jaxgne as jg
from jaxgne import on_off, patterns
from jaxgne.best_response import best_response, priced
from jaxgne.curves import Isoelastic
from jaxgne.market import cast
from jaxgne.runner import hosted, jnp
from tests.reference import solve

clarabel: Any = clarabel_module
HOURS = 3


def kept(units: patterns.Units, on: np.ndarray) -> bool:
    """Whether every run of a pattern is as long as its unit must be; what is cut off may be less.

    Before the first step the unit has been as it is for long, after the last one nobody looks.
    """
    for k, row in enumerate(np.asarray(on, bool).tolist()):
        runs = [(state, len(list(each))) for state, each in itertools.groupby(row)]
        first = 1 if runs[0][0] == bool(units.on[k]) else 0
        for state, length in runs[first:-1]:
            if length < int((units.up if state else units.down)[k]):
                return False
    return True


def started(units: patterns.Units, on: np.ndarray) -> np.ndarray:
    """What the starts of each unit cost, EUR."""
    now = np.asarray(on, int)
    before = np.concatenate([np.asarray(units.on, int)[:, None], now[:, :-1]], axis=1)
    return np.asarray(units.start_cost) * (now > before).sum(axis=1)


def every(units: patterns.Units) -> list[np.ndarray]:
    """All patterns that last as long as they must."""
    shape = np.shape(units.low)
    bits = itertools.product((False, True), repeat=shape[0] * shape[1])
    return [on for each in bits if kept(units, on := np.reshape(each, shape))]


def market(seed: int = 0, **options: Any) -> jg.Market:
    """Three prosumers behind a line: two generators, a battery, an elastic load, three pairs."""
    rng = np.random.default_rng(seed)
    return jg.Market(
        jg.Prosumers([1, 1, 1], rng.uniform(1, 6, (3, HOURS)), export_max=2.0),
        jg.Grid(np.full((2, HOURS), 0.5), [0], [1], 1e-4, 1e-5, rating=40.0),
        jg.Tariff(0.004, hours=HOURS, base=rng.uniform(0.1, 0.4, HOURS), export=0.05, **options),
        jg.Generators([0, 1, 1], [[6.0], [5.0], [0.0]], hours=HOURS,
                      power_min=[[0.0], [0.0], [-2.0]],
                      linear=[0.12, 0.2, 0.25], quadratic=[0.01, 0.002, 0.0]),
        jg.Buffers([0, 2], 2.0, 2.0, 6.0, 3.0, hours=HOURS, charge_efficiency=0.9,
                   discharge_efficiency=0.9, linear=0.01, quadratic=0.002, final_value=0.2),
        jg.Trading([0, 1, 0], [1, 2, 2], 4.0, toll=0.01, fee_buyer=0.02,
                   fee_seller=[0.0, 0.02, 0.01]),
    )  # fmt: skip


def table(given: jg.Market) -> patterns.Units:
    return patterns.units(
        given, [0, 1, 2], minimum=[3.0, 2.5, 1.0], up=2, down=[2, 1, 1], start_cost=[0.2, 0.1, 0.0]
    )


@pytest.mark.parametrize("seed", range(3))
def test_the_cheapest_pattern_is_that_of_all(seed: int):
    """By counting all of them: 4 units of random times and starts, 6 steps, some of them shut."""
    rng = np.random.default_rng(seed)
    given = jg.Market(
        jg.Prosumers([0], np.ones((1, 6))),
        jg.Grid(np.zeros((1, 6)), model="copperplate"),
        jg.Tariff(0.01, hours=6),
        jg.Generators([0] * 4, 5.0, hours=6),
    )
    units = patterns.units(
        given,
        up=rng.integers(1, 4, 4),
        down=rng.integers(1, 4, 4),
        start_cost=rng.uniform(0, 0.5, 4),
        on=rng.integers(0, 2, 4) > 0,
    )
    worth = rng.normal(size=(4, 6))
    worth[rng.random((4, 6)) < 0.1] = np.inf
    on, cost = patterns.cheapest(units, jnp.asarray(worth))
    assert kept(units, np.asarray(on))
    np.testing.assert_allclose(patterns.cost_of(units, worth, on), cost, atol=1e-12)
    np.testing.assert_allclose(
        patterns.cost_of(units, np.zeros((4, 6)), on), started(units, np.asarray(on)), atol=1e-12
    )
    for k in range(4):
        rows = [np.where(np.arange(4)[:, None] == k, np.array(bits), False)
                for bits in itertools.product((False, True), repeat=6)]  # fmt: skip
        alone = patterns.Units(
            **{name: jnp.asarray(value)[k : k + 1] for name, value in vars(units).items()}
        )
        totals = [
            np.where(row[k], worth[k], 0.0).sum() + started(alone, row[k : k + 1])[0]
            for row in rows
            if kept(alone, row[k : k + 1])
        ]
        assert float(cost[k]) == pytest.approx(min(totals), abs=1e-12)


def least_cost(given: jg.Market, clearing: jg.Clearing, i: int, on: dict[int, np.ndarray]) -> float:
    """The least that a prosumer's plan costs at the prices, its units by a pattern: by Clarabel.

    Written from model.md (Decisions, Costs, Prices, Gaps) for the market above; inf where none is.
    """
    people, units, stores, pairs = given.prosumers, given.generators, given.buffers, given.trading
    tariff, prices = given.tariff, clearing.prices
    sigma = np.asarray(clearing.plan.imports).sum(0) + np.asarray(given.grid.passive).sum(0)
    main = np.asarray(tariff.base + tariff.slope * sigma + prices.aggregate)
    here = np.asarray(prices.bus)[int(people.bus[i])]
    pi = np.asarray(prices.balance)
    columns: list[tuple[Any, Any, Any, Any, Any]] = []  # low, high, linear, quadratic, supply
    for k in np.flatnonzero(np.asarray(units.owner) == i).tolist():
        low, high = np.asarray(units.power_min)[k], np.asarray(units.power_max)[k]
        if k in on:
            low, high = low * on[k], high * on[k]
        columns.append((low, high, float(units.linear[k]) - here, float(units.quadratic[k]), 1.0))
    own = np.kron(tariff.anticipation * np.asarray(tariff.slope) / 2, 1.0)
    columns.append((0.0, 1e3, main, own, 1.0))
    columns.append((0.0, float(people.export_max[i, 0]), -np.asarray(tariff.export)
                    - np.asarray(prices.aggregate), 0.0, -1.0))  # fmt: skip
    for e in range(len(pairs.buyer)):
        if i not in (int(pairs.buyer[e]), int(pairs.seller[e])):
            continue
        fees = float(pairs.fee_buyer[e, 0]), float(pairs.fee_seller[e, 0])
        mu = (pi[int(pairs.buyer[e])] + pi[int(pairs.seller[e])] - sum(fees)) / 2
        mine = fees[0] if int(pairs.buyer[e]) == i else fees[1]
        for sign in (1.0, -1.0):  # bought, sold
            columns.append((0.0, 4.0, sign * (mine + mu) + float(pairs.toll[e, 0]), 0.0, sign))
    first = len(columns)
    batteries = np.flatnonzero(np.asarray(stores.owner) == i).tolist()
    for k in batteries:
        cost = float(stores.linear[k]), float(stores.quadratic[k])
        columns.append((0.0, 2.0, cost[0] + here, cost[1], -1.0))
        columns.append((0.0, 2.0, cost[0] - here, cost[1], 1.0))
        worth = np.zeros(HOURS)
        worth[-1] = -float(stores.final_value[k])
        columns.append((0.0, 6.0, worth, 0.0, 0.0))
    low, high, linear, quadratic, supply = (
        np.stack([np.broadcast_to(column[part], HOURS) for column in columns]).astype(float)
        for part in range(5)
    )
    eye = sparse.eye(HOURS)
    rows = [sparse.hstack([row[0] * eye for row in supply])]
    side = [np.asarray(people.load)[i]]
    for n in range(len(batteries)):
        block = [sparse.csc_matrix((HOURS, HOURS))] * len(columns)
        block[first + 3 * n : first + 3 * n + 3] = [
            -0.9 * eye,
            eye / 0.9,
            eye - sparse.eye(HOURS, k=-1),
        ]
        rows.append(sparse.hstack(block))
        side.append(np.array([3.0, 0.0, 0.0]))
    count = low.size
    matrix = sparse.csc_matrix(sparse.vstack([*rows, sparse.eye(count), -sparse.eye(count)]))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    cones = [clarabel.ZeroConeT(HOURS * len(rows)), clarabel.NonnegativeConeT(2 * count)]
    answer = clarabel.DefaultSolver(
        sparse.diags(2 * quadratic.ravel(), format="csc"), linear.ravel(), matrix,
        np.concatenate([*side, high.ravel(), -low.ravel()]), cones, settings,
    ).solve()  # fmt: skip
    return float(answer.obj_val) if "Solved" in str(answer.status) else np.inf


@pytest.mark.parametrize("behavior", [0.0, 1.0])
def test_a_best_response_is_that_of_all_patterns(behavior: float):
    """Owner by owner: every pattern of its units, and the convex program of each by Clarabel."""
    given = market(anticipation=behavior)
    units = table(given)
    free = patterns.relaxed(given, units)
    clearing = jg.clear(free)
    made = hosted(priced)(free, units, clearing.plan, clearing.prices)
    on_box = {0: (3.0, 6.0), 1: (2.5, 5.0), 2: (-2.0, -1.0)}
    table_ = given.generators
    bounds = np.array([on_box[k] for k in range(3)])
    boxed = jg.Market(
        given.prosumers,
        given.grid,
        given.tariff,
        jg.Generators(table_.owner, bounds[:, 1:], power_min=bounds[:, :1], hours=HOURS,
                      linear=table_.linear, quadratic=table_.quadratic),
        given.buffers,
        given.trading,
    )  # fmt: skip
    for i, own in ((0, [0]), (1, [1, 2])):
        totals = [
            least_cost(boxed, clearing, i, {k: on[k] for k in own}) + started(units, on)[own].sum()
            for on in every(units)
            if not on[[k for k in range(3) if k not in own]].any()
        ]
        answer = best_response(made, i)
        assert answer.least == pytest.approx(min(totals), abs=2e-6)
        assert answer.found == pytest.approx(min(totals), abs=2e-6)
    answer = best_response(made, 2)  # has none, and is at its best
    assert answer.cost == pytest.approx(least_cost(boxed, clearing, 2, {}), abs=1e-5)
    assert answer.least == pytest.approx(answer.cost, abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_no_pattern_beats_the_bound(seed: int):
    """All patterns of the whole market by the oracle: the least potential is between both."""
    given = market(seed)
    units = table(given)
    found = on_off.clear(given, units, keep="cost")
    assert kept(units, np.asarray(found.on)) and bool(found.clearing.ok)
    least = np.inf
    generation = None
    for on in every(units)[:: 1 if seed == 0 else 5]:
        answer = solve(patterns.switched(given, units, jnp.asarray(on)))
        total = answer.potential + started(units, on).sum()
        if answer.status == "solved" and total < least:
            least, generation = total, np.asarray(answer.plan.generation)
    assert generation is not None
    assert float(found.bound) <= least + 1e-5
    if seed == 0:
        assert float(found.cost) >= least - 1e-5
    assert float(found.gap) >= 0 and float(found.gap) < 0.02 * least


@pytest.mark.parametrize("seed", range(2))
def test_plans_are_what_their_patterns_say(seed: int):
    """On within the unit's bounds, off at 0, as long as it must; regrets bound what is known."""
    given = market(10 + seed)
    rng = np.random.default_rng(seed)
    units = patterns.units(
        given, [1, 0], minimum=[2.0, 4.0], up=rng.integers(1, 4, 2), down=rng.integers(1, 4, 2),
        start_cost=0.3, on=[True, False],
    )  # fmt: skip
    found = on_off.clear(given, units, patterns=4)
    on, power = np.asarray(found.on), np.asarray(found.clearing.plan.generation)[[1, 0]]
    assert kept(units, on)
    np.testing.assert_allclose(power[~on], 0.0, atol=1e-5)
    assert np.all(power[on] >= np.asarray(units.low)[on] - 1e-5)
    assert np.all(power[on] <= np.asarray(units.high)[on] + 1e-5)
    assert np.all(np.asarray(found.known) <= np.asarray(found.regret) + 1e-12)
    np.testing.assert_allclose(found.known[:2], found.regret[:2], atol=2e-5)
    starts = started(units, on)
    np.testing.assert_allclose(found.start_costs, [starts[1], starts[0], 0.0])


def test_whole_numbers_by_themselves_leave_nothing_to_gain():
    """The main grid is dearer than the unit at full power by day, cheaper by night."""
    given = jg.Market(
        jg.Prosumers([0, 0], [[8.0, 9.0, 8.0], [1.0, 1.0, 1.0]]),
        jg.Grid(np.zeros((1, HOURS)), model="copperplate"),
        jg.Tariff(0.0, hours=HOURS, base=[0.1, 0.4, 0.4]),
        jg.Generators([1], 5.0, hours=HOURS, linear=0.2),
        trading=jg.Trading([0], [1], 8.0),
    )
    found = on_off.clear(given, patterns.units(given, minimum=2.0, up=2, down=2))
    assert np.asarray(found.on).tolist() == [[False, True, True]]
    assert float(found.epsilon) < 1e-6 and abs(float(found.gap)) < 1e-5
    assert found.patterns == 1 and found.infeasible == 0
    assert "nobody gains more than" in str(found) and ".##  1 starts" in str(found)


def test_what_a_unit_loses_at_the_prices_is_its_regret():
    """Shut off from the main grid, 2.5 kW of load: a small generator at 0.1 makes 2 kW at most.

    The other, at 0.3, makes 2 kW at least, so that the small one makes 0.5 and sets the price. At
    0.1 the other loses 2 (0.3 - 0.1) = 0.4 EUR, and without it there is no plan.
    """
    given = jg.Market(
        jg.Prosumers([0, 0, 0], [[2.5], [0.0], [0.0]], import_max=0.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.3),
        jg.Generators([1, 2], [2.0, 4.0], hours=1, linear=[0.1, 0.3]),
        trading=jg.Trading([0, 0], [1, 2], 8.0),
    )
    found = on_off.clear(given, patterns.units(given, [1], minimum=2.0))
    assert bool(found.on[0, 0]) and found.infeasible == 1
    np.testing.assert_allclose(found.regret, [0.0, 0.0, 0.4], atol=1e-5)
    assert float(found.epsilon) == pytest.approx(0.4, abs=1e-5)
    assert float(found.cost) == pytest.approx(0.5 * 0.1 + 2 * 0.3, abs=1e-5)
    assert float(found.bound) == pytest.approx(2 * 0.1 + 0.5 * 0.3, abs=1e-5)


def test_a_market_that_no_pattern_serves_says_so():
    """1 kW of load, a unit of 3 kW at least, and nothing else."""
    given = jg.Market(
        jg.Prosumers([0], [[1.0]], import_max=0.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.01, hours=1, base=0.3),
        jg.Generators([0], 4.0, hours=1, linear=0.1),
    )
    units = patterns.units(given, minimum=3.0)
    with pytest.raises(ValueError, match="none of the 2 patterns that were tried has a plan"):
        on_off.clear(given, units)


def test_float32_units_clear():
    """In the narrower numbers, too."""
    given = cast(market(), jnp.float32)
    found = on_off.clear(given, table(given), patterns=1)
    assert found.regret.dtype == jnp.float32 and bool(found.clearing.ok)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"generators": [7]}, "there is no generator 7"),
        ({"generators": [0, 0]}, "given twice"),
        ({"minimum": -1.0}, "minimum of generator 0 is -1; give a number from 0"),
        ({"minimum": 9.0}, "minimum of generator 0 is above the 6 kW"),
        ({"up": 0}, "up of generator 0 is 0; give a number from 1"),
        ({"start_cost": np.nan}, "start_cost of generator 0 is nan"),
    ],
)
def test_units_are_refused_in_a_sentence(options: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        patterns.units(market(), **options)


def test_units_are_given_by_the_names_they_are_shown_by():
    assert np.asarray(patterns.units(market(), ["generator 1"]).generator).tolist() == [1]


def test_what_cannot_have_units_is_refused():
    """Curves, both signs, trees, and words that are none."""
    given = market()
    two_ways = jg.Generators([0], 2.0, power_min=-1.0, hours=HOURS)
    curved = jg.Generators([0], 0.0, power_min=-2.0, hours=HOURS,
                           curves=(Isoelastic([0.3], [1.0], [0.5]),))  # fmt: skip
    parts = (given.prosumers, given.grid, given.tariff)
    with pytest.raises(ValueError, match="both makes and draws"):
        patterns.units(jg.Market(*parts, two_ways))
    with pytest.raises(ValueError, match="is a curve"):
        patterns.units(jg.Market(*parts, curved))
    tree = jg.Market(*parts, given.generators, before=[-1, 0, 0], weight=[1.0, 0.5, 0.5])
    with pytest.raises(ValueError, match="make a tree"):
        on_off.clear(tree, patterns.units(tree))
    word: Any = "both"
    with pytest.raises(ValueError, match="neither 'regret' nor 'cost'"):
        on_off.clear(given, table(given), keep=word)
