"""Figures: none is empty or without units, colors are safe, and what they show is the result."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.patches import FancyArrowPatch, Rectangle, StepPatch
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli, frames, plots
from jaxgne.balancing import Curve
from jaxgne.comparison import Comparison, baselines, compare
from jaxgne.conversation import Conversation
from jaxgne.front import Front
from jaxgne.plots.arcs import largest
from jaxgne.plots.layout import tidy_tree
from jaxgne.plots.state import line_title
from jaxgne.plots.style import begin, legend
from jaxgne.tracing import Trace
from jaxgne.tracking import Tracking
from tests.figures import faults, unsafe_colors
from tests.markets import one_bus

mpl.use("Agg")

TRACES = {
    "fast": Trace(jnp.array([1, 2, 3]), *[jnp.array([1.0, 1e-3, 1e-7])] * 4),
    "slow": Trace(jnp.array([100, 200, 300]), *[jnp.array([2.0, 0.3, 1e-2])] * 4),
}


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


@cache
def cleared() -> dict[str, tuple[jg.Market, jg.Clearing]]:
    """A day of six prosumers on the congested feeder in steps of 3 h; the same without trades and
    so on: five markets of one shape, to a coarse tolerance."""
    market = jg.ieee37(prosumers=6, hours=8, hour_length=3.0, stress=True)
    return {name: (m, jg.clear(m, tol=1e-4)) for name, m in baselines(market).items()}


def solved() -> tuple[jg.Market, jg.Clearing]:
    return cleared()["market"]


def batch() -> tuple[jg.Market, jg.Clearing]:
    """The five markets as scenarios, of which the last did not clear."""
    markets, clearings = zip(*cleared().values(), strict=True)
    markets, clearings = (
        jax.tree.map(lambda *leaves: np.stack(leaves), *each) for each in (markets, clearings)
    )
    return markets, with_status(clearings, [jg.Status.cleared] * 4 + [jg.Status.max_steps])


def with_status(clearings: jg.Clearing, status: list[Any]) -> jg.Clearing:
    """A batch of clearings that ended as told."""
    numbers = np.array([word._value for word in status])
    return eqx.tree_at(lambda c: c.status._value, clearings, numbers)  # type: ignore[attr-defined]


def offers() -> Curve:
    """Prices of three deviations in two of three steps; the third was not possible."""
    market = one_bus()
    price = np.array([[0.05, 0.0, 0.04], [-0.1, 0.0, -0.12], [np.nan] * 3])
    asked = np.array([True, False, True])
    numbers = (jnp.asarray(a) for a in ([-1.0, 1.0, 2.0], asked, price, [0.1] * 3, [0.05] * 3))
    return Curve(market, *numbers)


def gradient() -> jg.Market:
    """Derivatives of what all loads and the slope in step 3 cost by a made-up formula, EUR."""

    def output(market: jg.Market) -> Any:
        weights = jnp.arange(8.0) - 2.0
        return jnp.sum(market.prosumers.load @ weights) + 2e4 * market.tariff.slope[3]

    return eqx.filter_grad(output)(solved()[0])


def enveloped(market: jg.Market) -> tuple[jg.Market, jg.envelopes.Envelope]:
    """A market that keeps its limits at rest, and equal envelopes in it."""
    grid, total = market.grid, market.tariff.total_max
    limits = grid.voltage_min - 0.1, 10 * grid.rating, 2 * total
    wide = eqx.tree_at(
        lambda m: (m.grid.voltage_min, m.grid.rating, m.tariff.total_max), market, limits
    )
    return wide, jg.envelopes.joint(wide)


def comparison() -> Comparison:
    return compare({name: cleared()[name] for name in ("market", "no trading")})


OF_ONE: dict[str, Callable[..., Axes]] = {
    "prices": plots.prices,
    "bus_prices": plots.bus_prices,
    "voltages": plots.voltages,
    "energy": plots.energy,
    "storage": plots.storage,
    "feeder": plots.feeder,
    "duration": plots.duration,
    "costs": plots.costs,
    "sigma": lambda market, clearing, ax=None: plots.sigma({"day": (market, clearing)}, ax),
    "transformer": lambda market, clearing, ax=None: plots.transformer(
        {"day": (market, clearing)}, ax
    ),
}
TOTALS = ("sigma", "transformer")
FIGURES: dict[str, Callable[[], Axes]] = {
    **{name: lambda draw=draw: draw(*solved()) for name, draw in OF_ONE.items()},
    "energy of all": lambda: plots.energy(*solved(), passive=True),
    "voltages, pu": lambda: plots.voltages(*solved(), room=False),
    "energy of one": lambda: plots.energy(*solved(), prosumer=owner()),
    "storage of one": lambda: plots.storage(*solved(), prosumer=owner()),
    "feeder, placed": lambda: plots.feeder(*solved(), hour=0, positions=circle()),
    "grid_map": lambda: plots.grid_map(solved()[0], np.arange(35.0), "worth of one more kVA (EUR)"),
    "grid_map of buses": lambda: plots.grid_map(
        solved()[0], np.where(np.arange(36) > 3, np.arange(36.0), np.inf), "room (kW)", of="buses"
    ),
    "feeder in phases": lambda: plots.feeder(*phased()),
    "grid_map in phases": lambda: plots.grid_map(phased()[0], np.arange(40.0), "room (kW)"),
    "grid_map of phases": lambda: plots.grid_map(
        phased()[0], np.arange(43.0), "room (kW)", of="buses", positions=circle(15)
    ),
    "envelope_map": lambda: plots.envelope_map(*enveloped(solved()[0])),
    "envelope_map of phases": lambda: plots.envelope_map(
        *enveloped(phased()[0]), way="exports", hour=1
    ),
    "level": lambda: plots.level(*capped()),
    "level of energy": lambda: plots.level(*capped(), cap="imports"),
    "sigma of many": lambda: plots.sigma(cleared()),
    "convergence": lambda: plots.convergence(TRACES),
    "benefits": lambda: plots.benefits(comparison()),
    "sensitivities": lambda: plots.sensitivities(gradient()),
    "sensitivities by percent": lambda: plots.sensitivities(
        gradient(), market=solved()[0], percent=True, output="cost (EUR)"
    ),
    "sensitivities by hour": lambda: plots.sensitivities(gradient(), field="prosumers.load"),
    "sensitivities by row": lambda: plots.sensitivities(
        gradient(), field="prosumers.load", by="prosumer", output="cost (EUR)"
    ),
    "sensitivities by bus": lambda: plots.sensitivities(
        eqx.filter_grad(lambda m: jnp.sum(m.grid.passive**2))(solved()[0]),
        field="grid.passive",
        by="bus",
    ),
    "merit_order": lambda: plots.merit_order(offers()),
    "conversation": lambda: plots.conversation(talks()),
    "conversation by bytes": lambda: plots.conversation(talks(), "price", by="bytes"),
    "front": lambda: plots.front(two_aims(), labels=("cost (EUR)", "peak (kW)")),
    "tracking": lambda: plots.tracking(tracked()),
    "tracking of limits": lambda: plots.tracking(tracked(), "violation"),
    "tracking of regret": lambda: plots.tracking(tracked(), "regret"),
    "fan": lambda: plots.fan(*batch()),
    "fan of prices": lambda: plots.fan(*batch(), "price"),
    "fan of voltages": lambda: plots.fan(*batch(), "voltage"),
}


def talks() -> dict[str, Conversation]:
    """Errors that fall by rounds, from two seeds, faster where all messages arrive."""
    rounds = jnp.arange(10, 60, 10)
    none, seeds = jnp.zeros((2, rounds.size)), jnp.array([[1.0], [1.5]])

    def falling(rate: float) -> Conversation:
        error = seeds * jnp.exp(-rate * rounds)
        sent = seeds * 512.0 * rounds
        exact = solved()[1]
        told = (error, none, none, none, error / 10, none, none, sent, none, jnp.zeros(()))
        return Conversation(rounds, *told, exact.plan, exact.prices, exact, "")

    return {"all arrive": falling(0.2), "half are lost": falling(0.1)}


def tracked() -> dict[str, Tracking]:
    """Five instants, the nearer the more rounds; the first has no past to have moved from."""
    far = jnp.array([1.0, 0.1, 0.05, 0.02, 0.04])
    drift = jnp.array([0.0, 0.01, 0.02, 0.02, 0.01])
    clearing = solved()[1]
    names = [name for name, field in Tracking.__dataclass_fields__.items() if "Float" in str(field)]
    rest: dict[str, Any] = {"plan": clearing.plan, "prices": clearing.prices}

    def found(rounds: int) -> Tracking:
        near = dict.fromkeys(names, far / rounds) | {"drift": drift}
        return Tracking(**near, **rest, equilibria=clearing, rounds=rounds, solver="A()")

    return {f"{rounds} rounds": found(rounds) for rounds in (3, 10)}


def two_aims() -> Front:
    """Three points, and what was seen on the way."""
    values, ones = np.array([[1.0, 3.0], [2.0, 2.0], [4.0, 1.0]]), np.ones(3)
    seen = values + np.linspace(0.1, 0.5, 6).reshape(3, 2)
    words: tuple[Any, ...] = (3, 0, ("steps",), ("cost", "peak"), ("Tariff.base",))
    return Front(values, values[:, 1], ones, ones, ones, (), (), seen, *words)


@cache
def phased() -> tuple[jg.Market, jg.Clearing]:
    """Two hours on 15 buses of 38 phases, with loads between some."""
    market = jg.ieee13(prosumers=8, hours=2)
    return market, jg.clear(market, tol=1e-4)


@cache
def capped() -> tuple[jg.Market, jg.Clearing]:
    """The same day with a price of its peak, and a limit on what all import."""
    market, clearing = solved()
    most = 0.99 * 3.0 * float(clearing.plan.imports.sum())
    peak = jg.caps.total_demand_charge(market, 0.2, name="peak")
    market = jg.capped(market, peak, jg.caps.budget(market, most, name="imports"))
    return market, jg.clear(market, tol=1e-4)


def test_a_level_is_drawn_beside_what_is_counted_and_its_limit():
    """The highest exchange so far, which never falls; a budget is limited in its last step."""
    market, clearing = capped()
    drawn = stairs(plots.level(market, clearing))
    sigma = np.asarray(clearing.aggregate) - np.asarray(clearing.plan.exports).sum(axis=0)
    np.testing.assert_allclose(drawn["counted"][0], sigma, atol=0.1)
    level = drawn["level"][0]
    assert np.all(np.diff(level) >= -0.1) and np.all(level >= np.maximum.accumulate(sigma) - 0.1)
    assert level[-1] == pytest.approx(sigma.max(), abs=0.1)
    drawn = stairs(plots.level(market, clearing, cap="imports"))
    assert drawn["upper limit"][0][-1] == float(market.caps.level_max[1, -1])
    assert "counted" not in drawn
    for cap, words in (("carbon", "no cap 'carbon'; this market has peak, imports"), (2, "cap 2")):
        with pytest.raises(ValueError, match=words):
            plots.level(market, clearing, cap=cap)


def owner() -> int:
    """A prosumer with storage."""
    return int(solved()[0].buffers.owner[0])


def circle(count: int = 36) -> np.ndarray:
    turn = 2 * np.pi * np.arange(count) / count
    return np.stack([np.cos(turn), np.sin(turn)], axis=1)


def stairs(ax: Axes) -> dict[str, tuple[np.ndarray, ...]]:
    """Label to values, edges and baseline."""
    patches = {str(p.get_label()): p for p in ax.patches if isinstance(p, StepPatch)}
    return {label: tuple(np.asarray(part) for part in p.get_data()) for label, p in patches.items()}


def outline(area: Any) -> np.ndarray:
    """Corners of a stacked area."""
    return np.asarray(area.get_paths()[0].vertices)


def heights(ax: Axes) -> np.ndarray:
    bars = [p for p in ax.patches if isinstance(p, Rectangle)]
    return np.array([bar.get_height() for bar in bars])


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_full_labeled_and_safe(name: str):
    """With defaults, in one call; all of it in colors that everyone can tell apart."""
    ax = FIGURES[name]()
    assert faults(ax) == []
    assert unsafe_colors(ax) == set()


def test_every_function_is_among_them():
    assert {name.split(",")[0].split()[0] for name in FIGURES} == set(plots.__all__)


def good() -> Axes:
    ax = begin(None, "Prices", "time (h)", "price (EUR/kWh)")
    ax.plot([0, 1, 2], [1, 3, 2], color="#0072B2", label="here")
    ax.plot([0, 1, 2], [2, 1, 3], color="#D55E00", label="there")
    legend(ax)
    return ax


BROKEN: dict[str, tuple[str, Callable[[Any], object]]] = {
    "no data": ("empty: no artist", lambda ax: [line.remove() for line in ax.lines[:]]),
    "data out of sight": ("empty: its data", lambda ax: ax.set_xlim(5, 6)),
    "white on white": ("empty: its data", lambda ax: [li.set_color("w") for li in ax.lines]),
    "title": ("no title", lambda ax: ax.set_title("")),
    "label": ("no unit: ''", lambda ax: ax.set_xlabel("")),
    "unit": ("no unit: 'price'", lambda ax: ax.set_ylabel("price")),
    "other unit": ("no unit: 'price (foo)'", lambda ax: ax.set_ylabel("price (foo)")),
    "scale": (
        "no unit: 'height'",
        lambda ax: ax.figure.colorbar(
            ax.scatter([1], [1], c=[1.0], cmap="cividis"), ax=ax, label="height"
        ),
    ),
    "legend": ("no legend", lambda ax: ax.get_legend().remove()),
    "covered": ("legend over", lambda ax: ax.legend(loc="center")),
    "cut off": ("cut off", lambda ax: ax.figure.text(0.99, 0.5, "beyond the edge")),
    "crowded": ("labels of x overlap", lambda ax: ax.set_xticks(np.linspace(0, 2, 60))),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_check_finds_what_is_wrong(name: str):
    ax = good()
    sentence, spoil = BROKEN[name]
    spoil(ax)
    assert any(fault.startswith(sentence) for fault in faults(ax)), faults(ax)


def test_the_check_finds_unsafe_colors_and_nothing_where_all_is_well():
    ax = good()
    assert faults(ax) == []
    assert unsafe_colors(ax) == set()
    ax.plot([0, 2], [2, 2], color="red")
    ax.bar([1], [1], color="0.3", edgecolor="#00FF00")
    ax.imshow([[0.0, 1.0]], cmap="jet")
    ax.scatter([1, 2], [1, 2], c=[0.0, 1.0], cmap="hsv", edgecolors=["black", "pink"])
    assert unsafe_colors(ax) >= {"FF0000", "00FF00", "hsv", "FFC0CB"}


@pytest.mark.parametrize("name", OF_ONE)
def test_a_figure_is_drawn_where_it_is_asked_for(name: str):
    """On the given axes or on new ones; eight steps of 3 h end at 24 h."""
    market, clearing = solved()
    _, mine = plt.subplots()
    assert OF_ONE[name](market, clearing, ax=mine) is mine
    fresh = OF_ONE[name](market, clearing)
    assert fresh is not mine
    for label, (_, edges, _) in stairs(fresh).items():
        if not label.endswith("others, at most"):  # of which some change their order
            np.testing.assert_allclose(edges, 3.0 * np.arange(9))
    assert "NOT" not in fresh.get_title()


@pytest.mark.parametrize("name", OF_ONE)
def test_a_result_that_did_not_clear_says_so(name: str):
    market, clearing = solved()
    late = eqx.tree_at(lambda c: c.status, clearing, jg.Status.max_steps)
    ax = OF_ONE[name](market, late)
    words = "1 of 1 NOT CLEARED" if name in TOTALS else "NOT CLEARED: max_steps"
    assert words in ax.get_title()
    if name in TOTALS:
        assert list(stairs(ax)) == ["day (NOT CLEARED: max_steps)"]


@pytest.mark.parametrize("name", OF_ONE)
def test_what_does_not_exist_is_not_drawn(name: str):
    """An infeasible market has no plan, a batch no single figure; nothing is left open."""
    market, clearing = solved()
    proven = eqx.tree_at(lambda c: c.status, clearing, jg.Status.infeasible)
    with pytest.raises(ValueError, match=f"plots.{name}: an infeasible market has neither"):
        OF_ONE[name](market, proven)
    with pytest.raises(ValueError, match=f"plots.{name}: this is a batch of 5 clearings"):
        OF_ONE[name](market, batch()[1])
    with pytest.raises(ValueError, match=r"loads of shape \(3, 1\) but imports of shape \(6, 8\)"):
        OF_ONE[name](jg.ieee37(prosumers=3, hours=1), clearing)
    assert plt.get_fignums() == []


def test_prices_are_those_of_prosumers_and_buses():
    """The band spans all prosumers; the map is what `frames` says of buses, the feeder on top."""
    market, clearing = solved()
    values = np.asarray(jg.model.energy_prices(market, clearing.prices))
    high, _, low = stairs(plots.prices(market, clearing))["prosumers, lowest to highest"]
    np.testing.assert_allclose(high, values.max(axis=0))
    np.testing.assert_allclose(low, values.min(axis=0))
    ax = plots.bus_prices(market, clearing)
    expected = frames.buses(market, clearing).energy_price_eur_per_kwh.to_numpy().reshape(36, 8)
    np.testing.assert_allclose(np.asarray(ax.collections[0].get_array()), expected)
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert (labels[0], labels[1]) == market.grid.names[:2] and ax.yaxis_inverted()


def test_voltages_are_drawn_with_limits_that_no_bus_breaks():
    """Limits differ by bus: room to the closest; limits of all: in pu, and as lines if near."""
    market, clearing = solved()
    drawn = stairs(plots.voltages(market, clearing))
    table = frames.buses(market, clearing)
    inner = table[table.bus != market.grid.names[0]].set_index(["bus", "hour"]).voltage_pu.unstack()
    limits = {"lower": market.grid.voltage_min, "upper": market.grid.voltage_max}
    for word, limit in limits.items():
        limit = dict(zip(market.grid.names, np.asarray(limit).tolist(), strict=True))
        room = abs(inner.sub(inner.index.map(limit), axis=0)).min(axis=0)
        np.testing.assert_allclose(drawn[f"to the {word} limit"][0], room, atol=1e-12)
    grid = replace(market.grid, voltage_min=np.full(36, 0.96), voltage_max=np.full(36, 1.1))
    ax = plots.voltages(eqx.tree_at(lambda m: m.grid, market, grid), clearing)
    high, _, low = stairs(ax)["buses, lowest to highest"]
    np.testing.assert_allclose([low, high], [inner.min(), np.maximum(inner.max(), 1.0)])
    told = {str(line.get_label()): np.asarray(line.get_ydata()) for line in ax.lines}
    assert np.isnan(told["upper limit, 1.1 pu (far)"]).all()
    assert (told["lower limit, 0.96 pu"] == 0.96).all()
    flat = jg.ieee37(prosumers=6, hours=8, hour_length=3.0, grid="copperplate")
    for draw in (plots.voltages, plots.feeder, plots.duration):
        with pytest.raises(ValueError, match="copperplate market has no"):
            draw(flat, clearing)


def test_voltages_that_the_model_does_not_determine_are_those_of_the_power_flow():
    """On the paper's grid without a reactive balance; lines then show currents."""
    market, clearing = solved()
    grid = replace(market.grid, model="paper", reactive_balance=False)
    flat = eqx.tree_at(lambda m: m.grid, market, grid)
    true = np.asarray(jg.ac_power_flow(market, clearing.plan).voltage)
    ax = plots.voltages(flat, clearing, room=False)
    high, _, low = stairs(ax)["buses, lowest to highest"]
    np.testing.assert_allclose([low, high], [true.min(axis=0), true.max(axis=0)])
    assert "AC power flow" in ax.get_title()
    plots.feeder(flat, clearing)
    heavy = eqx.tree_at(lambda m: m.grid.passive, flat, flat.grid.passive.at[3, 2].set(1e7))
    with pytest.raises(ValueError, match="does not converge in hour 6"):
        plots.voltages(heavy, clearing)


