"""The mechanism by messages: lost, late, without a center, and hidden by noise."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli, consensus, messages, plots, privacy
from jaxgne.channels import Medium, opened, told
from jaxgne.conversation import Conversation
from tests.markets import feeder
from tests.three_buses import feeder as three_buses
from tests.three_buses import neighbors

_LOOKS = 20


def village() -> jg.Market:
    """Five at one bus, each trading with the next, who may import no more than 14 kW together."""
    return jg.Market(
        jg.Prosumers([0] * 5, [[6.0, 9.0], [4.0, 7.0], [8.0, 5.0], [3.0, 6.0], [7.0, 4.0]]),
        jg.Grid([[2.0, 1.0]], model="copperplate"),
        jg.Tariff(0.004, hours=2, base=[0.1, 0.15], total_max=14.0),
        jg.Generators([0, 2, 4], 12.0, hours=2, quadratic=[0.004, 0.006, 0.01], linear=0.12),
        trading=jg.Trading([0, 1, 2, 3, 4], [1, 2, 3, 4, 0], 6.0, toll=0.005),
    )


MARKETS = {"copperplate": village, "network": lambda: feeder(voltage_min=0.979)}


@cache
def market_of(name: str) -> tuple[jg.Market, jg.Clearing]:
    market = MARKETS[name]()
    return market, jg.clear(market, tol=1e-9)


def spoken(name: str, rounds: int = 2000, **ways: Any) -> Conversation:
    market, exact = market_of(name)
    every = max(1, rounds // _LOOKS)
    return messages.simulate(market, rounds=rounds, every=every, exact=exact, **ways)


def ring(count: int, both: bool = True) -> np.ndarray:
    one = np.roll(np.eye(count), 1, axis=0)
    return np.maximum(one, one.T) if both else one


# Channels


def test_a_receiver_goes_by_the_newest_message_that_has_arrived():
    """Held against a mailbox kept by hand, of which only the delays drawn are known."""
    links, rounds, depth = 3, 60, 4
    medium = Medium(jnp.asarray(0.4), jnp.asarray(3))
    channel, rng = opened(jnp.full(links, -1.0), depth), np.random.default_rng(0)
    boxes: list[list[tuple[int, int]]] = [[] for _ in range(links)]  # (arrives, sent) of each
    step = eqx.filter_jit(told)
    for now in range(rounds):
        speaks = rng.random(links) < 0.8
        value = jnp.asarray(100.0 * now) + jnp.arange(links)
        key = jax.random.fold_in(jax.random.key(1), now)
        channel = step(channel, value, jnp.asarray(speaks), medium, jnp.asarray(now), key)
        for link, box in enumerate(boxes):
            wait = int(channel.under_way[0, link])
            assert speaks[link] or wait > rounds
            box.append((now + wait, now))
            here = [sent for arrives, sent in box if arrives <= now]
            expected = 100.0 * max(here) + link if here else -1.0
            assert float(channel.held[link]) == expected


def test_messages_are_lost_and_late_as_often_as_asked():
    links = 40_000
    medium = Medium(jnp.asarray(0.3), jnp.asarray(2))
    channel = opened(jnp.zeros(links), 4)
    every = jnp.ones(links, bool)
    channel = told(channel, jnp.ones(links), every, medium, jnp.asarray(0), jax.random.key(0))
    wait = np.asarray(channel.under_way[0])
    assert np.mean(wait > 2) == pytest.approx(0.3, abs=0.01)
    for rounds in range(3):
        assert np.mean(wait == rounds) == pytest.approx(0.7 / 3, abs=0.01)
    np.testing.assert_array_equal(np.asarray(channel.held), wait == 0)


# Consensus


def test_metropolis_shares_of_a_path_are_those_by_hand():
    """Ends have one neighbor, the middle two: 1/3 to one another, and what is left to oneself."""
    path = [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    expected = np.array([[2, 1, 0], [1, 1, 1], [0, 1, 2]]) / 3
    np.testing.assert_allclose(consensus.metropolis(path), expected, atol=1e-15)
    np.testing.assert_allclose(consensus.metropolis(np.ones((5, 5))), 0.2, atol=1e-15)
    with pytest.raises(ValueError, match="not symmetric"):
        consensus.metropolis(ring(4, both=False))


def mix(graph: consensus.Graph, truth: np.ndarray, rounds: int, moves: int, **air: Any):
    """Masses round after round while each agent's own value moves for the first `moves`."""
    medium = Medium(jnp.asarray(air.get("loss", 0.0)), jnp.asarray(air.get("delay", 0)))
    acts_as, rng = air.get("acts", 1.0), np.random.default_rng(2)
    agents, seen = len(truth), []
    masses, step = (
        consensus.masses_of(graph, jnp.asarray(truth), 4),
        eqx.filter_jit(consensus.mixed),
    )
    for now in range(rounds):
        acts = rng.random(agents) < acts_as
        if now < moves:
            change = rng.normal(size=truth.shape) * acts[:, None]
            truth = truth + change
            masses = jg.record.changed(masses, mass=masses.mass + change)
        key = jax.random.fold_in(jax.random.key(3), now)
        masses, _ = step(graph, masses, jnp.asarray(acts), medium, jnp.asarray(now), key)
        seen.append((truth, masses))
    return seen


