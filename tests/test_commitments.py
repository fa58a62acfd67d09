"""Imports and trades that are fixed before anyone knows the branch, against the extensive form."""

from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import foresight, model, scenarios
from jaxgne.commitments import Commitment, at_once
from jaxgne.optimality import residuals
from jaxgne.record import changed
from jaxgne.runner import by_numpy, to_host
from tests.agreement import check_agreement
from tests.branched import SHARE, drawn
from tests.reference import solve

DESK = {"up": 0.9, "down": 0.02}


@cache
def staged(seed: int, grid: str = "lindistflow", **options) -> jg.Market:
    """Three random branches of four uneven steps, whose imports and trades are the same."""
    return scenarios.committed(drawn(seed, grid=grid), SHARE, **DESK, **options)


def coin(more: float = 0.0) -> jg.Market:
    """One prosumer who needs 10 kW one time in four, or `more` often, else 2 kW; no device.

    A kWh is 0.2 EUR a day ahead, 0.5 at once, and brings 0.1 then: each from the second to the
    tenth costs 0.2 EUR and saves 0.5 / 4 + 0.1 * 3 / 4 = 0.2 EUR in the mean.
    """
    market = jg.Market(
        jg.Prosumers([0], [[2.0]]), jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.2),
    )  # fmt: skip
    high = eqx.tree_at(lambda m: m.prosumers.load, market, jnp.asarray([[10.0]]))
    return scenarios.committed([high, market], [0.25 + more, 0.75 - more], up=0.5, down=0.1)


def test_who_may_be_short_buys_ahead():
    """Of the newsvendor: all 10 kW ahead where shortage is likelier than one time in four, 2 kW
    where it is rarer: 0.2 * 10 - 0.1 * 8 * 0.7 = 1.44 and 0.2 * 2 + 0.5 * 8 * 0.2 = 1.2 EUR."""
    for more, bought, cost in ((0.05, 10.0, 1.44), (-0.05, 2.0, 1.2)):
        market = coin(more)
        found = jg.clear(market, tol=1e-9)
        np.testing.assert_allclose(found.plan.imports[0], bought, atol=1e-6)
        assert float(model.potential(market, found.plan)) == pytest.approx(cost, abs=1e-6)


def test_a_commitment_has_the_value_of_the_newsvendor():
    """10 kW three times in ten: known ahead 0.2 (0.3 * 10 + 0.7 * 2) = 0.88 EUR; for the mean 4.4
    are bought: 0.88 + 0.3 * 0.5 * 5.6 - 0.7 * 0.1 * 2.4 = 1.552, more than the best, 1.44 EUR."""
    found = foresight.ahead(coin(0.05), tol=1e-9)
    assert float(found.wait_and_see) == pytest.approx(0.88, abs=1e-6)
    assert float(found.stochastic) == pytest.approx(1.44, abs=1e-6)
    assert float(found.expected_value) == pytest.approx(1.552, abs=1e-6)
    assert float(found.value_of_stochastic_solution) == pytest.approx(0.112, abs=1e-6)
    with pytest.raises(ValueError, match=r"make the market by jaxgne.scenarios.committed"):
        foresight.ahead(changed(coin(), committed=None))


def test_what_is_bought_ahead_counts_for_caps_too():
    """Carbon makes a kWh ahead 0.3 EUR: 10 kW seven times in ten cost 0.3 * 10 - 0.3 * 0.1 * 8 =
    2.76 EUR, the mean of 7.6 kW 0.3 * 7.6 + 0.7 * 0.5 * 2.4 - 0.3 * 0.1 * 5.6 = 2.952."""
    market = coin(0.45)
    market = jg.capped(market, jg.caps.carbon(market, grid=0.4, price=0.25))
    found = foresight.ahead(market, tol=1e-9)
    assert float(found.stochastic) == pytest.approx(2.76, abs=1e-6)
    assert float(found.expected_value) == pytest.approx(2.952, abs=1e-6)


def test_planning_for_all_branches_and_knowing_the_branch_are_worth_something():
    """On a grid, with batteries and prices that rise: never less than nothing; and what is held is
    what the oracle finds with imports and trades fixed, and flows where they are."""
    for seed in (1, 2, 5):
        market = staged(seed)
        found = foresight.ahead(market, tol=1e-8)
        slack = 1e-6 * float(found.clearing.certificate.scales.bill)
        assert float(found.value_of_perfect_information) > -slack
        assert float(found.value_of_stochastic_solution) > -slack
        plan, tables = found.clearing.plan, foresight._kept
        first = jax.tree.map(lambda a: a[:, :4], plan)
        held = foresight._bought(market, tables(market, first))
        again = jg.clear(changed(held, committed=None), tol=1e-9)
        whole = changed(
            again.plan,
            **{n: getattr(again.plan, n) + t for n, t in tables(market, first).items()},
        )
        value = float(model.potential(market, whole))
        assert value == pytest.approx(float(found.stochastic), abs=10 * slack)
        rows = model.rows(market, whole)
        for name in ("balance", "bus", "energy", "voltage"):
            np.testing.assert_allclose(getattr(rows, name), 0.0, atol=1e-4)