@pytest.mark.parametrize("whose", ["all", "one"])
def test_both_stacks_are_equally_high(whose: str):
    """Own balance of one, or summed over all: trades cancel, so what comes in goes out."""
    market, clearing = solved()
    one = None if whose == "all" else owner()
    chosen = slice(None) if one is None else slice(one, one + 1)
    parts = stairs(plots.energy(market, clearing, prosumer=one))
    traded = parts.pop("traded among peers", None)
    assert (traded is None) == (one is not None)
    total = sum(values - baseline for values, _, baseline in parts.values())
    size = max(np.abs(values).max() for values, _, _ in parts.values())
    assert size > 1.0
    np.testing.assert_allclose(total, 0.0, atol=1e-3 * size)
    values, _, base = parts["imports"]
    np.testing.assert_allclose(values - base, clearing.plan.imports[chosen].sum(axis=0), atol=1e-9)
    traded = {"bought from peers", "sold to peers"} & parts.keys()
    assert bool(traded) == (one is not None)
    sun = np.asarray(market.prosumers.curtail_max) - np.asarray(clearing.plan.curtailed)
    values, _, base = parts.get("sun", (np.zeros(8), None, 0.0))  # not everyone has any
    np.testing.assert_allclose(values - base, sun[chosen].sum(axis=0), atol=1e-9)
    values, _, base = parts["load"]
    gross = np.asarray(market.prosumers.load + market.prosumers.curtail_max)[chosen].sum(axis=0)
    np.testing.assert_allclose(base - values, gross, atol=1e-9)
    with pytest.raises(ValueError, match="prosumer 6; give 0 to 5"):
        plots.energy(market, clearing, prosumer=6)


