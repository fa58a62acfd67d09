"""Every public function on a batch of markets, and on one scenario of it in NumPy's arrays.

A batch either gives what its scenarios give one by one, or one sentence that says what to type.
"""

import importlib
import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import (
    admm,
    alternatives,
    auctions,
    balancing,
    batch_report,
    certificate,
    charges,
    coalitions,
    comparison,
    envelopes,
    fitting,
    frames,
    household,
    indicators,
    mechanisms,
    model,
    objectives,
    on_off,
    one_way,
    plots,
    pool,
    preferences,
    printed,
    scenarios,
    selection,
    settlement,
    sharing,
    studies,
    tight,
    uncontrolled,
    unmet,
)
from jaxgne.validation import preference_cycle, problems

COUNT = 3
BASES = [[0.1, 0.2], [0.3, 0.1], [0.2, 0.2]]  # EUR/kWh, by scenario and hour
Call = Callable[[jg.Market, jg.Clearing], Any]


def small() -> jg.Market:
    """Two houses behind one line, two hours: a generator, a battery, a pair."""
    return jg.Market(
        jg.Prosumers([1, 1], [[3.0, 1.0], [1.0, 2.0]], import_max=50.0),
        jg.Grid([[0.0, 0.0], [5.0, 5.0]], [0], [1], 1e-4, 1e-5, rating=80.0),
        jg.Tariff(0.01, hours=2, base=[0.1, 0.2]),
        jg.Generators([1], 2.0, hours=2, quadratic=0.01, linear=0.1),
        jg.Buffers([0], 1.0, 1.0, 4.0, 2.0, hours=2, charge_efficiency=0.9, quadratic=0.001),
        jg.Trading([0], [1], limit=10.0, toll=0.02),
    )


@cache
def batch() -> tuple[jg.Market, jg.Clearing]:
    """Three scenarios and their clearings, as `scenarios` and `clear_many` give them."""
    markets = scenarios.sweep(small(), lambda m: m.tariff.base, BASES)
    return markets, jg.clear_many(markets)


def within(market: jg.Market) -> envelopes.Envelope:
    """Of one market, or the same again for each of a batch."""
    one = envelopes.joint(small())
    batched = np.ndim(market.hour_length) > 1
    return jax.tree.map(lambda a: np.stack([a] * COUNT), one) if batched else one


def first(market: jg.Market) -> Any:
    return market.tariff.base


def finite(array: Any) -> Any:
    """As a derivative is: 0 where there is no limit."""
    return np.where(np.isfinite(array), array, np.zeros_like(array))