@pytest.mark.parametrize("grid", ["lindistflow", "copperplate"])
def test_committed_markets_clear_to_what_the_oracle_finds(grid: str):
    for seed in range(4):
        market = staged(seed, grid)
        found = jg.clear(market, tol=1e-8)
        check_agreement(market, found, solve(market))
        for name in ("imports", "trades"):
            table = getattr(found.plan, name)
            np.testing.assert_allclose(table, at_once(market, name, table, "max"), atol=1e-9)
        bills = jg.settle(market, found)
        np.testing.assert_allclose(jnp.sum(bills.peers, axis=0), 0.0, atol=1e-9)
        assert float(jnp.sum(bills.receipts - bills.rent)) == pytest.approx(0.0, abs=1e-4)


@pytest.mark.slow
@given(st.integers(20, 400), st.sampled_from(["imports", "trades", "both"]))
@settings(max_examples=60, deadline=None)
def test_random_commitments_are_their_extensive_forms(seed: int, which: str):
    tables = ("imports", "trades") if which == "both" else (which,)
    market = staged(seed, tables=tables)
    apart, oracle = jg.clear(market, tol=1e-8, throw=False), solve(market)
    assert bool(apart.ok) == (oracle.status == "solved")
    if apart.ok:
        check_agreement(market, apart, oracle)


def test_batches_and_float32_know_commitments():
    """Two markets of other prices side by side, the answer of each alone; and one in float32."""
    market = staged(1, "copperplate")
    base = np.asarray(market.tariff.base)
    batch = scenarios.sweep(market, lambda m: m.tariff.base, np.stack([base, 1.1 * base]))
    many, one = jg.clear_many(batch), jg.clear(market)
    assert np.all(many.ok)
    np.testing.assert_allclose(many.aggregate[0], one.aggregate, atol=2e-3)
    for lane in range(2):
        for name in ("imports", "trades"):
            table = jnp.asarray(getattr(many.plan, name)[lane])
            np.testing.assert_allclose(table, at_once(market, name, table, "max"), atol=1e-9)
    single = jg.clear(jg.market.cast(market, "float32"))
    assert bool(single.ok)
    np.testing.assert_allclose(single.aggregate, one.aggregate, atol=0.3)


def test_the_judge_measures_a_decision_once():
    """The oracle's plan and prices are an equilibrium to the judge; with one kW more in one branch
    they are infeasible by 2/3 kW, and the certificate says where."""
    market = staged(1)
    oracle = solve(market)
    with by_numpy():
        here, plan, prices = to_host((market, oracle.plan, oracle.prices))
        assert float(residuals(here, plan, prices).error) < 1e-6
        plan = changed(plan, imports=plan.imports.at[0, 5].add(1.0))
        found = residuals(here, plan, prices)
    assert float(found.bounds.imports) == pytest.approx(2 / 3, abs=1e-6)
    assert int(found.bound_places.imports) == 5
    told = jg.certify(market, jax.tree.map(jnp.asarray, plan), oracle.prices)
    assert "import of prosumer 0" in "\n".join(told.violations())


def test_gaps_are_what_one_decision_saves():
    """A best response in closed form: one prosumer imports 3 kW in two steps of one moment, of
    weight 0.5 each, at 0.2 EUR/kWh.

    A kWh worth 0.3 in one step, nothing in the other, is not worth its price: 3 (0.2 - 0.15) EUR
    are saved by none. One of 0.2 in the other is: by the fourth kW.
    """
    market = jg.Market(
        jg.Prosumers([0], [[4.0, 4.0]]), jg.Grid([[0.0] * 2], model="copperplate"),
        jg.Tariff(0.0, hours=2, base=0.2), weight=0.5, before=[-1, -1], committed=[0, 0],
    )  # fmt: skip
    plan = changed(model.zeros(market), imports=jnp.full((1, 2), 3.0))
    for value, gap in ((0.0, 0.15), (0.2, 0.05)):
        prices = changed(model.rows_like(market), balance=jnp.asarray([[0.3, value]]))
        with by_numpy():
            found = residuals(*to_host((market, plan, prices)))
        assert float(found.gap[0]) == pytest.approx(gap)