def test_storage_is_stacked_from_its_start_within_its_bounds():
    market, clearing = solved()
    ax = plots.storage(market, clearing)
    start = np.asarray(market.buffers.energy_start)
    edges = np.arange(9) * 3.0
    areas = [a for a in ax.collections if isinstance(a, PolyCollection)]
    assert len(areas) == len(start)
    top = outline(areas[-1])
    tops = [top[top[:, 0] == at, 1].max() for at in edges]
    energy = np.asarray(clearing.plan.energy).sum(axis=0)
    np.testing.assert_allclose(tops, [start.sum(), *energy])
    np.testing.assert_allclose(stairs(ax)["bounds"][0], market.buffers.energy_max.sum(axis=0))
    least = np.asarray(market.buffers.energy_min)
    (due,) = ax.lines  # full again at the end
    np.testing.assert_allclose(np.asarray(due.get_xydata()), [[24.0, least[:, -1].sum()]])
    bounds: Any = next(c for c in ax.collections if isinstance(c, LineCollection))
    np.testing.assert_allclose(bounds.get_segments()[0][:, 1], least.min(axis=1).sum())
    without = next(i for i in range(6) if i not in np.asarray(market.buffers.owner))
    with pytest.raises(ValueError, match=f"prosumer {without} has none"):
        plots.storage(market, clearing, prosumer=without)
    assert len(plots.storage(market, clearing, prosumer=owner()).collections) == 2