def test_the_mean_of_estimates_is_the_mean_of_the_truth_in_every_round():
    """Doubly stochastic: weights stay at 1, and changes are tracked to the end."""
    graph = consensus.graph_of(ring(6), 6)
    start = np.random.default_rng(0).normal(size=(6, 2))
    seen = mix(graph, start, 120, 30)
    for truth, masses in seen:
        np.testing.assert_allclose(masses.weight, 1.0, atol=1e-12)
        held = np.asarray(consensus.estimates(masses))
        np.testing.assert_allclose(held.sum(axis=0), truth.sum(axis=0), atol=1e-11)
    truth, masses = seen[-1]
    held = np.asarray(consensus.estimates(masses))
    np.testing.assert_allclose(held, np.broadcast_to(truth.mean(axis=0), held.shape), atol=1e-7)


@pytest.mark.parametrize("air", [{}, {"loss": 0.3, "delay": 3, "acts": 0.6}])
def test_push_sums_find_the_mean_over_directed_graphs_whatever_is_lost(air: dict[str, float]):
    """A directed ring, of which every other link is there in turn; nothing gets lost for good."""
    one = ring(5, both=False)
    odd = np.arange(5)[:, None] % 2 == 1
    graph = consensus.graph_of(np.stack([one * odd, one * ~odd, one]), 5)
    start = np.random.default_rng(0).normal(size=(5, 2))
    seen = mix(graph, start, 500, 30, **air)
    for truth, masses in seen:
        for k, total in ((0, np.full(1, 5.0)), (1, truth.sum(axis=0))):
            own = (masses.weight[:, None], masses.mass)[k]
            under_way = masses.pushed[k] - masses.taken[k]
            both = np.asarray(own).sum(axis=0) + np.asarray(under_way).sum(axis=0)
            np.testing.assert_allclose(both, total, atol=1e-10)
    truth, masses = seen[-1]
    held = np.asarray(consensus.estimates(masses))
    np.testing.assert_allclose(held, np.broadcast_to(truth.mean(axis=0), held.shape), atol=1e-9)


# Privacy


def hockey_stick(rho: float, epsilon: float) -> float:
    """The least delta of epsilon, by an integral: Gaussians of deviation 1, sqrt(2 rho) apart."""
    x = np.linspace(-40.0, 40.0, 400_001)
    apart = np.sqrt(2 * rho)
    one, other = (np.exp(-((x - at) ** 2) / 2) / np.sqrt(2 * np.pi) for at in (apart, 0.0))
    return float(np.trapezoid(np.maximum(one - np.exp(epsilon) * other, 0.0), x))


