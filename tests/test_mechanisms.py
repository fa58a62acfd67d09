"""Studies of mechanisms: multipliers against differences, tariffs against what they promise."""

from pathlib import Path

import equinox as eqx
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli, io, mechanisms, objectives
from jaxgne.model import potential, voltages

from .markets import feeder, two_neighbors


@pytest.fixture(scope="module")
def market() -> jg.Market:
    """A feeder whose first line is full in some hours."""
    return feeder(rating=31.0)


@pytest.mark.slow
def test_reinforcement_is_the_difference_that_a_kva_makes(market: jg.Market):
    """-dP / d rating of every line by central differences of clears."""
    table = mechanisms.reinforcement(market, tol=1e-10)
    for line in range(4):
        ends = []
        for change in (0.01, -0.01):
            rating = market.grid.rating.at[line].add(change)
            here = eqx.tree_at(lambda m: m.grid.rating, market, rating)
            ends.append(float(potential(here, jg.clear(here, tol=1e-10).plan)))
        slope = (ends[1] - ends[0]) / 0.02
        assert table["value_eur_per_kva"][line] == pytest.approx(slope, rel=1e-3, abs=1e-6)
    assert table["value_eur_per_kva"][0] > 1e-3


def test_an_envelope_ends_where_a_limit_binds(market: jg.Market):
    """That much more at a bus just fills a line or lowers a voltage to its limit; no more does.

    Flows and voltages are recomputed by hand along the tree of buses 0 - 1 - 2, 1 - 3 and 0 - 4.
    """
    table = mechanisms.envelope(market, tol=1e-9)
    clearing = jg.clear(market, tol=1e-9)
    grid, plan = market.grid, clearing.plan
    paths = {0: [], 1: [0], 2: [0, 1], 3: [0, 2], 4: [3]}
    square = np.asarray(voltages(market, plan)) ** 2
    active, reactive = np.asarray(plan.active), np.asarray(plan.reactive)
    draw, feed = (table[name].reshape(5, 3) for name in ("draw_kw", "feed_in_kw"))
    assert np.isinf(draw[0]).all()  # the feeder bus has no line and no voltage to fall
    for more, sign in ((draw, 1.0), (feed, -1.0)):
        for bus in range(1, 5):
            extra = sign * more[bus]
            flow = np.array([active[line] + extra for line in paths[bus]])
            load = np.hypot(flow, reactive[paths[bus]])
            fullest = (load / np.asarray(grid.rating)[paths[bus], None]).max(axis=0)
            felt = np.array([
                square[z] - 2 * extra * sum(
                    float(grid.resistance[line]) for line in set(paths[bus]) & set(paths[z]))
                for z in range(5)
            ])  # fmt: skip
            low = (felt - np.asarray(grid.voltage_min)[:, None] ** 2).min(axis=0)
            high = (np.asarray(grid.voltage_max)[:, None] ** 2 - felt).min(axis=0)
            slack = np.minimum(1 - fullest, np.minimum(low, high))
            np.testing.assert_allclose(slack, 0, atol=1e-6)
    full = draw[1] < 1e-4
    scarce = table["scarcity_eur_per_kwh"].reshape(5, 3)
    assert full.any() and (scarce[1][full] > 1e-4).all() and (abs(scarce[1][~full]) < 1e-5).all()
    with pytest.raises(ValueError, match="must be lindistflow"):
        mechanisms.envelope(two_neighbors(import_max=9.0))


@pytest.mark.slow
def test_tariffs_by_bus_bring_no_less(market: jg.Market):
    """Congestion falls, the tariffs' revenue does not; each pair pays the mean of its buses."""
    before = jg.clear(market)
    tuned, history = mechanisms.locational_tariff(market, steps=30, tol=1e-8)
    after = jg.clear(tuned)
    assert history.value[history.best] < history.value[0]
    income, today = (
        float(objectives.trading_revenue(m, c)) for m, c in ((tuned, after), (market, before))
    )
    assert income >= today * (1 - 5e-3)
    table, pairs = mechanisms.bus_tariffs(tuned), tuned.trading
    by_bus = dict(zip(table["bus"].tolist(), table["toll_eur_per_kwh"].tolist(), strict=True))
    bus = np.asarray(market.prosumers.bus)
    ends = zip(bus[np.asarray(pairs.buyer)], bus[np.asarray(pairs.seller)], strict=True)
    means = [(by_bus[a] + by_bus[b]) / 2 for a, b in ends]
    np.testing.assert_allclose(pairs.toll, means, atol=1e-12)


@pytest.mark.slow  # compiles for half a minute
def test_the_command_writes_tables(market: jg.Market, tmp_path: Path):
    """A study tuned, one read off, and one of another grid refused."""

    def call(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(cli.app, ["tune", *map(str, words)])
        return done.exit_code, done.stdout + done.stderr

    io.save(tmp_path / "day", market)
    out = tmp_path / "out"
    words = ("price-slope", tmp_path / "day", "--steps", 6, "--out", out)
    code, said = call(*words)
    assert code == 0, said
    assert {p.name for p in out.iterdir()} == {
        "tuning.npz", "history.csv", "price-slope.csv", "price-slope.txt", "summary.json", "market"
    }  # fmt: skip
    slopes = np.loadtxt(out / "price-slope.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(slopes[:, 1], io.load(out / "market")[0].tariff.slope)
    assert call(*words)[1].splitlines()[0] == said.splitlines()[0]  # from the folder
    assert call("envelope", tmp_path / "day", "--out", tmp_path / "room")[0] == 0
    assert {p.name for p in (tmp_path / "room").iterdir()} == {
        "envelope.csv", "envelope.png", "envelope.txt", "summary.json"
    }  # fmt: skip
    assert call("envelope", tmp_path / "day", "--objective", "peak")[0] == 2
    io.save(tmp_path / "plain", two_neighbors(import_max=9.0))
    code, said = call("reinforcement", tmp_path / "plain")
    assert code == 1 and "has no lines" in said


@pytest.mark.slow
def test_no_tariff_of_a_fine_scan_brings_more(market: jg.Market):
    """Against 60 tariffs, over the kinks at which pairs stop to trade."""
    tuned, _ = mechanisms.trading_tariff(market, steps=30, tol=1e-8)

    def income(toll: np.ndarray) -> float:
        here = eqx.tree_at(lambda m: m.trading.toll, market, toll + 0 * market.trading.toll)
        return float(objectives.operator_revenue(here, jg.clear(here, tol=1e-8)))

    found = income(np.asarray(tuned.trading.toll))
    highest = max(income(toll) for toll in np.linspace(0, 0.12, 60))
    assert found >= highest - 1e-3 * abs(highest)