def test_storage_of_many_ends_in_one_area_of_the_others():
    """Nine buffers of 1 to 9 kWh that stand still: six by name, and 3 + 2 + 1 of three others."""
    stores = jg.Buffers([0] * 9, 1.0, 1.0, 10.0, np.arange(1.0, 10.0), hours=2)
    market = jg.Market(
        jg.Prosumers([0], [[1.0, 1.0]]),
        jg.Grid([[0.0, 0.0]]),
        jg.Tariff(0.0, hours=2),
        None,
        stores,
    )
    plan = eqx.tree_at(
        lambda p: p.energy, jg.model.zeros(market), jnp.outer(jnp.arange(1.0, 10.0), jnp.ones(2))
    )
    unjudged: Any = None
    clearing = jg.Clearing(
        plan, jg.model.rows_like(market), jnp.zeros(1), jnp.zeros(2), unjudged, jnp.array(1),
        jg.Status.cleared, jg.result.Run("", jnp.array(1e-6), jnp.array(True)),
    )  # fmt: skip
    ax = plots.storage(market, clearing)
    labels = [str(area.get_label()) for area in ax.collections]
    assert labels[0] == "buffer 8 (prosumer 0)" and labels[6] == "3 others"
    others = outline(ax.collections[6])[:, 1]
    assert (others.min(), others.max()) == (39.0, 45.0)