# By name: what it is asked, of market and clearing. Scenario by scenario for a batch ...
EACH: dict[str, Call] = {
    "ac_power_flow": lambda m, c: jg.ac_power_flow(m, c.plan),
    "certify": lambda m, c: jg.certify(m, c.plan, c.prices),
    "outcome": lambda m, c: comparison.outcome(m, c, grid_carbon=0.4),
    "baselines": lambda m, c: comparison.baselines(m),
    "habits": lambda m, c: uncontrolled.habits(m),
    "plan_today": lambda m, c: uncontrolled.plan_today(m),
    "today": lambda m, c: uncontrolled.today(m),
    "told": lambda m, c: uncontrolled.told(m, c.plan, c.prices),
    "with_state": lambda m, c: uncontrolled.with_state(m, c.plan),
    "unmet": lambda m, c: unmet.unmet(m, c.plan),
    "as_full": lambda m, c: alternatives.as_full(m, c.plan),
    "headroom": lambda m, c: mechanisms.headroom(m, c),
    "freed": lambda m, c: one_way.freed(m, c.plan),
    "ways": lambda m, c: one_way.ways(m, c.plan, c.prices),
    "smoothed": lambda m, c: selection.smoothed(m, 0.1),
    "settle": lambda m, c: jg.settle(m, c),
    "bills": lambda m, c: settlement.bills(m, c.plan, c.prices),
    "shared": lambda m, c: sharing.shared(m, c.plan, c.prices, "mid-market"),
    "share": lambda m, c: sharing.share(m, c, "keys", rent="by energy"),
    "price_parts": lambda m, c: settlement.price_parts(m, c),
    **{
        name: lambda m, c, name=name: getattr(model, name)(m, c.plan)
        for name in (
            "aggregate",
            *("mean_price", "passive_prices", "zone_totals"),
            "net_exchange",
            "net_load",
            "costs",
            "potential",
            "voltages",
            "exceeded",
        )
    },
    **{
        name: lambda m, c, name=name: getattr(model, name)(m, c.prices)
        for name in ("trade_prices", "energy_prices")
    },
    **{
        name: lambda m, c, name=name: getattr(selection, name)(m, c.plan)
        for name in ("congestion", "traded", "spread", "norm")
    },
    **{
        name: lambda m, c, name=name: getattr(settlement, name)(m, c.prices)
        for name in ("settled_prices", "network_prices")
    },
    **{
        name: lambda m, c, name=name, more=more: getattr(objectives, name)(m, c, **more)
        for name, more in {
            **{
                plain: {}
                for plain in ("peak", "transformer_peak", "total_cost", "worst_cost", "social_cost")
            },
            **{plain: {} for plain in ("operator_revenue", "trading_revenue", "congestion_rent")},
            **{plain: {} for plain in ("main_grid_revenue", "self_sufficiency")},
            "operator_budget": {"cost": 0.1},
            "carbon": {"grid_carbon": 0.4},
            "retail_margin": {"wholesale": 0.1},
        }.items()
    },
}
# ... the same, but each clears another market inside, which takes long to compile ...
CLEARING: dict[str, Call] = {
    name: lambda m, c, name=name: getattr(objectives, name)(m, c)
    for name in ("benefits", "gini", "jain", "welfare_loss")
}
# ... in its own way for a batch ...
OWN: dict[str, Call] = {
    "validate": lambda m, c: jg.validate(m),
    "problems": lambda m, c: problems(m),
    "compare": lambda m, c: jg.compare({"a": (m, c), "no trading": (m, c)}).rows["a"],
    **{
        f"frames.{name}": lambda m, c, name=name: getattr(frames, name)(m, c)
        for name in ("prosumers", "generators", "buffers", "trades", "buses", "lines", "hours")
    },
    "frames.bills": lambda m, c: frames.bills(m, c),
    "frames.tables": lambda m, c: frames.tables(m, c),
    "to_xarray": lambda m, c: c.to_xarray(m),
    "frames.price_parts": lambda m, c: frames.price_parts(m, c),
    "relax": lambda m, c: jg.relax(m),
    "print": lambda m, c: f"{m}{c}{c.certificate}",
}
# ... or a sentence that says what to do.
ONE: dict[str, Call] = {
    "summary": lambda m, c: indicators.summary(m, c),
    "table": lambda m, c: printed.table(m, c),
    "inverter": lambda m, c: jg.devices.inverter(m, [0], 12.0),
    "connection": lambda m, c: jg.devices.connection(m, [0], 12.0),
    "stack": lambda m, c: scenarios.stack([m, m]),
    "pad": lambda m, c: scenarios.pad(m, prosumers=3),
    "sweep": lambda m, c: scenarios.sweep(m, first, [0.1, 0.2]),
    "equip": lambda m, c: jg.equip(m, battery=1.0),
    "with_contracts": lambda m, c: jg.with_contracts(m, jg.Contract(energy=0.1)),
    "balancing.buy": lambda m, c: balancing.buy(m, c, 0.01),
    "balancing.curve": lambda m, c: balancing.curve(m, c, [0.01]),
    "balancing.limits": lambda m, c: balancing.limits(m, c),
    "by_distance": lambda m, c: charges.by_distance(m, 0.0),  # both are at one bus
    "distances": lambda m, c: charges.distances(m),
    "by_loss": lambda m, c: charges.by_loss(m, c),
    "with_preferences": lambda m, c: preferences.with_preferences(m, {"local": 0.01}),
    "with_pool": lambda m, c: pool.with_pool(m),
    "by_area": lambda m, c: charges.by_area(m, 0.01, 0.02),
    "household_bill": lambda m, c: jg.household_bill(m, c, 0),
    "household_bills": lambda m, c: household.household_bills(m, c),
    "with_reserve": lambda m, c: jg.with_reserve(m, up=1.0),
    "income": lambda m, c: household.income(m, c, jg.Contract(energy=None)),
    "perturb": lambda m, c: scenarios.perturb(m, jax.random.key(0), 2, load=0.1),
    "days": lambda m, c: scenarios.days(m, np.ones((2, 4))),
    "days_by_length": lambda m, c: scenarios.days_by_length(m, np.ones((2, 4))),
    "series": lambda m, c: scenarios.series(m, np.ones((2, 4))),
    "convex": lambda m, c: jg.convex(m),
    "who_gains": lambda m, c: sharing.who_gains(m, c, (m, c)),
    "alone": lambda m, c: auctions.alone(m),
    "pooled": lambda m, c: auctions.pooled(m),
    "plan_alone": lambda m, c: auctions.plan_alone(m),
    "uniform": lambda m, c: auctions.uniform(m, c),
    "pay_as_bid": lambda m, c: auctions.pay_as_bid(m, c),
    "auctioned": lambda m, c: auctions.auctioned(m),
    "envelopes.joint": lambda m, c: envelopes.joint(m),
    "envelopes.without_network": lambda m, c: envelopes.without_network(m),
    **{
        f"envelopes.{name}": lambda m, c, name=name: getattr(envelopes, name)(m, within(m))
        for name in ("check", "embedded", "table")
    },
    "preference_cycle": lambda m, c: preference_cycle(m),
    "frames.hot_spots": lambda m, c: frames.hot_spots(m, c),
    "spots": lambda m, c: tight.spots(m, c.plan),
    "units": lambda m, c: on_off.units(m),
    "narrowed": lambda m, c: one_way.narrowed(m, c.plan),
    "measured": lambda m, c: selection.measured(m, c),
    **{
        name: lambda m, c, name=name: getattr(mechanisms, name)(m)
        for name in (
            *("trading_buses", "bus_tariffs", "pair_tariffs", "hourly_slopes", "hourly_bases"),
        )
    },
    **{
        f"plots.{name}": lambda m, c, name=name: getattr(plots, name)(m, c)
        for name in (
            *("bus_prices", "prices", "voltages", "costs", "energy", "storage", "feeder"),
            "duration",
        )
    },
    "capped": lambda m, c: jg.capped(m, jg.caps.ramp(m, 5.0)),
    "branch": lambda m, c: scenarios.branch(m, c, 0),
    "plots.sigma": lambda m, c: plots.sigma({"a": (m, c)}),
    "plots.transformer": lambda m, c: plots.transformer({"a": (m, c)}),
    "plots.sensitivities": lambda m, c: plots.sensitivities(jax.tree.map(finite, m)),
    "plots.grid_map": lambda m, c: plots.grid_map(m, [1.0], "load"),
    "plots.envelope_map": lambda m, c: plots.envelope_map(m, within(m)),
}
# The same for what clears markets, or takes derivatives: slow on one scenario.
LONG: dict[str, Call] = {
    "clear": lambda m, c: jg.clear(m),
    "simulate": lambda m, c: jg.simulate(m, window=2, step=1),
    "admm.run": lambda m, c: admm.run(m, rounds=2, every=1),
    "trace": lambda m, c: jg.trace(m, steps=2, every=1),
    "trust": lambda m, c: jg.trust(m, c, objectives.peak),
    "sensitivities": lambda m, c: jg.sensitivities(m, objectives.peak, clearing=c),
    "select": lambda m, c: selection.select(m),
    "selection_table": lambda m, c: selection.selection_table(m),
    "least_norm": lambda m, c: jg.least_norm(m),
    **{
        f"coalitions.{name}": lambda m, c, name=name: getattr(coalitions, name)(m)
        for name in ("compare", "game", "equal", "by_benefit", "nucleolus")
    },
    "clear_ac": lambda m, c: jg.clear_ac(m),
    "on_off.clear": lambda m, c: on_off.clear(m, on_off.units(m)),
    "envelopes.beside": lambda m, c: envelopes.beside(m),
    "robustness": lambda m, c: jg.robustness(m),
    **{
        name: lambda m, c, name=name: getattr(mechanisms, name)(m, steps=1)
        for name in ("trading_tariff", "price_slope", "locational_tariff", "base_price")
    },
    **{
        name: lambda m, c, name=name: getattr(mechanisms, name)(m)
        for name in ("trading_knob", "slope_knob", "locational_knob", "base_knob")
    },
    "beside": lambda m, c: pool.beside(m),
    "restoring_fee": lambda m, c: pool.restoring_fee(m),
    "reinforcement": lambda m, c: mechanisms.reinforcement(m),
    "envelope": lambda m, c: mechanisms.envelope(m),
    **{
        f"studies.{name}": lambda m, c, name=name: getattr(studies, name)(m)
        for name in (
            "line_limits",
            "participation",
            "phases",
            "tariff",
            "selection",
            "storage",
            "uncertainty",
        )
    },
}
OF_A_BATCH = {"clear_many", "fan", "batch_summary", "batch_table", "spread"}
ELSEWHERE = {  # batches of these have tests of their own: test_comparison, test_tuning, ...
    "lead",  # test_leader
    "simulate_many",  # as simulate, which it calls
    *("regrets", "bounds", "distance", "settled"),  # test_near_potential: clear themselves
    *("studies.stackelberg", "studies.near_potential"),  # test_studies
    *("side_by_side", "tune", "pareto", "fit", "identifiability", "save", "explain_infeasible"),
    "export",  # test_exporting
    *("studies.connectivity", "studies.prosumers"),  # these build their markets
    "studies.horizon",  # test_horizon
    "chain",  # test_cut_windows
    *("tree", "committed", "frames.caps", "plots.level"),  # test_branches, test_caps_scenarios
    "frames.zones",  # test_zones
    *("schedule", "shortage"),  # test_reserve
    "track",  # test_tracking: instants are a batch
    "envelopes.decoupling",  # test_envelopes: of what beside gives, of one market
    *("report", "write_bills"),  # test_report_html, test_bills_html
}
INSIDE = {  # one market's mathematics, and what the functions above are made of
    *(
        "by_owner",
        "parties",
        "pairs_of_parties",
        "sides",
        "bought",
        "costs_at",
        "device_costs",
        "curvature",
        "own_gradient",
        "pseudo_gradient",
    ),
    *("by_side", "net_exchange", "toll", "weight", "weights", "without_curves", "counted"),
    *("import_prices", "export_prices", "agreed", "agreed_price", "together"),
    *("grid_price", "falls", "rows", "limits", "boxes", "prox", "pull", "zeros", "rows_like"),
    *("moved", "measured", "cap_money", "cap_prices", "carbon_prices", "shares_of_caps"),
    *(
        "network_money",
        "reactive_drawn",
        "device_prices",
        "asked_at_buses",
        "at_buses",
        "with_draws",
    ),
    *("ended", "charges", "uncounted", "net_with", "members", "shared_out", "terms"),
    *("at_passive", "at_prosumers", "in_zones", "passive_in_zones", "zone_bases", "zone_slopes"),
    "lost_at",
    *("asked_by_caps", "burdens", "chosen", "loads"),  # what caps count
    *("agreed", "agreed_price", "together"),  # what commitments count
    *("metered", "decide", "judge", "prefer", "priced", "parameter_names", "descend", "cleared"),
    *("slopes", "without"),
    "distances",
    *("slopes", "with_levels", "offers"),
    *(
        "owners",
        "has_state",
        "gate",
        "gate_many",
        "structure",
        "shapes",
        "traced",
        "field",
        "suspects",
    ),
}
MODULES = (
    *("batch_report", "certificate", "charges", "coalitions", "comparison", "devices"),
    *("envelopes", "fitting", "frames", "preferences"),
    *("mechanisms", "model", "objectives", "one_way", "payoffs", "plan", "plots", "printed"),
    *("causes", "descent", "leader", "near_potential", "indicators", "scenarios", "selection"),
    *("reliability", "settlement", "sharing", "studies", "tracing", "tracking"),
    *("tradeoffs", "tuning"),
    *(
        "alternatives",
        "auctions",
        "balancing",
        "household",
        "on_off",
        "reserve",
        "tight",
        "uncontrolled",
        "unmet",
        "validation",
    ),
)


