"""Price zones: several populations with prices of their own, against an oracle and closed forms."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import jaxgne as jg
from jaxgne import frames, model, pool, settlement, zones
from jaxgne.acflow import drawn, flow
from jaxgne.incidence import left
from jaxgne.market import Zones
from jaxgne.padding import pad
from jaxgne.record import changed
from jaxgne.runner import by_numpy, to_host
from tests.agreement import SOLVERS, check_agreement
from tests.markets import SHAPES, anything, random_market, random_zones
from tests.reference import solve, violations


def two_lone(kappa: float = 1.0, limit: float = 0.0) -> jg.Market:
    """Prosumer 0 in a cheap zone, 1 in a dear one, 2 h, a generator each; a pair may trade."""
    return jg.Market(
        jg.Prosumers([0, 0], [[4.0, 5.0], [6.0, 3.0]], zone=[0, 1]),
        jg.Grid([[1.0, 2.0]], model="copperplate", zone=[1]),
        jg.Tariff([0.01, 0.02], hours=2, base=[0.1, 0.08], anticipation=kappa),
        jg.Generators([0, 1], 50.0, hours=2, quadratic=[0.02, 0.03], linear=[0.05, 0.04]),
        trading=jg.Trading([1], [0], [limit], toll=0.005),
        zones=Zones([0.0, 0.3], [[0.0], [0.03]], names=("town", "hill")),
    )


@pytest.mark.parametrize("kappa", [0.0, 1.0, 0.5])
def test_two_zones_of_one_prosumer_each_have_a_closed_form(kappa: float):
    """Without trades each is alone with its price: c + 2 q p = p0 + d (sigma + kappa p_mg)."""
    market = two_lone(kappa)
    found = jg.clear(market, tol=1e-9, runner="numpy")
    base = np.array([[0.1, 0.08], [0.4, 0.38]])
    slope = np.array([[0.01, 0.02], [0.04, 0.05]])
    passive, load = np.array([[0.0, 0.0], [1.0, 2.0]]), np.array([[4.0, 5.0], [6.0, 3.0]])
    q, c = np.array([[0.02], [0.03]]), np.array([[0.05], [0.04]])
    # c + 2 q (load - m) = base + slope (m + passive + kappa m)
    bought = (c + 2 * q * load - base - slope * passive) / (2 * q + slope * (1 + kappa))
    bought = np.clip(bought, 0, load)
    np.testing.assert_allclose(found.plan.imports, bought, atol=1e-6)
    asked = base + slope * (bought + passive)
    np.testing.assert_allclose(zones.prices(market, found.plan), asked, atol=1e-7)
    np.testing.assert_allclose(zones.totals(market, found.plan), bought + passive, atol=1e-6)
    bills = jg.settle(market, found)
    np.testing.assert_allclose(bills.main_grid, asked * bought, atol=1e-6)
    np.testing.assert_allclose(bills.passive_main_grid[0], asked[1] * passive[1], atol=1e-6)
    np.testing.assert_allclose(bills.sales, (asked * (bought + passive)).sum(0), atol=1e-6)


def test_trades_level_prices_of_zones_up_to_what_they_cost():
    """With room the dear zone buys of the cheap one until energy there is worth 2 tolls more."""
    market = two_lone(limit=50.0)
    found = jg.clear(market, tol=1e-9, runner="numpy")
    value = np.asarray(found.prices.balance)
    assert np.all(np.asarray(found.plan.trades) > 0.1)
    np.testing.assert_allclose(value[1] - value[0], 2 * 0.005, atol=1e-6)


@pytest.mark.parametrize("seed", range(2))
def test_one_zone_is_none(seed: int):
    """A table with a row of zeros changes no number of an answer, by either runner."""
    market = random_market(seed, shape=SHAPES[0])
    zoned = changed(market, zones=Zones([0.0]))
    plain, same = (jg.clear(m, runner="numpy", throw=False) for m in (market, zoned))
    assert int(plain.steps) == int(same.steps)
    for one, other in zip(jax.tree.leaves(plain.plan), jax.tree.leaves(same.plan), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    alike = jg.clear(zones.with_zones(market, 0, base=market.tariff.base[None]), runner="numpy",
                     throw=False)  # fmt: skip
    np.testing.assert_allclose(plain.plan.imports, alike.plan.imports, rtol=1e-12, atol=1e-12)


def zoned_market(seed: int, **fixed: Any) -> jg.Market:
    return random_zones(random_market(seed, **fixed), seed)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(0, 999))
def test_random_zoned_markets_clear_to_what_the_oracle_finds(seed: int):
    market = zoned_market(seed, shape=SHAPES[seed % 4])
    oracle = solve(market)
    found = jg.clear(market, jg.InteriorPoint(), tol=1e-7, runner="numpy", throw=False)
    if oracle.status == "infeasible":
        assert not found.ok
        return
    assert found.ok and oracle.status == "solved"
    check_agreement(market, found, oracle)
    np.testing.assert_allclose(found.costs.sum(), oracle.total_cost, atol=2e-5 * scale_of(found))


def scale_of(clearing: jg.Clearing) -> float:
    return float(clearing.certificate.scales.bill)


def feasible_zoned(seed: int = 3) -> jg.Market:
    """One that clears, on a feeder."""
    return zoned_market(seed, shape=SHAPES[0], grid="lindistflow", behavior="nash")


@pytest.mark.parametrize("name", ["primal-dual", "mechanism"])
def test_all_solvers_agree(name: str):
    market = feasible_zoned()
    solver, tol, most = SOLVERS[name]
    exact = jg.clear(market, jg.InteriorPoint(), tol=1e-9, runner="numpy")
    found = jg.clear(market, solver, tol=tol, max_steps=most)
    scales = exact.certificate.scales
    one, other = (np.asarray(zones.totals(market, c.plan)) for c in (exact, found))
    np.testing.assert_allclose(one, other, atol=2e-3 * float(scales.total))
    spent = [float(model.potential(market, c.plan)) for c in (exact, found)]
    assert abs(spent[0] - spent[1]) < 2e-6 * scale_of(exact)
    one, other = (np.asarray(model.energy_prices(market, c.prices)) for c in (exact, found))
    np.testing.assert_allclose(one, other, atol=1e-3 * float(scales.price))


def moved(market: jg.Market, table: str, field: str, by: Any) -> jg.Market:
    own = getattr(market, table)
    return changed(market, **{table: changed(own, **{field: getattr(own, field) + by})})


@pytest.mark.parametrize("runner", ["numpy", "jax"])
def test_derivatives_are_those_of_finite_differences(runner: Any):
    """Of totals by zone, by every number that zones add, and by the tariff that all share."""
    market = moved(feasible_zoned(), "zones", "slope", 0.002)  # so that none is flat
    weight = np.random.default_rng(1).uniform(-1, 1, (3, 4))
    pay = np.random.default_rng(2).uniform(-1, 1, market.prosumers.load.shape)

    def told(m: jg.Market) -> Any:
        found = jg.clear(m, jg.InteriorPoint(), tol=1e-11, runner=runner)
        return jnp.sum(weight * zones.totals(m, found.plan)) + jnp.sum(pay * found.prices.balance)

    slopes = eqx.filter_grad(told)(market)
    step = 1e-5
    for table, fields in {"zones": ("base", "slope"), "tariff": ("base", "slope")}.items():
        for field in fields:
            own = np.asarray(getattr(getattr(market, table), field))
            way = np.random.default_rng(3).uniform(0, 1, own.shape) * (
                1 if field == "base" else 0.1
            )
            up, down = (float(told(moved(market, table, field, s * step * way))) for s in (1, -1))
            asked = float(np.sum(way * np.asarray(getattr(getattr(slopes, table), field))))
            assert asked == pytest.approx((up - down) / (2 * step), rel=2e-4, abs=1e-6), field


def test_money_goes_round():
    """Payments cancel, and the operator receives what its limits are worth."""
    market = feasible_zoned()
    found = jg.clear(market, tol=1e-9, runner="numpy")
    bills = jg.settle(market, found)
    price, plan = np.asarray(zones.prices(market, found.plan)), found.plan
    zone, home = np.asarray(market.prosumers.zone), np.asarray(market.grid.zone)
    export = (np.asarray(market.tariff.export) + np.asarray(market.zones.export))[zone]
    ts = float(market.hour_length[0])
    own = ts * (price[zone] * np.asarray(plan.imports) - export * np.asarray(plan.exports))
    np.testing.assert_allclose(bills.main_grid, own, atol=1e-9)
    passive = ts * price[home] * np.asarray(market.grid.passive)
    np.testing.assert_allclose(bills.passive_main_grid, passive, atol=1e-9)
    np.testing.assert_allclose(bills.sales, own.sum(0) + passive.sum(0), atol=1e-9)
    np.testing.assert_allclose(bills.receipts, bills.rent, atol=1e-5)


def test_files_keep_zones(tmp_path):
    """Bit by bit, with names, by zone or by hour; a market without zones has no file of them."""
    market = changed(feasible_zoned(), zones=Zones([0.0, 0.2, 0.1], [[0.0, 0.1, 0.0, 0.0]] * 3,
                                                   names=("a", "b", "c")))  # fmt: skip
    clearing = jg.clear(market, runner="numpy")
    jg.save(tmp_path / "zoned", market, clearing)
    again, found = jg.load(tmp_path / "zoned")
    assert found is not None
    assert eqx.tree_equal(market, again) and eqx.tree_equal(clearing.plan, found.plan)
    assert (tmp_path / "zoned" / "zones.csv").read_text().startswith("zone,")
    jg.save(tmp_path / "plain", changed(market, zones=Zones(()), prosumers=changed(
        market.prosumers, zone=0 * market.prosumers.zone), grid=changed(
        market.grid, zone=0 * market.grid.zone)))  # fmt: skip
    assert not list((tmp_path / "plain").glob("zone*"))
    assert "zone" not in (tmp_path / "plain" / "prosumers.csv").read_text()


def test_batches_clear_as_one_by_one():
    """Two scenarios whose zones differ, in one batch; prices are perturbed by zone, too."""
    market = feasible_zoned()
    other = moved(market, "zones", "base", 0.02)
    many = jg.clear_many(jg.scenarios.stack([market, other]), jg.InteriorPoint(), tol=1e-8)
    for k, one in enumerate((market, other)):
        alone = jg.clear(one, jg.InteriorPoint(), tol=1e-8, runner="numpy")
        np.testing.assert_allclose(many.plan.imports[k], alone.plan.imports, atol=1e-4)
    noisy = jg.scenarios.perturb(market, jax.random.key(0), scenarios=2, price=0.1)
    share = np.asarray(noisy.zones.slope) / np.asarray(market.zones.slope)
    both = np.asarray(noisy.tariff.slope) / np.asarray(market.tariff.slope)
    used = np.asarray(market.zones.slope) != 0
    np.testing.assert_allclose(share[:, used], (0 * share + both[:, None])[:, used], rtol=1e-12)


@pytest.mark.parametrize(
    ("zone", "given", "words"),
    [
        ([0, -1], {}, "zone -1 is none; count zones from 0"),
        ([0, 1], {"base": [0.1, 0.2, 0.3, 0.4], "slope": [0.1, 0.2]}, "slope: shape"),
        ([0, 1], {"buses": [4]}, "buses has zones beyond 0 to 1"),
        ([0, 1], {}, "bus 0 has passive load and has prosumers of zones 0, 1"),
    ],
)
def test_what_does_not_fit_is_said(zone: list[int], given: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        zones.with_zones(two_lone(), zone, **given)


def test_zones_are_given_by_name_too():
    """Of prosumers and of buses, or all of these at once."""
    named = zones.with_zones(two_lone(), ["hill", "town"], buses="town", names=["town", "hill"])
    assert np.asarray(named.prosumers.zone).tolist() == [1, 0]
    assert not np.any(np.asarray(named.grid.zone))
    for wrong, words in ((["hill", "dale"], "no zone 'dale'"), ({"a": 1}, "not all numbers")):
        with pytest.raises(ValueError, match=words):
            zones.with_zones(two_lone(), wrong, buses=0, names=["town", "hill"])


def test_a_tie_fee_is_not_asked_of_a_pool_of_several_zones():
    """Its limit holds for what the pool passes on in all; a fee would count twice."""
    pooled = pool.with_pool(zones.with_zones(two_lone(), [0, 1], buses=0, names=["town", "hill"]))
    ends = {"source": "town", "target": "hill", "limit": 1.0}
    with pytest.raises(ValueError, match="fee is asked of pairs with a pool"):
        zones.with_tie_lines(pooled, **ends, fee=0.01)
    assert zones.with_tie_lines(pooled, **ends).caps.names == ("tie town - hill",)


def test_prices_that_fall_are_refused():
    """By zone and hour; and a zone that there is not."""
    market = changed(two_lone(), zones=Zones([0.0, 0.0], [[0.0], [-0.5]]))
    with pytest.raises(ValueError, match=r"Zones.slope row 1 \('zone 1'\).*must not fall"):
        jg.clear(market)
    market = changed(two_lone(), zones=Zones([0.0]))
    with pytest.raises(ValueError, match=r"Prosumers\.zone row 1: zone 1 does not exist"):
        jg.clear(market)


def two_microgrids(limit: float, fee: float = 0.0) -> jg.Market:
    """Two feeders, each a zone: a cheap one whose generators sell to a dear one by a tie line."""
    rng = np.random.default_rng(4)
    zone, bus = np.arange(4) // 2, np.array([1, 1, 3, 3])
    grid = jg.Grid(
        [[0.0] * 2, [1.0, 2.0], [0.0] * 2, [0.5, 0.5]], [0, 2], [1, 3], 1e-5, 1e-5, feeder=[0, 2],
        zone=[0, 0, 1, 1],
    )  # fmt: skip
    market = jg.Market(
        jg.Prosumers(bus, rng.uniform(2, 5, (4, 2)), zone=zone),
        grid,
        jg.Tariff(0.004, hours=2, base=0.1),
        jg.Generators([0, 1], 12.0, hours=2, quadratic=0.01, linear=0.03),
        trading=jg.Trading([2, 0, 1, 2], [0, 3, 2, 3], 10.0, toll=0.001, quadratic=0.001),
        hour_length=0.5,
        zones=Zones([0.0, 0.25], [[0.0], [0.01]], names=("valley", "hill")),
    )
    return zones.with_tie_lines(market, source="valley", target="hill", limit=limit, fee=fee)


def test_a_full_tie_line_costs_what_energy_is_worth_more_beyond():
    """The price difference between zones is the multiplier, fees and costs of the trade apart."""
    market = two_microgrids(3.0, fee=0.02)
    found = jg.clear(market, tol=1e-9, runner="numpy")
    told = zones.ties(market, found)
    np.testing.assert_allclose(told.flow, 3.0, atol=1e-5)
    value, trades = np.asarray(found.prices.balance), np.asarray(found.plan.trades)
    assert np.all(told.price > 0.01) and np.all(np.abs(trades[0]) > 0.01)
    sign, pairs = np.sign(trades[:2]), market.trading  # pairs 0 and 1 cross, either way round
    apart = (value[np.asarray(pairs.buyer)] - value[np.asarray(pairs.seller)])[:2]
    way = np.array([[1.0], [-1.0]])
    asked = sign * 2 * (0.001 + 0.01) + 4 * 0.001 * trades[:2] + way * told.price
    moving = np.abs(trades[:2]) > 1e-3
    np.testing.assert_allclose(apart[moving], asked[moving], atol=1e-6)
    bills = jg.settle(market, found)
    np.testing.assert_allclose(bills.receipts, bills.rent, atol=1e-6)
    np.testing.assert_allclose(told.rent, 0.5 * told.price * 3.0, atol=1e-5)
    tolls = 2 * np.sum(0.5 * np.asarray(pairs.toll) * np.abs(trades), axis=0)
    np.testing.assert_allclose(bills.rent - tolls, told.rent[0], atol=1e-5)


def test_tied_markets_clear_to_what_the_oracle_finds():
    """With a line that binds and one that does not; all that the oracle knows of is in the plan."""
    for limit in (1.5, 50.0):
        market = two_microgrids(limit)
        oracle, found = solve(market), jg.clear(market, tol=1e-8, runner="numpy")
        check_agreement(market, found, oracle)
        worst = violations(market, found.plan)
        assert max(worst.values()) < 1e-5, worst
        np.testing.assert_allclose(found.plan.trades, oracle.plan.trades, atol=1e-4)
        np.testing.assert_allclose(found.prices.cap, oracle.prices.cap, atol=1e-5)


@pytest.mark.parametrize("name", ["primal-dual", "mechanism"])
def test_solvers_agree_on_tie_lines(name: str):
    market = two_microgrids(3.0, fee=0.02)
    solver, tol, most = SOLVERS[name]
    exact = jg.clear(market, jg.InteriorPoint(), tol=1e-9, runner="numpy")
    found = jg.clear(market, solver, tol=tol, max_steps=most)
    np.testing.assert_allclose(exact.plan.trades, found.plan.trades, atol=2e-3)
    np.testing.assert_allclose(exact.prices.cap, found.prices.cap, atol=1e-4)


def test_derivatives_by_a_tie_are_those_of_finite_differences():
    """By its limit, of what it carries and of prices on both sides."""
    market = two_microgrids(3.0)
    pay = np.random.default_rng(2).uniform(-1, 1, market.prosumers.load.shape)

    def told(m: jg.Market) -> Any:
        found = jg.clear(m, jg.InteriorPoint(), tol=1e-11, runner="numpy")
        return jnp.sum(pay * found.prices.balance) + jnp.sum(zones.totals(m, found.plan) ** 2)

    slope = eqx.filter_grad(told)(market).caps.level_max
    step = 1e-5
    up, down = (float(told(moved(market, "caps", "level_max", s * step))) for s in (1, -1))
    assert float(jnp.sum(slope)) == pytest.approx((up - down) / (2 * step), rel=1e-4)


def test_zones_without_a_tie_do_not_trade():
    market = changed(two_microgrids(1.0), zones=Zones([0.0] * 3))
    people = changed(market.prosumers, zone=jnp.asarray([0, 0, 1, 2], jnp.int32))
    tied = zones.with_tie_lines(
        changed(market, prosumers=people, caps=jg.Caps((), hours=2)),
        source=[0], target=[1], limit=2.0,
    )  # fmt: skip
    assert np.asarray(tied.trading.limit)[:, 0].tolist() == [10.0, 0.0, 10.0, 0.0]
    with pytest.raises(ValueError, match="begins and ends in one zone, or is there twice"):
        zones.with_tie_lines(tied, source=[0, 1], target=[1, 0], limit=2.0)
    with pytest.raises(ValueError, match="there is no zone 5"):
        zones.with_tie_lines(tied, source=[0], target=[5], limit=2.0)


def test_tables_tell_of_zones():
    """A row a zone and step; without zones none, and no variable of arrays."""
    market = two_microgrids(3.0)
    found = jg.clear(market, runner="numpy")
    table = frames.zones(market, found)
    assert table["name"].tolist() == ["valley"] * 2 + ["hill"] * 2
    np.testing.assert_allclose(table["price_eur_per_kwh"], zones.prices(market, found.plan).ravel())
    drawn = table["imports_kw"] + table["passive_kw"]
    np.testing.assert_allclose(drawn, zones.totals(market, found.plan).ravel())
    assert found.to_xarray(market).sizes["zone"] == 2
    plain = random_market(0, shape=SHAPES[0])
    assert len(frames.zones(plain, jg.clear(plain, runner="numpy", throw=False))) == 0


def test_losses_are_bought_at_the_price_of_their_zone():
    """What a kW costs more at a bus than at the feeder is what it costs of losses everywhere, each
    at the price of the zone in which it is lost, by finite differences of the AC power flow."""
    market = jg.ieee37(6, hours=2)
    buses = np.arange(len(market.grid.passive)) % 2
    market = zones.with_zones(
        market, np.arange(6) % 2, base=[0.08, 0.2], slope=[4e-5, 8e-5], buses=buses
    )
    found = jg.clear_ac(market)
    linear, answer = found.linear, found.clearing
    assert float(answer.certificate.error) <= 1e-6
    price = np.asarray(zones.prices(linear, answer.plan))[buses]
    bills, lost = jg.settle(linear, answer), settlement.lost_at(linear)
    np.testing.assert_allclose(bills.losses, np.sum(price * lost, axis=0), atol=1e-9)
    np.testing.assert_allclose(bills.receipts - bills.losses, bills.rent, atol=1e-9)
    active, reactive = drawn(market, answer.plan)

    def worth(more: float, bus: int) -> np.ndarray:
        draws = active.at[bus].add(more)
        state = flow(market.grid, draws, reactive)
        losses = -(draws + left(market.grid, state.active, state.reactive)[0])
        return np.sum(price * losses.at[market.grid.feeder].add(state.exchange), axis=0)

    for bus in (5, 20):
        slope = (worth(0.1, bus) - worth(-0.1, bus)) / 0.2
        np.testing.assert_allclose(answer.prices.bus[bus], slope, rtol=1e-4)


def test_workbooks_padding_and_auctions_know_zones(tmp_path):
    """A workbook comes back; rows that take part in nothing change nothing; each plans alone."""
    market = feasible_zoned()
    jg.save(tmp_path / "day.xlsx", market)
    assert eqx.tree_equal(market, jg.load(tmp_path / "day.xlsx")[0])
    wide = pad(market, prosumers=6, buses=5, pairs=8)
    found, same = (jg.clear(m, tol=1e-9, runner="numpy") for m in (market, wide))
    np.testing.assert_allclose(same.plan.imports[:4], found.plan.imports, atol=1e-5)
    single = jg.auctions.alone(market)
    assert single.zones is market.zones or eqx.tree_equal(single.zones, market.zones)
    drawn = model.passive_in_zones(single, single.grid.passive)
    np.testing.assert_allclose(drawn, model.passive_in_zones(market, market.grid.passive))
    with pytest.raises(ValueError, match="caps of this market count trades"):
        jg.auctions.pooled(two_microgrids(3.0))


def test_the_game_is_that_of_its_potential():
    """Everybody's own marginal cost is the slope of the potential, trades' tolls apart."""
    market = zoned_market(5, shape=SHAPES[0], grid="copperplate")
    plan, _ = anything(market, 5)
    free = changed(market.trading, toll=0 * market.trading.toll)
    market = changed(market, trading=free)
    way, _ = anything(market, 6)
    with by_numpy():  # the potential is quadratic: differences are exact
        here, at, way = to_host((market, plan, way))
        up, down = (jax.tree.map(lambda u, d, s=s: u + s * d, at, way) for s in (1, -1))
        rise = (model.potential(here, up) - model.potential(here, down)) / 2
        own = model.pseudo_gradient(here, at)
        along = sum(np.sum(a) for a in jax.tree.leaves(jax.tree.map(np.multiply, own, way)))
    assert float(rise) == pytest.approx(float(along), rel=1e-9)


def test_the_program_of_any_convex_solver_has_zones():
    """Clarabel finds in it what `clear` finds."""
    clarabel = pytest.importorskip("clarabel")
    market = feasible_zoned()
    made = jg.convex(market)
    P, q, A, b, *_ = made.conic()
    cones = [getattr(clarabel, kind)(*numbers) for kind, *numbers in made.cones]
    options = clarabel.DefaultSettings()
    options.verbose = False
    found = clarabel.DefaultSolver(sparse.triu(P).tocsc(), q, A, b, cones, options).solve()
    prices = made.prices(made.multipliers(np.array(found.z)))
    judged = jg.certify(market, made.plan(np.array(found.x)), prices)
    assert float(judged.residuals.error) < 1e-5