def test_the_map_shows_voltages_loadings_and_trades_of_the_peak():
    """The feeder is a square of its own; trades are those of `frames`, summed by pair of buses."""
    market, clearing = solved()
    table = frames.lines(market, clearing)
    hour = int(table.groupby("hour").loading_percent.max().argmax())
    ax = plots.feeder(market, clearing, least=1e-2)
    assert f"in hour {3 * hour}, of the highest loading" in ax.get_title()
    spots = [c for c in ax.collections if isinstance(c, PathCollection)]
    shown = np.concatenate([np.asarray(c.get_array()) for c in spots])
    volts = np.asarray(jg.model.voltages(market, clearing.plan))[:, hour]
    np.testing.assert_allclose(shown, np.concatenate([volts[1:], volts[:1]]))
    lines = next(c for c in ax.collections if isinstance(c, LineCollection))
    loading = table[table.hour == 3 * hour].loading_percent
    np.testing.assert_allclose(np.asarray(lines.get_array()), loading)
    trades = frames.trades(market, clearing)
    bus = np.asarray(market.prosumers.bus)
    net = np.zeros((36, 36))
    rows: Any = trades[trades.hour == 3 * hour].itertuples()
    for row in rows:
        net[bus[row.seller], bus[row.buyer]] += row.trade_kw
        net[bus[row.buyer], bus[row.seller]] -= row.trade_kw
    arrows: list[Any] = [p for p in ax.patches if isinstance(p, FancyArrowPatch)]
    assert len(arrows) == int((net > 1e-2).sum()) > 0
    widest = max(arrows, key=lambda arrow: arrow.get_linewidth())
    source, target, fed = (
        np.asarray(getattr(market.grid, end)) for end in ("source", "target", "feeder")
    )
    places = tidy_tree(source, target, fed, 36)
    seller, buyer = np.unravel_index(net.argmax(), net.shape)
    np.testing.assert_allclose(widest._posA_posB, [places[seller], places[buyer]])
    with pytest.raises(ValueError, match="hour 8: no step begins then; give one from hour 0 to"):
        plots.feeder(market, clearing, hour=8)
    with pytest.raises(ValueError, match=r"positions of shape \(3, 2\); give one pair for each"):
        plots.feeder(market, clearing, positions=np.zeros((3, 2)))


def test_arrows_are_the_largest_trades_that_matter():
    """Those with 80 % of all, at most 20, none below a hundredth of what prosumers move."""
    assert largest(np.array([50.0, 30.0, 15.0, 5.0]), 100.0) == 2
    assert largest(np.ones(100), 100.0) == 20
    assert largest(np.array([5.0, 0.4, 0.3]), 50.0) == 1
    assert largest(np.array([0.1, 0.1]), 50.0) == 0
    assert largest(np.array([]), 50.0) == 0