def test_prox_is_a_projection_in_the_metric_of_the_steps():
    """Against the closest point of a fine grid, for random wishes, steps, tolls and limits."""
    rng = np.random.default_rng(0)
    pair = jg.Trading([0], [1], [[2.0, 1.5, 3.0]], toll=0.1)
    market = jg.Market(
        jg.Prosumers([0, 0], np.ones((2, 3))), jg.Grid([[0.0] * 3], model="copperplate"),
        jg.Tariff(0.0, hours=3, base=0.2), trading=pair, weight=[0.2, 0.3, 0.5],
        before=[-1, -1, -1], committed=[0, 0, 0],
    )  # fmt: skip
    points, tolls = np.linspace(-1.5, 1.5, 300_001), np.asarray(model.toll(market))[0]
    for _ in range(20):
        wish, step = rng.normal(size=3) * 2, rng.uniform(0.1, 3.0, 3)
        plan, size = (changed(model.zeros(market), trades=jnp.asarray(a)[None])
                      for a in (wish, step))  # fmt: skip
        with by_numpy():
            found = np.asarray(model.prox(*to_host((market, plan, size))).trades)[0]
        cost: Any = sum(
            t * np.abs(points) + (points - w) ** 2 / (2 * s)
            for t, w, s in zip(tolls, wish, step, strict=True)
        )
        np.testing.assert_allclose(found, points[cost.argmin()], atol=2e-5)


def test_what_no_commitment_meets_is_proven():
    """2 kW in one branch, 10 kW in the other, of which the desk balances 1 kW: each has a plan,
    both together have none but with a desk of 4 kW."""
    market = coin()
    market = eqx.tree_at(
        lambda m: (m.prosumers.import_max, m.trading.limit, m.prosumers.export_max),
        market,
        (jnp.asarray([[12.0] * 2, [0.0] * 2]), jnp.asarray([[1.0]]), jnp.zeros((2, 2))),
    )
    assert solve(market).status == "infeasible"
    assert solve(changed(market, committed=None)).status == "solved"
    lost = jg.clear(market, throw=False)
    assert jg.status.status_name(lost.status) == "infeasible"
    found = jg.relax(market, limits=["Trading.limit"], prices={"Trading.limit": 1.0})
    assert [row.amount for row in found.table] == pytest.approx([3.0], rel=1e-6)
    assert bool(jg.clear(found.market).ok)


def test_other_solvers_and_derivatives_refuse_commitments():
    market = staged(1)
    for solver in (jg.InteriorPoint(), jg.SemiDecentralized()):
        with pytest.raises(ValueError, match=r"decides for several steps .*PrimalDual"):
            jg.clear(market, solver)
    with pytest.raises(ValueError, match="PrimalDual"):
        jg.clear(market, runner="numpy")
    with pytest.raises(ValueError, match="sensitivities: this market decides"):
        jg.sensitivities(market, lambda m, c: jnp.sum(c.aggregate))


def test_commitments_that_do_not_fit_are_refused():
    market = staged(1)
    given: Any = market.committed
    moment = given.moment
    with pytest.raises(ValueError, match="give for each of 12 steps"):
        jg.validate(changed(market, committed=Commitment(moment[:4])))
    with pytest.raises(ValueError, match="rows of prosumers from 0 to 4"):
        jg.validate(changed(market, committed=Commitment(moment, (5,))))
    lengths = market.hour_length.at[5].set(3.0)
    with pytest.raises(ValueError, match=r"Market.hour_length .*step 1 of the same moment has 1 h"):
        jg.validate(changed(market, hour_length=lengths))
    with pytest.raises(ValueError, match="0 <= down <= up"):
        scenarios.committed(drawn(1), SHARE, up=0.1, down=0.2)
    with pytest.raises(ValueError, match="is a tree already"):
        scenarios.tree([market, market], [0.5, 0.5], 1)


def test_folders_keep_commitments(tmp_path):
    market = staged(1, tables=("trades",))
    jg.save(tmp_path / "a", market)
    loaded, _ = jg.load(tmp_path / "a")
    assert loaded.committed == market.committed
    assert loaded.prosumers.names == market.prosumers.names


def test_outside_solvers_get_the_commitments():
    """The program of `convex` has a row for each entry that is tied to the first of its moment, and
    the oracle's plan meets all of them."""
    market = staged(1)
    made, free = jg.convex(market), jg.convex(changed(market, committed=None))
    pairs = int(np.sum(np.asarray(market.trading.seller) != 4))
    assert made.A.shape[0] - free.A.shape[0] == (4 + pairs) * 8
    plan = solve(market).plan
    x = np.concatenate([np.asarray(getattr(plan, n)).ravel() for n in model.families(plan)])
    mixed = np.diff(made.A.tocsr().indptr) == 2
    value = (made.A.tocsr()[:, : x.size] @ x)[mixed & (made.l == 0) & (made.u == 0)]
    assert len(value) >= (4 + pairs) * 8
    np.testing.assert_allclose(value, 0.0, atol=1e-6)


def test_a_branch_of_a_committed_market_is_a_path():
    market = staged(1)
    path, plan = scenarios.branch(market, model.zeros(market), 2)
    assert path.committed is None
    assert path.before is None
    assert plan.imports.shape == (5, 4)