def functions() -> dict[str, Callable[..., Any]]:
    """The functions of public modules that take a market or clearing, by name."""
    found = {name: getattr(jg, name) for name in jg.__all__}
    for module in MODULES:
        place = importlib.import_module(f"jaxgne.{module}")
        own = ("balancing", "coalitions", "envelopes", "frames", "on_off", "plots", "studies")
        prefix = f"{module}." if module in own else ""
        found |= {
            prefix + name: value
            for name, value in vars(place).items()
            if getattr(value, "__module__", "").startswith(f"jaxgne.{module}")
        }
    return {
        name: value
        for name, value in found.items()
        if callable(value)
        and not inspect.isclass(value)
        and not name.split(".")[-1].startswith("_")
        and re.search("Market|Clearing", str(inspect.signature(value)).split(" -> ")[0])
    }


def public() -> set[str]:
    """Their names."""
    return {*functions()}


def close(one: Any, other: Any) -> None:
    """The same numbers, to rounding."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not isinstance(a, str):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_every_public_function_is_asked():
    """A new one that takes markets or clearings says here what it does with a batch."""
    asked = {*EACH, *CLEARING, *OWN, *ONE, *LONG, *ELSEWHERE, *INSIDE}
    left = {name.removeprefix("plots.") for name in public() - asked} - OF_A_BATCH
    assert left - {"for_each_priced"} == set()


@pytest.mark.parametrize(
    "name", [*EACH, *(pytest.param(name, marks=pytest.mark.slow) for name in CLEARING)]
)
def test_a_batch_gives_what_its_scenarios_give(name: str):
    """With a leading axis, lane by lane; one lane in NumPy's arrays is what it is in JAX's."""
    ask = (EACH | CLEARING)[name]
    many = ask(*batch())
    for index in range(COUNT):
        lane = scenarios.lane(batch(), index)
        alone = ask(*jax.tree.map(jnp.asarray, lane))
        close(scenarios.lane(many, index), alone)
        close(ask(*lane), alone)


@pytest.mark.parametrize("name", OWN)
def test_a_batch_has_its_own_answer(name: str):
    """And so has one scenario in NumPy's arrays: the one that it has in JAX's."""
    assert OWN[name](*batch()) is not None
    lane = scenarios.lane(batch(), 1)
    found, right = (OWN[name](*each) for each in (lane, jax.tree.map(jnp.asarray, lane)))
    assert str(found) == str(right)


@pytest.mark.parametrize("name", [*ONE, *LONG])
def test_a_batch_is_told_what_to_do(name: str):
    """One sentence with the number of scenarios that ends in something to type."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\.\Z") as said:
        (ONE | LONG)[name](*batch())
    words = str(said.value)
    assert re.search(rf"leading axis of {COUNT} scenarios: |batch of {COUNT} clearings; ", words)
    assert re.search(r"jg\.|jax\.tree|jaxgne\.|first, then", words.split("; ")[-1]), words