def test_names_that_have_no_room_are_left_out_and_what_all_begin_with():
    market, clearing = solved()
    names = tuple(f"LV1.101 Bus {k}" for k in range(36))
    grid = replace(market.grid, names=names)
    ax = plots.feeder(eqx.tree_at(lambda m: m.grid, market, grid), clearing)
    texts = [text for text in ax.texts if text.get_text()]
    assert "0" in {text.get_text() for text in texts} <= {str(k) for k in range(36)}
    boxes = [text.get_window_extent() for text in texts]
    assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k])


def test_durations_are_hours_at_least_that_full():
    """At every loading a curve is as wide as `frames` counts hours above it."""
    market, clearing = solved()
    drawn = stairs(plots.duration(market, clearing, top=2))
    table = frames.lines(market, clearing).set_index("line").loading_percent
    most = table.groupby("line").max().sort_values(ascending=False)
    curves = {label: parts for label, parts in drawn.items() if label.startswith("line ")}
    assert len(curves) == 2 and "33 others, at most" in drawn
    for label, (values, edges, _) in curves.items():
        own = table[next(name for name in most.index if f"{name} " in label.removeprefix("line "))]
        for level in (20.0, 50.0, 80.0):
            shown = float(np.diff(edges)[values >= level].sum())
            assert shown == 3.0 * int((own >= level).sum())
        assert values[0] >= most.iloc[1] - 1e-9
    bare = replace(market.grid, rating=np.full(35, np.inf))
    with pytest.raises(ValueError, match=r"no line has a rating \(Grid.rating\)"):
        plots.duration(eqx.tree_at(lambda m: m.grid, market, bare), clearing)


def test_a_transformer_is_called_so():
    """By its name, or by its tap; else a line is one."""
    grid = replace(
        solved()[0].grid,
        line_names=("trafo 0", "Transformer 1", *(f"cable {k}" for k in range(33))),
        tap=np.where(np.arange(35) == 3, 0.975, 1.0),
    )
    titles = [line_title(grid, k) for k in (0, 1, 2, 3)]
    assert titles == ["transformer 0", "Transformer 1", "line cable 0", "transformer cable 1"]


@pytest.mark.parametrize(
    "names", [("energy", "voltages", "prices"), ("storage", "costs", "feeder")]
)
def test_three_panels_of_a_journal_have_room(names: tuple[str, ...]):
    """7 x 2.3 inches: no words over another panel, each plot at least an inch wide, half high."""
    figure, axes = plt.subplots(1, 3, figsize=(7, 2.3), layout="constrained")
    for ax, name in zip(axes, names, strict=True):
        OF_ONE[name](*solved(), ax=ax)
    figure.canvas.draw()
    boxes = [ax.get_tightbbox() for ax in axes]
    assert boxes[0].x1 <= boxes[1].x0 + 1 and boxes[1].x1 <= boxes[2].x0 + 1
    for ax in axes:
        inside = ax.get_window_extent()
        assert inside.width > 1.0 * figure.dpi and inside.height > 0.5 * figure.dpi
        assert min(text.get_fontsize() for text in ax.get_legend().get_texts()) >= 6


def test_a_bus_in_phases_is_one_spot_and_its_conductors_lie_side_by_side():
    """Terminals are where their bus is; sectors are voltages of phases, strokes as wide as full."""
    market, clearing = phased()
    ax, grid, hour = plots.feeder(market, clearing, hour=0), market.grid, 0
    named = [text.get_text() for text in ax.texts if text.get_text()]
    assert len(named) == len(set(named)) == 15 and {"650", "671", "611"} <= set(named)
    volts = np.asarray(jg.model.voltages(market, clearing.plan))[:, hour]
    sectors = [c for c in ax.collections if c.get_array() is not None]
    for drawn, rows in zip(sectors, np.asarray(grid.phases).T, strict=True):
        shown: Any = drawn.get_array()
        np.testing.assert_allclose(shown, volts[rows[rows >= 0]])
    plan = clearing.plan
    carried = np.hypot(np.asarray(plan.active), np.asarray(plan.reactive))[:, hour]
    strokes: list[Any] = [c for c in ax.collections if isinstance(c, LineCollection)]
    names = np.array([name.rpartition(".")[2] for name in grid.line_names])
    for drawn, phase in zip(strokes, "abc", strict=True):
        share = (carried / np.asarray(grid.rating))[names == phase]
        np.testing.assert_allclose(drawn.get_linewidths(), 0.6 + 3.0 * share)
        moved = np.linalg.norm(np.asarray(drawn.get_offsets()), axis=1)
        np.testing.assert_allclose(moved, 0.0 if phase == "b" else 4.0 / 72)
    key: Any = ax.get_legend()
    labels = [text.get_text() for text in key.get_texts()]
    assert labels[:3] == ["phase a", "phase b", "phase c"]
    with pytest.raises(ValueError, match="each of the 15 buses, or for each of 43 rows"):
        plots.feeder(market, clearing, positions=np.zeros((3, 2)))


@pytest.mark.parametrize("seed", range(4))
def test_no_two_lines_of_a_tidy_tree_cross(seed: int):
    """Nor do two buses meet; each bus is one step further than the bus that feeds it."""
    rng = np.random.default_rng(seed)
    buses = 60
    target = np.arange(1, buses)
    source = np.floor(rng.uniform(size=buses - 1) * target).astype(int)
    flip = rng.uniform(size=buses - 1) < 0.5  # lines may point either way
    ends = np.where(flip, target, source), np.where(flip, source, target)
    places = tidy_tree(*ends, np.array([0]), buses)
    assert len(np.unique(places, axis=0)) == buses
    np.testing.assert_array_equal(places[target, 0], places[source, 0] + 1)
    for a, b in zip(source, target, strict=True):
        same = places[source, 0] == places[a, 0]
        sides = (places[source, 1] - places[a, 1]) * (places[target, 1] - places[b, 1])
        assert np.all(sides[same] >= 0)