@pytest.mark.parametrize("rho", [1e-3, 0.1, 2.0])
def test_epsilon_is_enough_by_the_integral_of_what_gaussians_tell(rho: float):
    """What it promises holds with room, and a third of it does not."""
    delta = 1e-5
    epsilon = float(privacy.epsilon(jnp.asarray(rho), delta))
    assert hockey_stick(rho, epsilon) <= delta < hockey_stick(rho, epsilon / 3)


def test_the_cost_of_a_round_bounds_all_renyi_divergences():
    """Of Gaussian noise by alpha rho exactly, of Laplace noise from above, by integrals."""
    noise, clip = 0.7, 0.2
    x = np.linspace(-30.0, 30.0, 600_001)
    kinds: tuple[privacy.Noise, ...] = ("gaussian", "laplace")
    for kind in kinds:
        rho = float(privacy.round_cost(jnp.asarray(noise), jnp.asarray(clip), kind))
        one, other = (
            -(((x - at) / noise) ** 2) / 2 - np.log(np.sqrt(2 * np.pi) * noise)
            if kind == "gaussian"
            else -np.abs(x - at) / noise - np.log(2 * noise)
            for at in (-clip, clip)
        )
        for alpha in (1.5, 2.0, 8.0):
            both = np.exp(alpha * one + (1 - alpha) * other)
            found = np.log(np.trapezoid(both, x)) / (alpha - 1)
            if kind == "gaussian":
                assert found == pytest.approx(alpha * rho, rel=1e-6)
            else:
                assert found <= alpha * rho * (1 + 1e-9)


def test_without_noise_or_clipping_nothing_is_private():
    for noise, clip in ((0.0, 1.0), (1.0, np.inf)):
        cost = privacy.round_cost(jnp.asarray(noise), jnp.asarray(clip), "gaussian")
        assert float(cost) == np.inf


@pytest.mark.parametrize("kind", ["gaussian", "laplace"])
def test_noise_has_its_scale_and_changes_are_clipped(kind: privacy.Noise):
    """Laplace noise of scale b has the variance 2 b^2; unused numbers have none."""
    rng = np.random.default_rng(0)
    said, meant = (jnp.asarray(rng.normal(size=(2000, 30))) for _ in range(2))
    used = jnp.arange(30) < 25
    scale, most = jnp.asarray(0.5), jnp.asarray(1.0)
    new = privacy.spoken(
        said, meant, used & jnp.ones_like(said, bool), scale, most, kind, jax.random.key(0)
    )
    still = privacy.spoken(
        said, meant, jnp.zeros_like(said, bool), scale, most, kind, jax.random.key(0)
    )
    noise = np.asarray(new - still)
    deviation = 0.5 if kind == "gaussian" else 0.5 * np.sqrt(2)
    assert noise[:, :25].std() == pytest.approx(deviation, rel=0.01)
    assert noise[:, :25].mean() == pytest.approx(0.0, abs=0.01)
    assert np.all(noise[:, 25:] == 0)
    change = np.asarray(still - said)
    order = 2 if kind == "gaussian" else 1
    np.testing.assert_allclose(np.linalg.norm(change, order, axis=1), 1.0, rtol=1e-12)
    wide = privacy.spoken(
        said,
        meant,
        jnp.zeros_like(said, bool),
        scale,
        jnp.asarray(np.inf),
        kind,
        jax.random.key(0),
    )
    np.testing.assert_array_equal(wide, meant)


# The mechanism


@pytest.mark.parametrize("name", MARKETS)
def test_with_all_messages_in_time_it_is_the_mechanism(name: str):
    """The errors of `trace`, with an operator and by a complete graph of equal shares."""
    market, _ = market_of(name)
    rounds = 3 * _LOOKS
    alone = jg.trace(market, jg.SemiDecentralized(), steps=rounds, every=3)
    found = spoken(name, rounds)
    np.testing.assert_allclose(found.error[0], alone.error, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found.rounds, alone.steps)
    count = market.prosumers.load.shape[0]
    without = spoken(name, rounds, graph=np.ones((count, count)))
    np.testing.assert_allclose(without.error[0], alone.error, rtol=1e-9, atol=1e-12)
    assert np.max(without.apart) < 1e-9