@pytest.mark.parametrize(
    "name", [*ONE, *(pytest.param(name, marks=pytest.mark.slow) for name in LONG)]
)
def test_one_scenario_of_a_batch_needs_no_conversion(name: str):
    """NumPy's arrays, as `lane` takes them out of a batch, are as good as JAX's."""
    lane = scenarios.lane(batch(), 1)
    assert isinstance(lane[0].prosumers.load, np.ndarray)
    assert (ONE | LONG)[name](*lane) is not None
    plt.close("all")


def test_a_batch_and_one_clearing_do_not_mix():
    markets, many = batch()
    one = scenarios.lane(many, 0)
    words = r"settle\(\): .* a leading axis of 3 scenarios.*give all of a batch, or of one scenario"
    with pytest.raises(ValueError, match=words):
        jg.settle(markets, one)
    with pytest.raises(ValueError, match=r"trading\.limit|Trading\.limit"):
        jg.settle(eqx.tree_at(lambda m: m.trading.limit, markets, np.ones((2, 1))), many)
    with pytest.raises(ValueError, match="give the market that this clearing is of"):
        jg.settle(scenarios.pad(small(), prosumers=4), jax.tree.map(jnp.asarray, one))
    with pytest.raises(ValueError, match="of one market use"):
        batch_report.batch_summary(scenarios.lane(markets, 0), one)