def test_loops_and_islands_are_laid_out_too():
    """A ring of four behind bus 0, and buses 4 - 5 that nothing reaches: all have their places."""
    ring = np.array([0, 1, 2, 3, 4]), np.array([1, 2, 3, 0, 5])
    places = tidy_tree(*ring, np.array([0]), 6)
    assert len(np.unique(places, axis=0)) == 6
    np.testing.assert_array_equal(places[:, 0], [0, 1, 2, 1, 0, 1])


def test_totals_and_convergence_are_those_given():
    drawn, physical = stairs(plots.sigma(cleared())), stairs(plots.transformer(cleared()))
    for name, (_, clearing) in cleared().items():
        np.testing.assert_allclose(drawn[name][0], clearing.aggregate)
        net = np.asarray(clearing.aggregate) - np.asarray(clearing.plan.exports).sum(axis=0)
        np.testing.assert_allclose(physical[name][0], net, atol=1e-9)
    lines = plots.convergence(TRACES).lines
    for line, (name, found) in zip(lines, TRACES.items(), strict=True):
        assert line.get_label() == name
        np.testing.assert_array_equal(line.get_xydata(), np.stack([found.steps, found.error], 1))
    for draw in (plots.sigma, plots.transformer, plots.convergence):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw({})


def test_costs_stack_up_to_what_each_prosumer_pays():
    """Bars of all parts sum to the outcome, and so do the dots; parts are those of the bills."""
    market, clearing = solved()
    ax = plots.costs(market, clearing)
    expected = np.asarray(jg.comparison.outcome(market, clearing).cost)
    np.testing.assert_allclose(heights(ax).reshape(-1, 6).sum(axis=0), expected)
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata()), expected)
    table = frames.bills(market, clearing)
    paid = table[table.payer == "prosumer"].groupby("prosumer").main_grid_eur.sum()
    np.testing.assert_allclose(heights(ax)[:6], paid)


def test_bars_are_benefits():
    """Without trades less what it costs with them: their mean is what `compare` prints."""
    found = comparison()
    ax = plots.benefits(found)
    saved = found.outcomes["no trading"].cost - found.outcomes["market"].cost
    np.testing.assert_allclose(heights(ax), saved)
    mean = found.rows["market"]["mean_benefit_eur"]
    assert float(np.asarray(ax.lines[0].get_ydata())[0]) == pytest.approx(mean, abs=1e-6)
    back = plots.benefits(found, name="no trading", reference="market")
    np.testing.assert_allclose(heights(back), -np.asarray(saved))
    with pytest.raises(ValueError, match="'autarky' was not compared, but market, no trading"):
        plots.benefits(found, reference="autarky")


def test_sensitivities_are_derivatives_with_the_unit_of_their_field():
    """d/dslope[3] = 2e4; d/dload in step h = h - 2, at most 5 in step 7, for each of six."""
    ax = plots.sensitivities(gradient(), output="cost (EUR)")
    labels = [text.get_text() for text in ax.get_yticklabels()]
    assert labels == [
        "tariff.slope, hour 3 (EUR/kWh/kW)",
        "prosumers.load, prosumer 0, hour 7 (kW)",
    ]
    bars = [p for p in ax.patches if isinstance(p, Rectangle)]
    np.testing.assert_allclose([bar.get_width() for bar in bars], [2e4, 5.0])
    by_hour = plots.sensitivities(gradient(), field="prosumers.load")
    bars = [p for p in by_hour.patches if isinstance(p, Rectangle)]
    drawn = {bar.get_x() + bar.get_width() / 2: bar.get_height() for bar in bars}
    assert drawn == {h: 6.0 * (h - 2) for h in range(8) if h != 2}
    by_row = plots.sensitivities(gradient(), field="prosumers.load", by="prosumer")
    np.testing.assert_allclose(heights(by_row), 8 * 1.5)
    assert by_row.get_ylabel() == "change of output per kW"
    whole = jax.grad(lambda m: 3.0 * m.tariff.anticipation, allow_int=True)(solved()[0])
    only = plots.sensitivities(whole)
    assert [text.get_text() for text in only.get_yticklabels()] == ["tariff.anticipation (1)"]


def test_sensitivities_by_percent_can_be_compared():
    """0.01 times the number there: of loads that cost h - 2 EUR/kW, and of the slope in step 3."""
    market = solved()[0]
    ax = plots.sensitivities(gradient(), market=market, percent=True, output="cost (EUR)")
    bars = [p for p in ax.patches if isinstance(p, Rectangle)]
    drawn = dict(zip([t.get_text() for t in ax.get_yticklabels()], bars, strict=True))
    load = 0.01 * float((np.asarray(market.prosumers.load) @ (np.arange(8.0) - 2.0)).sum())
    assert drawn["prosumers.load"].get_width() == pytest.approx(load)
    slope = 0.01 * 2e4 * float(market.tariff.slope[3])
    assert drawn["tariff.slope"].get_width() == pytest.approx(slope)
    with pytest.raises(ValueError, match="percent=True needs the market"):
        plots.sensitivities(gradient(), percent=True)


