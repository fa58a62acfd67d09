"""Receding horizon: beside the one-shot clear, balances, failures, one program for all windows."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxgne as jg
from jaxgne import model
from jaxgne.imbalance import closed
from jaxgne.status import STATUSES
from jaxgne.windows import window
from tests.markets import feeder, many_devices, one_bus
from tests.simulated import STEPS, village

compiled: list[str] = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, *_, **__: compiled.append(event) if "backend_compile" in event else None
)


def to_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


def cost(market: jg.Market, plan: jg.Plan) -> float:
    return float(model.potential(to_jax(market), to_jax(plan)))


def due_in_time() -> jg.Market:
    """What must be full at the end takes full power in the last hour, and voltages are tight."""
    return feeder(voltage_min=0.979)


def low(load: float):
    """A forecast of so much of the load, everything else as it comes."""

    def forecast(seen, view, at):
        assert seen.prosumers.load.shape[1] == at
        return eqx.tree_at(lambda m: m.prosumers.load, view, load * np.asarray(view.prosumers.load))

    return forecast


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("make", [one_bus, due_in_time, many_devices, lambda: village(2)])
def test_a_full_window_is_the_one_shot_clear(make, step):
    """With perfect forecasts, whatever the steps; plans as far as they are unique."""
    market = make()
    steps = market.prosumers.load.shape[1]
    whole = jg.clear(market, tol=1e-9, runner="numpy")
    found = jg.simulate(market, window=steps, step=step, tol=1e-9, runner="numpy")
    assert found.ok and float(found.error.max()) <= 1e-9
    scale = float(whole.certificate.scales.bill)
    assert abs(cost(market, found.plan) - cost(market, whole.plan)) <= 1e-7 * scale
    np.testing.assert_allclose(
        model.aggregate(market, to_jax(found.plan)), whole.aggregate, atol=2e-3
    )
    np.testing.assert_allclose(found.imbalance, 0.0, atol=1e-5)
    np.testing.assert_allclose([found.outside.max(), found.overload.max()], 0.0, atol=1e-5)
    judged = jg.certify(market, to_jax(found.plan), to_jax(found.prices))
    assert float(judged.residuals.infeasibility) <= 1e-7


@pytest.mark.parametrize("days", [1, 2])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000), reach=st.integers(1, 4), by=st.sampled_from(["water", "market"]))
def test_foresight_is_never_dearer(days, seed, reach, by):
    """A receding horizon does what a plan of the whole could have done, and no better."""
    market = village(days, seed)
    whole = jg.clear(market, tol=1e-8, runner="numpy")
    found = jg.simulate(market, window=reach, step=1, terminal=by, runner="numpy")
    assert found.ok
    bill = float(whole.certificate.scales.bill)
    assert cost(market, found.plan) >= cost(market, whole.plan) - 1e-5 * bill


def test_uneven_windows_look_as_far_with_fewer_steps():
    market = village(2)
    lengths = (1, 1, 2, 2)
    found = jg.simulate(market, window=lengths, step=2, runner="numpy")
    even = jg.simulate(market, window=STEPS, step=2, runner="numpy")
    assert found.ok and len(found.at) == 6
    whole = cost(market, jg.clear(market, runner="numpy").plan)
    assert whole - 1e-4 <= cost(market, found.plan) <= whole + 0.2
    assert abs(cost(market, even.plan) - whole) <= 0.2


def test_energy_and_money_balance():
    """What was wrongly forecast is bought and sold; each kWh and each EUR is somewhere."""
    market = village(2)
    found = jg.simulate(market, window=STEPS, step=2, forecast=low(0.7), runner="numpy")
    plan, truth = to_jax(found.plan), to_jax(market)
    rows = model.rows(truth, plan)
    np.testing.assert_allclose(rows.balance, found.unserved - found.spilled, atol=1e-9)
    for name in ("energy", "bus", "exchange", "voltage"):
        np.testing.assert_allclose(getattr(rows, name), 0.0, atol=1e-9)
    assert np.abs(found.imbalance).max() > 0.1
    paid = found.bills()
    everyone = paid.prosumers.sum() + paid.passive.sum() + paid.passive_caps.sum()
    received = paid.sales.sum() + paid.receipts.sum() - paid.losses.sum() + paid.fees.sum()
    assert float(everyone) == pytest.approx(float(received + paid.levies.sum()), abs=1e-9)
    sigma = model.aggregate(truth, plan)
    price = market.tariff.base + market.tariff.slope * sigma
    bought = np.asarray(found.imbalance) > 0
    np.testing.assert_allclose(
        (found.imbalance_cost / (market.hour_length * price))[bought],
        found.imbalance[bought],
        rtol=1e-9,
    )


def test_a_line_is_over_its_rating_without_a_reactive_balance_too():
    """12 kW over a line of 6 kVA, by a model that leaves voltages open."""
    market = jg.Market(
        jg.Prosumers([1], [[12.0]]),
        jg.Grid([[0.0]] * 2, [0], [1], 1e-5, 1e-5, rating=6.0, model="paper"),
        jg.Tariff(0.0, hours=1, base=0.3, total_max=11.0),
    )
    planned = eqx.tree_at(lambda p: p.imports, model.zeros(market), jnp.full((1, 1), 5.0))
    found = closed(market, planned)
    assert float(found.overload[0]) == pytest.approx(6.0) and float(found.beyond[0]) == 1.0
    assert float(found.outside[0]) == 0.0


def test_imbalances_are_closed_by_the_rule():
    """Sun that is not there is curtailed less, then sold less, then bought."""
    market = jg.Market(
        jg.Prosumers([0], [[-1.0]], import_max=2.0, export_max=3.0, curtail_max=4.0),
        jg.Grid([[0.0]], model="copperplate"),
        jg.Tariff(0.0, hours=1, base=0.3, export=0.1),
    )
    planned = eqx.tree_at(
        lambda p: (p.exports, p.curtailed),
        model.zeros(market),
        (jnp.ones((1, 1)), jnp.ones((1, 1))),
    )

    def out(load: float):
        found = closed(
            eqx.tree_at(lambda m: m.prosumers.load, market, jnp.full((1, 1), load)), planned
        )
        done = (found.plan.curtailed, found.plan.exports, found.plan.imports)
        told = (found.unserved, found.spilled, found.imbalance, found.cost)
        return [float(a[0, 0]) for a in (*done, *told)]

    assert out(-2.0) == pytest.approx([1, 1, 0, 0, 0, 0, 0])
    assert out(-1.5) == pytest.approx([0.5, 1, 0, 0, 0, 0, 0])
    assert out(-0.5) == pytest.approx([0, 0.5, 0, 0, 0, 0.5, 0.05])
    assert out(1.5) == pytest.approx([0, 0, 1.5, 0, 0, 2.5, 0.1 + 0.45])
    assert out(2.5) == pytest.approx([0, 0, 2, 0.5, 0, 3, 0.1 + 0.6])
    assert out(-3.0) == pytest.approx([1, 2, 0, 0, 0, -1, -0.1])
    assert out(-6.0) == pytest.approx([3, 3, 0, 0, 0, -2, -0.2])
    assert out(-9.0) == pytest.approx([4, 3, 0, 0, 2, -2, -0.2])


def test_contents_stay_within_their_limits():
    """A battery drained more than was planned charges more; what is short beyond that is told."""
    market = village(1)
    plan = jg.clear(market, runner="numpy").plan
    drained = eqx.tree_at(lambda m: m.buffers.drain, market, 0 * plan.energy + 1.0)
    found = closed(drained, plan)
    assert float(found.plan.energy.min()) >= -1e-9
    np.testing.assert_allclose(model.rows(drained, found.plan).energy, 0.0, atol=1e-9)
    far = closed(eqx.tree_at(lambda m: m.buffers.drain, market, 0 * plan.energy + 20.0), plan)
    assert float(far.short.max()) > 5.0


@pytest.mark.parametrize("terminal", ["water", [0.1, 0.2]])
def test_content_is_worth_something_beyond_the_window(terminal):
    """With nothing beyond it a short window leaves batteries empty; by water values it does not."""
    market = village(2)
    found = jg.simulate(market, window=2, step=1, terminal=terminal, runner="numpy")
    whole = cost(market, jg.clear(market, runner="numpy").plan)
    blind = jg.simulate(market, window=2, step=1, terminal="market", runner="numpy")
    assert found.ok
    assert whole - 1e-5 <= cost(market, found.plan) <= cost(market, blind.plan) + 1e-6


def test_a_window_that_fails_ends_it_with_the_reason():
    """Load that no limit lets through on the second day: the first is kept."""
    market = village(2)
    load = np.asarray(market.prosumers.load).copy()
    load[1, STEPS + 2] = 90.0  # from 8 o'clock
    hard = eqx.tree_at(lambda m: m.prosumers.load, market, jnp.asarray(load))
    found = jg.simulate(hard, window=2, step=1, runner="numpy")
    assert not found.ok and found.plan.imports.shape[1] == found.market.prosumers.load.shape[1]
    assert found.plan.imports.shape[1] == STEPS + 1 and found.horizon == 2 * STEPS
    assert "2025-06-02 04:00" in found.why and "infeasible" in found.why
    soft = jg.simulate(hard, window=2, step=1, elastic=True, runner="numpy")
    assert soft.ok and soft.plan.imports.shape[1] == 2 * STEPS
    assert np.count_nonzero(soft.gave_way) in (1, 2) and len(soft.notes) >= 1
    assert soft.beyond.max() > 10 and set(soft.status) == {STATUSES.index("cleared")}


def test_levels_of_caps_are_carried_on():
    """A peak that was paid for once is paid for: the charge is that of the whole."""
    market = village(2)
    market = jg.capped(market, jg.caps.total_demand_charge(market, 0.5))
    whole = jg.clear(market, tol=1e-8, runner="numpy")
    found = jg.simulate(market, window=2 * STEPS, step=3, tol=1e-8, runner="numpy")
    assert abs(cost(market, found.plan) - cost(market, whole.plan)) < 1e-4
    short = jg.simulate(market, window=3, step=1, runner="numpy")
    level = np.asarray(short.plan.level)[0]
    assert short.ok and np.all(np.diff(level) >= -1e-9)
    peak = np.asarray(model.net_exchange(to_jax(market), to_jax(short.plan))).max()
    assert level[-1] == pytest.approx(peak, rel=1e-6)


def test_nothing_is_compiled_after_the_first_window():
    """Idle steps at the end, water values, other loads: one program; and NumPy's answer."""
    market = village(1)
    counts = []
    found = jg.simulate(
        market, window=4, step=2, runner="jax", progress=lambda _: counts.append(len(compiled))
    )
    assert len(counts) == 3 and counts[0] == counts[-1]
    again = jg.simulate(market, window=4, step=2, runner="numpy")
    np.testing.assert_allclose(found.plan.imports, again.plan.imports, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"step": 0}, "step=0"),
        ({"window": (2, 1), "step": 1}, "none may be merged"),
        ({"terminal": "wine"}, "terminal='wine'"),
        ({"terminal": [0.1, 0.2, 0.3]}, "terminal"),
        ({"forecast": lambda seen, view, at: None}, "forecast"),
    ],
)
def test_what_makes_no_sense_is_told(options, words):
    with pytest.raises(ValueError, match=words):
        jg.simulate(village(1), **{"window": 4, "step": 1, **options})


def test_the_first_window_tells_why_nothing_was_done():
    market = eqx.tree_at(lambda m: m.tariff.total_max, village(1), jnp.full(STEPS, 1.0))
    with pytest.raises(ValueError, match="2025-06-01 00:00"):
        jg.simulate(market, window=4, step=1)


def test_windows_begin_with_what_was_done():
    market = village(1)
    begun = []

    def forecast(seen, view, at):
        begun.append(np.asarray(view.buffers.energy_start))
        return view

    found = jg.simulate(market, window=3, step=2, forecast=forecast, terminal="market")
    np.testing.assert_array_equal(np.stack(begun)[1:], np.asarray(found.plan.energy)[:, [1, 3]].T)
    np.testing.assert_array_equal(begun[0], window(market, 0, [1]).buffers.energy_start)