def short() -> tuple[jg.Market, jg.Clearing]:
    """The second of three scenarios asks more of the line than it carries."""
    rating = np.array([[80.0], [2.0], [80.0]])
    markets = scenarios.sweep(small(), lambda m: m.grid.rating, rating)
    return markets, jg.clear_many(markets)


def test_bills_of_what_did_not_clear_are_refused():
    """The prices of an infeasible market are the proof of that: nobody can pay them."""
    markets, many = short()
    assert np.asarray(many.ok).tolist() == [True, False, True]
    for ask in (jg.settle, settlement.price_parts, comparison.outcome, objectives.peak):
        with pytest.raises(
            ValueError, match=r"scenarios 1 did not clear \(infeasible\).*\.ok\)\.$"
        ):
            ask(markets, many)
        with pytest.raises(ValueError, match="the clearing is infeasible, so there are no prices"):
            ask(*scenarios.lane((markets, many), 1))
    with pytest.raises(ValueError, match=r"compare: scenario 1 of 'a' did not clear \(1 of 3\)"):
        jg.compare({"a": (markets, many)})
    kept = scenarios.lane((markets, many), many.ok)
    assert jg.settle(*kept).prosumers.shape == (2, 2, 2)
    assert scenarios.lane(many, [2, 0]).steps.tolist() == many.steps[[2, 0]].tolist()