def test_sensitivities_that_there_are_not_are_refused():
    flat = jax.tree.map(jnp.zeros_like, gradient())
    with pytest.raises(ValueError, match="all derivatives are zero"):
        plots.sensitivities(flat)
    with pytest.raises(ValueError, match=r"field 'slope' is none of prosumers\.load, "):
        plots.sensitivities(flat, field="slope")
    with pytest.raises(ValueError, match=r"tariff\.slope is by hour, not by 'bus'"):
        plots.sensitivities(flat, field="tariff.slope", by="bus")
    with pytest.raises(ValueError, match="anticipation is one number"):
        plots.sensitivities(flat, field="tariff.anticipation")
    wrong = eqx.tree_at(lambda m: m.tariff.base, flat, jnp.full(8, jnp.nan))
    with pytest.raises(ValueError, match=r"derivatives of tariff\.base are not finite"):
        plots.sensitivities(wrong)


@pytest.mark.parametrize("quantity", ["sigma", "price", "voltage"])
def test_fans_are_quantiles_of_what_cleared(quantity: Any):
    """Of five scenarios the last did not clear: quantiles are those of the four others."""
    markets, clearings = batch()
    kept = list(cleared().values())[:4]
    value = {
        "sigma": lambda m, c: c.aggregate,
        "price": lambda m, c: jg.model.energy_prices(m, c.prices).mean(axis=0),
        "voltage": lambda m, c: jg.model.voltages(m, c.plan).min(axis=0),
    }[quantity]
    values = np.stack([value(*pair) for pair in kept])
    ax = plots.fan(markets, clearings, quantity)
    assert ax.get_title() == "5 scenarios (1 NOT CLEARED, left out)"
    drawn = stairs(ax)
    np.testing.assert_allclose(drawn["median"][0], np.median(values, axis=0))
    top, _, bottom = drawn["5 to 95 %"]
    np.testing.assert_allclose(top, np.quantile(values, 0.95, axis=0))
    np.testing.assert_allclose(bottom, np.quantile(values, 0.05, axis=0))


def test_a_fan_needs_a_batch_that_cleared():
    markets, clearings = batch()
    with pytest.raises(ValueError, match="no scenario cleared"):
        plots.fan(markets, with_status(clearings, [jg.Status.max_steps] * 5))
    with pytest.raises(ValueError, match="one clearing; draw a batch"):
        plots.fan(*solved())
    with pytest.raises(ValueError, match="'load' is none of sigma, price, voltage"):
        plots.fan(markets, clearings, "load")  # type: ignore[arg-type]
    uneven = eqx.tree_at(
        lambda m: m.hour_length, markets, np.arange(1.0, 6.0)[:, None] + np.zeros(8)
    )
    with pytest.raises(ValueError, match="hour_length differs"):
        plots.fan(uneven, clearings)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results") / "day"
    jg.save(folder, *solved())
    return folder


def call(*words: object) -> Any:
    return CliRunner().invoke(cli.app, ["plot", *(str(word) for word in words)])


@pytest.mark.parametrize("kind", [name.replace("_", "-") for name in OF_ONE])
def test_the_command_writes_a_picture(kind: str, saved: Path, tmp_path: Path, monkeypatch: Any):
    """Named after result and kind by default, as SVG where the name says so; nothing else left."""
    monkeypatch.chdir(tmp_path)
    result = call(saved, "--kind", kind)
    assert result.exit_code == 0, result.output
    assert (tmp_path / f"day-{kind}.png").read_bytes()[:4] == b"\x89PNG"
    if kind == "storage":
        assert call(saved, "--kind", kind, "--out", "a.svg", "--prosumer", owner()).exit_code == 0
        drawn = (tmp_path / "a.svg").read_text()
        assert "<svg" in drawn
        (tmp_path / "a.svg").unlink()
    assert [path.name for path in tmp_path.iterdir()] == [f"day-{kind}.png"]


def test_the_command_refuses_what_it_cannot_draw(saved: Path, tmp_path: Path):
    out = tmp_path / "a.png"
    usage = [
        (saved, "--kind", "convergence"),
        (saved, saved, "--kind", "prices"),
        (saved, "--kind", "prices", "--prosumer", 0),
        (saved, "--kind", "energy", "--hour", 0),
        (saved, "--kind", "prices", "--out", tmp_path / "a.jpg"),
    ]
    assert [call(*words).exit_code for words in usage] == [2] * len(usage)
    bare = tmp_path / "bare"
    jg.save(bare, solved()[0])
    for words, sentence in (
        ((bare, "--kind", "prices"), "holds no clearing; run jaxgne clear"),
        ((tmp_path / "none", "--kind", "prices"), "does not exist"),
        ((saved, "--kind", "energy", "--prosumer", 6), "prosumer 6; give 0 to 5"),
    ):
        result = call(*words, "--out", out)
        assert result.exit_code == 1, result.output
        assert sentence in result.stderr and result.stderr.count("\n") == 1
    assert not out.exists()
    many = call(saved, bare.parent / "bare", "--kind", "sigma", "--out", out)
    assert many.exit_code == 1 and "holds no clearing" in many.stderr


def test_the_gallery_shows_every_function():
    """A small picture each, which the page shows with the line that draws it."""
    docs = Path(__file__).parent.parent / "docs"
    page = (docs / "gallery.md").read_text(encoding="utf-8")
    for name in plots.__all__:
        assert f"plots.{name}(" in page
    shown = {part.split(")")[0] for part in page.split("](gallery/")[1:]}
    assert shown == {path.name for path in (docs / "gallery").iterdir()}
    assert max(path.stat().st_size for path in (docs / "gallery").iterdir()) < 120_000