@pytest.mark.parametrize("name", MARKETS)
def test_lost_and_late_messages_end_at_the_clearing(name: str):
    """Imports, total and prices of `clear`, by steps of half the way; bolder ones do not end."""
    ways: dict[str, Any] = {"loss": 0.2, "delay": 3, "participation": 0.7, "seeds": 3}
    market, exact = market_of(name)
    found = spoken(name, step=0.4, **ways)
    assert np.all(found.rounds_to(1e-3) <= 2000)
    assert np.max(np.asarray(found.error)[:, -1]) < 1e-5
    for k in range(3):
        plan, prices = jax.tree.map(lambda a, k=k: a[k], (found.plan, found.prices))
        np.testing.assert_allclose(plan.imports, exact.plan.imports, atol=1e-3)
        one, other = (jg.model.energy_prices(market, each) for each in (prices, exact.prices))
        np.testing.assert_allclose(one, other, atol=1e-4)
    bold = spoken(name, **ways)
    assert np.all(np.asarray(bold.error)[:, -1] > 1e-3)


GRAPHS: dict[str, Any] = {
    "a ring": lambda n: {"graph": ring(n)},
    "one way round": lambda n: {"graph": ring(n, both=False), "step": 0.5},
    "links in turn, lost and late": lambda n: {
        "graph": np.stack([ring(n), ring(n, both=False)]),
        "loss": 0.2,
        "delay": 2,
        "participation": 0.8,
        "step": 0.3,
    },
}


@pytest.mark.parametrize("name", GRAPHS)
def test_without_an_operator_all_agree_on_the_clearing(name: str):
    market, exact = market_of("copperplate")
    found = spoken("copperplate", seeds=2, **GRAPHS[name](market.prosumers.load.shape[0]))
    assert np.max(np.asarray(found.error)[:, -1]) < 1e-5
    assert np.max(np.asarray(found.apart)[:, -1]) < 1e-6 < 1e-2 < np.max(found.apart)
    np.testing.assert_allclose(found.plan.imports[1], exact.plan.imports, atol=1e-3)


def test_on_a_network_all_agree_without_an_operator():
    """Each has a copy of the grid's state, and finds the prices of its buses."""
    market, exact = market_of("network")
    count = market.prosumers.load.shape[0]
    found = spoken("network", 4000, graph=ring(count), step=0.3)
    assert found.error[0, -1] < 1e-4
    one, other = (jg.model.energy_prices(market, each) for each in (first(found), exact.prices))
    np.testing.assert_allclose(one, other, atol=1e-3)


def first(found: Conversation) -> jg.Rows:
    return jax.tree.map(lambda a: a[0], found.prices)


def test_seeds_together_are_seeds_one_by_one():
    ways: dict[str, Any] = {"loss": 0.3, "delay": 1, "participation": 0.6, "noise": 0.01}
    market, rounds = neighbors(), 40
    exact = jg.clear(market)

    def run(**more: Any) -> Conversation:
        return messages.simulate(market, rounds=rounds, every=2, exact=exact, **ways, **more)

    together = run(seeds=3, seed=5)
    for k in range(3):
        alone = run(seed=5 + k)
        for name in ("error", "price", "regret", "sent"):
            both = (np.asarray(getattr(found, name)) for found in (together, alone))
            np.testing.assert_allclose(next(both)[k], next(both)[0], rtol=1e-9, atol=1e-12)
    assert np.ptp(np.asarray(together.error)[:, -1]) > 0