def test_lane_takes_scenarios_that_there_are():
    """JAX's arrays give the last row for any number beyond; a market alone has no scenarios."""
    markets, many = jax.tree.map(jnp.asarray, batch())
    for index in (3, -4, [0, 3], np.ones(2, bool)):
        with pytest.raises(ValueError, match=r"^lane: scenario .*; this batch has 0 to 2\.$"):
            scenarios.lane((markets, many), index)
    with pytest.raises(ValueError, match="lane: this is one market"):
        scenarios.lane(small(), 0)
    assert scenarios.lane(many, slice(1, 3)).steps.shape == (2,)
    assert float(scenarios.lane(markets, -1).tariff.base[0]) == BASES[-1][0]


def test_a_batch_is_not_saved_as_one_market(tmp_path: Path):
    with pytest.raises(ValueError, match=r"save\(\) takes one market.*3 scenarios: save one, jg\."):
        jg.save(tmp_path / "days", *batch())


def test_benefits_of_a_batch_are_drawn_one_by_one():
    compared = jg.compare({"a": batch(), "no trading": batch()})
    with pytest.raises(ValueError, match=r"batches of 3 scenarios; compare one of them, jg\."):
        plots.benefits(compared)


def test_prints_say_which_scenarios_did_not_clear():
    _, many = short()
    lines = str(many).splitlines()
    assert lines[:3] == ["Clearing of 3 scenarios", "  2 cleared", "  1 infeasible: 1"]
    assert str(scenarios.lane(many, 1)).split(". ")[1].startswith("No plan meets all limits")


def test_compare_means_over_scenarios():
    """Rows are means of the scenarios' rows; outcomes keep them apart."""
    markets, many = batch()
    whole = jg.compare({"a": (markets, many)})
    alone = [jg.compare({"a": scenarios.lane((markets, many), k)}).rows["a"] for k in range(COUNT)]
    for key, value in whole.rows["a"].items():
        each = [known for row in alone if (known := row[key]) is not None]
        assert value == (pytest.approx(np.mean(each)) if len(each) == COUNT else None)
    assert whole.outcomes["a"].cost.shape == (COUNT, 2)
    with pytest.raises(ValueError, match=r"2 and 3 scenarios of 2 prosumers"):
        jg.compare({"a": (markets, many), "b": scenarios.lane((markets, many), 0)})


def test_nonsense_is_refused_by_whatever_computes():
    """Not only `clear`: a certificate of a negative resistance would mean as little."""
    market, clearing = jax.tree.map(jnp.asarray, scenarios.lane(batch(), 0))
    wrong = eqx.tree_at(lambda m: m.grid.resistance, market, jnp.asarray([-1e-4]))
    for ask in (
        lambda: jg.certify(wrong, clearing.plan, clearing.prices),
        lambda: jg.ac_power_flow(wrong, clearing.plan),
        lambda: jg.trace(wrong, steps=2, every=1),
        lambda: jg.trust(wrong, clearing, objectives.peak),
    ):
        with pytest.raises(ValueError, match=r"Grid.resistance row 0: -0.0001 pu/kW is negative"):
            ask()
    assert certificate.certify is jg.certify
    assert fitting.fit is jg.fit


KINDS = {"Market": jg.Market, "Clearing": jg.Clearing, "Plan": jg.Plan, "Rows": jg.Rows}
ASKED = sorted(public() - INSIDE)  # for what is right, and here for what is wrong


def tables(function: Callable[..., Any]) -> dict[str, str]:
    """The parameters that are one table, or several, with the name of its class."""
    known = {}
    for name, parameter in inspect.signature(function).parameters.items():
        hint = str(parameter.annotation)
        parts = re.findall(r"\b(Market|Clearing|Plan|Rows)\b", hint)
        if parts and not re.search(r"Callable|Mapping|Outcome|tuple|Any|str", hint):
            known[name] = parts[0]
    return known


@pytest.mark.parametrize("name", ASKED)
def test_what_is_no_table_is_told_in_one_sentence(name: str):
    """Swapped arguments and words in the place of each table, before anything is computed."""
    market, clearing = scenarios.lane(batch(), 0)
    right = {"Market": market, "Clearing": clearing, "Plan": clearing.plan, "Rows": clearing.prices}
    function = functions()[name]
    known, asked = tables(function), inspect.signature(function).parameters
    plain = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    rest = {
        word: object()
        for word, one in asked.items()
        if one.default is one.empty and one.kind in plain
    }
    good = {word: right[kind] for word, kind in known.items() if word in rest}
    for word, kind in known.items():
        for wrong in ("ieee37", clearing if kind == "Market" else market):
            with pytest.raises(ValueError, match=r"\A[^\n]+\.\Z") as told:
                function(**rest | good | {word: wrong})
            words = str(told.value)
            assert re.search(rf"{word} is ('ieee37'|a Clearing|a Market)", words), words
            assert re.search(r"; (give|the order is) ", words), words


def test_swapped_arguments_are_told_as_such():
    """By what one typed; mappings by their names."""
    market, clearing = scenarios.lane(batch(), 0)
    with pytest.raises(
        ValueError,
        match=r"\Asettle: market is a Clearing, and clearing a Market; the order is "
        r"settle\(market, clearing\)\.\Z",
    ):
        jg.settle(clearing, market)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"certify: plan is a Clearing; .*, such as clearing\.plan"
    ):
        jg.certify(market, clearing, clearing.prices)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"capped: caps\[0\] is 'ramp'; give a jaxgne\.Caps\."):
        jg.capped(market, "ramp")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"output is 'peak'; give a function of market and clear"):
        jg.sensitivities(market, "peak")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tune: where is 'slope'; give a function of market\."):
        jg.tune(market, objectives.peak, "slope")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"markets is a list; .* jaxgne\.scenarios\.stack\("):
        jg.clear_many([market, market])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"settle: .* 'clearing'; it takes market, clearing\."):
        jg.settle(market)  # type: ignore[call-arg]
    for ask in (jg.compare, plots.sigma, plots.transformer):
        with pytest.raises(ValueError, match=r"'a' is a Clearing and a Market; give \(market, cl"):
            ask({"a": (clearing, market)})
        with pytest.raises(ValueError, match=r'a Market was given; give \{"a name": \(market, cl'):
            ask(market)