def test_bytes_are_those_counted_by_hand():
    """Two prosumers, one pair, four hours, three buses: 3 + 3 numbers an hour go to the operator,

    4 + 4 come back, one trade and one price pass between the two: 16 numbers of 8 bytes, four
    hours: 512 bytes a round. Without operator each tells the other of both totals, what is drawn
    at its 2 buses, both sides of lambda, 3 prices of buses, that of the exchange, both flows of 2
    lines, voltages of 3 buses and the feeder's exchange, 18 numbers an hour, and its weight.
    """
    market = three_buses()
    found = messages.simulate(market, rounds=4, every=1, exact=jg.clear(market))
    np.testing.assert_allclose(found.sent[0], 512.0 * np.arange(1, 5))
    alike = messages.simulate(market, rounds=4, every=1, exact=found.exact, graph=np.ones((2, 2)))
    by_hand = 8 * (2 * (4 * 18 + 1) + 4 * 2)
    np.testing.assert_allclose(alike.sent[0], by_hand * np.arange(1.0, 5.0))
    lazy = messages.simulate(market, rounds=4, every=1, exact=found.exact, participation=1e-9)
    np.testing.assert_allclose(lazy.sent[0], 8 * 4 * 8 * np.arange(1, 5))  # the operator's alone


def test_noise_costs_accuracy_and_buys_privacy():
    """A tenth of the noise leaves a tenth of the error; epsilon is that of as many rounds."""
    loud, soft = (
        spoken("copperplate", noise=noise, clip=50.0, seeds=4, delta=1e-4) for noise in (0.1, 0.01)
    )
    floors = [np.median(np.asarray(found.error)[:, _LOOKS // 2 :]) for found in (loud, soft)]
    assert floors[0] > 1e-3 and floors[0] == pytest.approx(10 * floors[1], rel=0.5)
    for found, noise in ((loud, 0.1), (soft, 0.01)):
        rho = np.asarray(found.rounds) * (2 * 50.0 / noise) ** 2 / 2
        expected = rho + 2 * np.sqrt(rho * np.log(1e4))
        np.testing.assert_allclose(found.epsilon, np.broadcast_to(expected, (4, _LOOKS)), rtol=1e-9)
    assert np.all(np.isinf(spoken("copperplate", noise=0.1, seeds=4).epsilon))


def test_other_numbers_compile_nothing():
    spoken("copperplate", loss=0.2, delay=3, participation=0.7, seeds=3)
    before = len(messages._simulate._found)
    spoken("copperplate", 400, loss=0.1, delay=2, noise=0.1, step=0.3, seeds=3, seed=4)
    assert len(messages._simulate._found) == before


def test_single_precision_comes_as_near_as_it_can():
    narrow = jg.market.cast(neighbors(), "float32")
    found = messages.simulate(narrow, rounds=200, every=10, loss=0.1)
    assert found.plan.imports.dtype == np.float32
    assert found.error[0, -1] < 1e-4


def made_up() -> Conversation:
    """Two seeds, of which one comes to 1e-3 and both to 1e-2."""
    market = neighbors()
    exact = jg.clear(market)
    error = np.array([[0.1, 0.009, 0.0005], [0.2, 0.05, 0.008]])
    names = ("distance", "power", "total", "price", "regret", "apart")
    same = dict.fromkeys(names, jnp.asarray(error))
    stacked = jax.tree.map(lambda a: jnp.stack([a, a]), (exact.plan, exact.prices))
    return Conversation(
        rounds=jnp.array([10, 20, 30]), error=jnp.asarray(error), **same,
        sent=jnp.array([[100.0, 200.0, 300.0], [110.0, 210.0, 310.0]]),
        epsilon=jnp.full((2, 3), 1.5), delta=jnp.asarray(1e-5), plan=stacked[0],
        prices=stacked[1], exact=exact, told="an operator",
    )  # fmt: skip


def test_rounds_and_bytes_to_an_error_are_those_of_the_first_look_there():
    found = made_up()
    np.testing.assert_array_equal(found.rounds_to(1e-2), [20, 30])
    np.testing.assert_array_equal(found.bytes_to(1e-2), [200, 310])
    np.testing.assert_array_equal(found.rounds_to(1e-3), [30, np.nan])
    table = found.table()
    np.testing.assert_array_equal(table["reached"], [2, 1, 0])
    np.testing.assert_array_equal(table["rounds_median"], [25, 30, np.nan])
    np.testing.assert_array_equal(table["bytes_most"], [310, 300, np.nan])
    words = str(found)
    assert "30 rounds, 2 seeds: an operator" in words
    assert "1/2" in words and "never" in words and "epsilon 1.5 at delta 1e-05" in words


def test_the_plot_has_a_band_and_a_line_for_each():
    found = made_up()
    ways: tuple[tuple[Any, float], ...] = (("rounds", 30.0), ("bytes", 0.305))
    for by, last in ways:
        ax = plots.conversation({"one": found, "other": found}, by=by)
        assert len(ax.collections) == len(ax.lines) == 2
        x, y = (np.asarray(a) for a in ax.lines[0].get_data())
        assert y[-1] == pytest.approx(np.median([0.0005, 0.008]))
        assert x[-1] == pytest.approx(last)
        assert ax.get_yscale() == "log"
        plt_close(ax)
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.conversation({})


def plt_close(ax: Any) -> None:
    import matplotlib.pyplot as plt

    plt.close(ax.figure)


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "loss": ("loss=1.0; give a number from 0 to below 1", {"loss": 1.0}),
    "delay": ("delay=1.5; give a whole number", {"delay": 1.5}),
    "participation": ("participation=0.0", {"participation": 0.0}),
    "step": ("step=2.0", {"step": 2.0}),
    "noise": ("noise=-1.0", {"noise": -1.0}),
    "clip": ("clip=0.0", {"clip": 0.0}),
    "kind": ("none of gaussian, laplace", {"noise_kind": "uniform"}),
    "looks": ("every=20 of 10 rounds", {"every": 20, "rounds": 10}),
    "solver": ("give jaxgne.SemiDecentralized()", {"solver": jg.PrimalDual()}),
    "relaxation": ("relaxation", {"solver": jg.SemiDecentralized(relaxation=1.5)}),
    "shape": ("graph has shape", {"graph": np.ones((3, 3))}),
    "shares": ("shares of prosumer 1", {"graph": [[1.0, 0.0], [0.0, 0.5]]}),
    "own": ("diagonal", {"graph": [[0.0, 0.5], [1.0, 0.5]]}),
    "apart": ("prosumer 0 never hears of prosumer 1", {"graph": np.eye(2)}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_refused(name: str):
    words, options = WRONG[name]
    with pytest.raises(ValueError, match=words):
        messages.simulate(neighbors(), **options)


def test_markets_that_messages_do_not_know_are_refused():
    market = neighbors()
    with pytest.raises(ValueError, match="caps"):
        messages.simulate(jg.capped(market, jg.caps.ramp(market, 5.0)))
    with pytest.raises(ValueError, match="price zones"):
        messages.simulate(jg.zones.with_zones(market, [0, 1]))
    with pytest.raises(ValueError, match="three phases"):
        messages.simulate(jg.ieee13(prosumers=3, hours=1))


def test_the_command_tells_plots_and_writes_what_the_function_finds(tmp_path: Path):
    jg.save(tmp_path / "village", village())
    asked = ["messages", str(tmp_path / "village"), "--rounds", "60", "--loss", "0.1"]
    asked += ["--links", "ring", "--runs", "2", "--noise", "0.01", "--clip", "50"]
    table, picture = tmp_path / "rounds.csv", tmp_path / "rounds.svg"
    said = CliRunner().invoke(cli.app, [*asked, "--out", str(table), "--plot", str(picture)])
    assert said.exit_code == 0, said.output
    ways: dict[str, Any] = {"loss": 0.1, "noise": 0.01, "clip": 50.0, "seeds": 2}
    found = messages.simulate(village(), rounds=60, graph=ring(5), **ways)
    assert str(found) in said.output
    assert picture.read_text("utf-8").lstrip().startswith("<?xml")
    lines = table.read_text("utf-8").splitlines()
    assert lines[0].split(",") == [*found.table()] and len(lines) == 4
    told = json.loads(CliRunner().invoke(cli.app, [*asked, "--json"]).output)
    np.testing.assert_allclose(told["error"], found.error[:, -1], rtol=1e-9)
    np.testing.assert_allclose(told["epsilon"], found.epsilon[:, -1], rtol=1e-9)
