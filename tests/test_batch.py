"""Many markets in one call: the same answers as one by one, however they are chunked."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import batch, choosing, lanes, scenarios
from jaxgne.solvers.base import AbstractSolver
from tests.three_buses import feeder, loads, neighbors, slopes

SOLVERS = [jg.InteriorPoint(), jg.PrimalDual()]


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """Batches are JAX's here, however few scenarios they have, unless a test asks for NumPy."""
    monkeypatch.setattr(choosing, "_BATCH", 0.0)
    monkeypatch.setattr(choosing, "_BATCH_LOADING", 0.0)


def close(a: jg.Clearing, b: jg.Clearing, atol: float = 1e-8) -> None:
    for one, two in zip(
        jax.tree.leaves((a.plan, a.costs, a.steps, a.status)),
        jax.tree.leaves((b.plan, b.costs, b.steps, b.status)),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, atol=atol)


@pytest.mark.parametrize("solver", [SOLVERS[0], pytest.param(SOLVERS[1], marks=pytest.mark.slow)])
def test_a_batch_is_a_loop(solver):
    markets = loads(4)
    many = jg.clear_many(markets, solver)
    for index in range(4):
        close(jg.clear(scenarios.lane(markets, index), solver), scenarios.lane(many, index))


def test_numpy_and_jax_give_the_same_batch(tmp_path):
    """Also where a scenario is infeasible, and where one finishes what the other began."""
    rating = np.tile(np.asarray(feeder().grid.rating), (4, 1))
    rating[2, 1] = 5.0
    markets = eqx.tree_at(lambda m: m.grid.rating, loads(4), rating)
    by_numpy = jg.clear_many(markets, runner="numpy", folder=tmp_path)
    by_jax = jg.clear_many(markets, runner="jax")
    assert (by_numpy.runner, by_jax.runner) == ("numpy", "jax")
    assert jax.tree.structure(by_numpy) == jax.tree.structure(by_jax)
    names = [jg.status.status_name(scenarios.lane(by_numpy.status, k)) for k in range(4)]
    assert names == ["cleared", "cleared", "infeasible", "cleared"]
    close(*(jax.tree.map(lambda a: a[[0, 1, 3]], c) for c in (by_numpy, by_jax)), atol=1e-9)
    resumed = jg.clear_many(markets, runner="jax", folder=tmp_path)
    assert resumed.runner == "numpy"
    with pytest.raises(ValueError, match="one_way"):
        jg.clear_many(markets, runner="numpy", one_way=True)
    with pytest.raises(ValueError, match="InteriorPoint"):
        jg.clear_many(markets, jg.PrimalDual(), runner="numpy")


def test_numpy_clears_batches_until_compiling_pays(monkeypatch):
    """By the seconds that a shape takes, which are added up; where programs are kept, sooner."""
    monkeypatch.setattr(choosing, "_BATCH", 20.0)
    monkeypatch.setattr(choosing, "_BATCH_LOADING", 3.0)
    monkeypatch.setattr(choosing, "_spent", choosing.defaultdict(float))

    def ran(count: int, pace: float, stored: bool = False) -> str:
        return choosing.batch_runner(
            feeder(), SOLVERS[0], None, None, count, lambda: pace, lambda: stored
        )

    assert [ran(16, 0.5), ran(16, 0.5), ran(16, 0.5)] == ["numpy", "numpy", "jax"]
    choosing._spent.clear()
    assert ran(100, 0.5) == "jax"
    choosing._spent.clear()
    assert [ran(4, 0.5, stored=True), ran(4, 0.5, stored=True)] == ["numpy", "jax"]


@pytest.mark.slow  # compiles for half a minute
def test_chunks_and_compaction_change_nothing(monkeypatch):
    """18 scenarios of widely different steps, 16 at once with stragglers in programs of 4."""
    markets, solver = slopes(18), jg.PrimalDual()
    in_turn = jg.clear_many(markets, solver, width=4)
    assert int(in_turn.steps.max()) > int(in_turn.steps.min())
    monkeypatch.setattr(lanes, "_IN_TURN", ())  # as on a GPU
    close(in_turn, jg.clear_many(markets, solver, width=16))


@pytest.mark.slow
@pytest.mark.parametrize("platforms", [("cpu",), ()])
def test_chunks_of_one_change_nothing(platforms, monkeypatch):
    markets, solver = loads(18), jg.PrimalDual()
    whole = jg.clear_many(markets, solver, width=4)
    monkeypatch.setattr(lanes, "_IN_TURN", platforms)
    close(whole, jg.clear_many(markets, solver, width=1))


@pytest.mark.slow
def test_the_interior_point_in_lanes_of_one_program(monkeypatch):
    in_turn = jg.clear_many(loads(4), SOLVERS[0])
    monkeypatch.setattr(lanes, "_IN_TURN", ())
    close(in_turn, jg.clear_many(loads(4), SOLVERS[0]))


def test_one_start_for_all():
    """The same as that start for each; and fewer steps than from nothing."""
    markets, solver = loads(4), SOLVERS[0]
    cold = jg.clear_many(markets, solver)
    first = scenarios.lane(cold, 0)
    warm = jg.clear_many(markets, solver, start=first)
    one = jg.clear(scenarios.lane(markets, 2), solver, start=first)
    close(one, scenarios.lane(warm, 2))
    assert int(warm.steps.sum()) < int(cold.steps.sum())


@pytest.mark.slow
def test_what_any_scenario_needs_is_seen():
    """Reactive flows are data in the first scenario; in the second an inverter makes them move."""
    markets = loads(2)
    room = np.zeros((2, *feeder().grid.passive.shape))
    room[1] = 2.0
    markets = eqx.tree_at(lambda m: m.grid.compensation_max, markets, room)
    many = jg.clear_many(markets, SOLVERS[0])
    assert float(jnp.abs(scenarios.lane(many, 1).plan.compensation).max()) > 0
    close(jg.clear(scenarios.lane(markets, 1), SOLVERS[0]), scenarios.lane(many, 1))


@pytest.mark.parametrize("platforms", [("cpu",), ()])
def test_lanes_do_not_disturb_one_another(platforms, monkeypatch):
    """An infeasible one and one that overflows leave the others as they are, to the last bit.

    Cleared in turn, and together as on a GPU.
    """
    monkeypatch.setattr(lanes, "_IN_TURN", platforms)
    load, most = np.tile([[3.0], [4.0]], (4, 1, 1)), np.full((4, 1), np.inf)
    where = lambda m: (m.prosumers.load, m.tariff.total_max)  # noqa: E731
    well = eqx.tree_at(where, slopes(4), (load, most))
    sick_load, sick_most = load.copy(), most.copy()
    sick_load[1, 0, 0], sick_most[2] = 1e200, 0.5
    sick = eqx.tree_at(where, well, (sick_load, sick_most))
    for solver in SOLVERS:
        fine, ill = (jg.clear_many(m, solver, width=4) for m in (well, sick))
        names = [jg.status.status_name(scenarios.lane(ill.status, k)) for k in range(4)]
        assert names == ["cleared", "nonfinite", "infeasible", "cleared"]
        for index in (0, 3):
            for a, b in zip(
                jax.tree.leaves(scenarios.lane(fine, index)),
                jax.tree.leaves(scenarios.lane(ill, index)),
                strict=True,
            ):
                np.testing.assert_array_equal(a, b)


NEVER = 1e9  # steps


class Late(AbstractSolver):
    """Knows the answer at once, but tells it after `reactive[0]` steps, and is wrong until then:

    by prices twice as high, or less by half in each `reactive[1]` steps.
    """

    def init(self, market: jg.Market, plan: Any, prices: Any) -> Any:
        return plan, prices, jnp.zeros(())

    def step(self, market: jg.Market, state: Any) -> Any:
        return *state[:2], state[2] + 1

    def point(self, market: jg.Market, state: Any) -> Any:
        plan, prices, steps = state
        after, half = market.prosumers.reactive[:, 0]
        wrong = jnp.where(steps < after, 0.5 ** (steps / half), 0.0)
        return plan, jax.tree.map(lambda price: price * (1 + wrong), prices)


def late(*after: tuple[float, float]) -> tuple[jg.Market, jg.Clearing]:
    """Markets without a grid, which know no reactive power, and what clears each."""
    start = jg.clear(neighbors(), tol=1e-9, runner="numpy")
    markets = jax.tree.map(lambda a: np.stack(len(after) * [a]), neighbors())
    where = lambda m: m.prosumers.reactive  # noqa: E731
    return eqx.tree_at(where, markets, np.asarray(after)[:, :, None]), start


@pytest.mark.parametrize("platforms", [("cpu",), ()])
def test_stragglers_are_stopped_and_named(platforms, monkeypatch):
    """One that never comes leaves; the others, one of which is slow, are the same to the bit."""
    monkeypatch.setattr(lanes, "_IN_TURN", platforms)
    slow = (50_000, 4_000)
    markets, start = late((40, NEVER), (120, NEVER), (NEVER, NEVER), (80, NEVER), (40, NEVER), slow)
    first = jax.tree.map(lambda a: a[:5], markets)
    options = {"solver": Late(), "start": start, "max_steps": 60_000}
    waited = jg.clear_many(first, **options, patience=np.inf)
    found = jg.clear_many(first, **options)
    for clearing, word in ((waited, "max_steps"), (found, "stopped")):
        assert clearing.why(2).startswith(f"{word} after {clearing.steps[2]} steps, relative KKT")
    others = np.array([0, 1, 3, 4])
    assert same(*(jax.tree.map(lambda a: a[others], c) for c in (waited, found)))
    assert found.steps.tolist() == [40, 120, found.steps[2], 80, 40]
    assert found.steps[2] == batch.PATIENCE * 2_000 and waited.steps[2] == 60_000
    told = f"scenario 2 (relative KKT error 1.4e+00 after {found.steps[2]:,} steps); the slowest"
    assert told in str(found) and "straggler" not in str(waited)
    assert jg.clear_many(first, **options, patience=1.5).steps[2] == 3_000
    # what gains, however slowly, is waited for
    mixed = jg.clear_many(jax.tree.map(lambda a: a[[0, 1, 3, 4, 5]], markets), **options)
    assert mixed.steps.tolist() == [40, 120, 80, 40, 50_000]


def test_other_batches_do_not_recompile():
    """Same width, other numbers and more scenarios: the programs of before."""
    parts: Any = (lanes._begin_all, lanes._until, lanes._finish_all)
    jg.clear_many(slopes(8), jg.PrimalDual(), width=4)
    before = [len(part._found) for part in parts]
    jg.clear_many(slopes(11), jg.PrimalDual(), width=4, tol=1e-5, max_steps=4000)
    assert [len(part._found) for part in parts] == before


def test_a_folder_goes_on_after_the_last_block(tmp_path, monkeypatch):
    markets = loads(12)
    whole = jg.clear_many(markets, width=4)
    calls = []
    one = batch._chunk

    def stops(job, lanes, width):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(lanes)
        return one(job, lanes, width)

    monkeypatch.setattr(batch, "_chunk", stops)
    with pytest.raises(batch.Stopped) as stopped:
        jg.clear_many(markets, width=4, folder=tmp_path)
    assert stopped.value.clearing is not None
    close(stopped.value.clearing, jax.tree.map(lambda a: a[:8], whole))
    calls.clear()
    close(whole, jg.clear_many(markets, width=4, folder=tmp_path), atol=0.0)
    assert [c.start for c in calls] == [8]
    with pytest.raises(ValueError, match="other scenarios or settings"):
        jg.clear_many(loads(7), width=4, folder=tmp_path)


def same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same bits, and are of one kind."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in leaves)


def test_a_folder_loads_as_it_was_cleared(tmp_path):
    """Markets and clearing, bit by bit; what is cut or lacks is named, and made whole again."""
    markets, folder = slopes(8), tmp_path / "runs"
    found = jg.clear_many(markets, width=4, folder=folder)
    assert same(jg.load(folder), (markets, found))
    first = jax.tree.map(jnp.asarray, scenarios.lane(markets, 0))
    assert same(jg.load(folder / "markets" / "first")[0], first)
    with pytest.raises(ValueError, match=r"a batch of markets.*its first is in .*markets/first"):
        jg.load_case(folder)
    chunk = folder / "scenarios-0000004-0000008.npz"
    chunk.write_bytes(chunk.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"000008\.npz is cut or damaged; the call that wrote"):
        jg.load(folder)
    with pytest.warns(UserWarning, match=r"000008\.npz is cut or damaged.*made anew"):
        again = jg.clear_many(markets, width=2, folder=folder)
    close(again, found)
    chunk.unlink()
    with pytest.raises(ValueError, match=r"4 of its 8 scenarios are cleared; the call"):
        jg.load(folder)
    jg.clear_many(markets, folder=folder)
    bus = folder / "markets" / "first" / "prosumers.csv"
    bus.write_text(bus.read_text().replace("1", "2", 1))
    with pytest.raises(ValueError, match=r"markets/first"):
        jg.load(folder)


OTHERS = {
    "tol": {"tol": 1e-5},
    "steps": {"max_steps": 77},
    "patience": {"patience": 7.0},
    "solver": {"solver": jg.PrimalDual()},
    "fewer": {"scenarios": 4},
    "loads": {"load": 1.01},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_folder_of_other_settings_is_refused(name: str, tmp_path, monkeypatch):
    """Before anything is cleared, and what is there stays."""
    monkeypatch.setattr(batch, "_chunk", lambda job, lanes, width: blank_lanes(job, lanes))
    options = dict(OTHERS[name])
    count, factor = options.pop("scenarios", 6), options.pop("load", 1.0)
    jg.clear_many(loads(6), width=4, folder=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.npz")}
    other = jax.tree.map(lambda a: a[:count], loads(6))
    other = eqx.tree_at(lambda m: m.prosumers.load, other, factor * other.prosumers.load)
    with pytest.raises(ValueError, match="holds other scenarios or settings"):
        jg.clear_many(other, folder=tmp_path, **options)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.npz")} == before


def blank_lanes(job: Any, lanes: slice) -> Any:
    """What `_chunk` gives, with zeros: nothing is cleared."""
    one = jax.tree.map(lambda a: a[:1], job.markets)
    like = eqx.filter_eval_shape(jax.vmap(lambda m: jg.clearing.blank(m, None)), one)
    return jax.tree.map(lambda a: np.zeros((lanes.stop - lanes.start, *a.shape[1:]), a.dtype), like)


def test_no_memory_means_narrower_chunks(monkeypatch):
    markets = loads(13)
    one, widths = batch._chunk, []

    def tight(job, lanes, width):
        widths.append(width)
        if width > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return one(job, lanes, width)

    monkeypatch.setattr(batch, "_chunk", tight)
    close(jg.clear_many(markets, width=13), jg.clear_many(markets, width=4))
    assert widths == [13, 7] + 8 * [4]


SCRIPT = """
import jax, sys
jax.config.update("jax_enable_x64", True)
import jaxgne as jg
from tests.three_buses import loads
to = {"folder": sys.argv[1], "progress": lambda p: print(p.done)}
done = jg.clear_many(loads(12), width=2, runner="jax", **to)
print("end", float(done.costs.sum()))
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_loses_no_finished_block(tmp_path):
    """kill -9 twenty times after random waits, then once to the end: the same numbers."""
    whole = jg.clear_many(loads(12), width=2)
    root, rng = Path(__file__).parent.parent, np.random.default_rng(0)

    def run(wait: float | None) -> str:
        with subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                return process.communicate(timeout=wait)[0]
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                return process.communicate()[0]

    for _ in range(20):
        before = {path: path.read_bytes() for path in tmp_path.glob("scenarios-*.npz")}
        run(rng.uniform(1.0, 20.0))
        assert all(path.read_bytes() == held for path, held in before.items())
    assert float(run(None).rsplit("end", 1)[1]) == float(whole.costs.sum())


def test_bad_batches_are_refused():
    with pytest.raises(ValueError, match=r"give \(scenarios, prosumers, hours\)"):
        jg.clear_many(feeder())
    uneven = eqx.tree_at(lambda m: m.tariff.slope, loads(3), np.ones((2, 4)))
    with pytest.raises(ValueError, match=r"tariff\.slope has shape \(2, 4\)"):
        jg.clear_many(uneven)
    lost = eqx.tree_at(lambda m: m.prosumers.bus, loads(3), np.asarray([[1, 2], [1, 2], [1, 9]]))
    with pytest.raises(ValueError, match=r"scenario 2: .*bus 9"):
        jg.clear_many(lost)
    with pytest.raises(ValueError, match=r"patience=0\.5; give how many times"):
        jg.clear_many(loads(2), patience=0.5)
    with pytest.raises(TypeError, match="vmap"):
        jax.jit(lambda m: jg.clear_many(m).costs)(loads(2))


def test_a_warm_start_goes_lane_by_lane():
    markets = slopes(4)
    first = jg.clear_many(markets, jg.PrimalDual())
    again = jg.clear_many(markets, jg.PrimalDual(), start=first)
    assert np.all(again.steps < first.steps)


def test_padded_markets_clear_alike():
    """Different sizes side by side give what each gives alone; by JAX see test_agreement."""
    small = feeder()
    both = scenarios.stack([small, scenarios.pad(small, prosumers=4, buffers=3, pairs=5, buses=6)])
    many = jg.clear_many(both, tol=1e-8, runner="numpy")
    alone = jg.clear(small, tol=1e-8)
    for index in range(2):
        lane = scenarios.lane(many, index)
        assert bool(lane.ok)
        np.testing.assert_allclose(lane.aggregate, alone.aggregate, atol=1e-4)
        np.testing.assert_allclose(lane.costs[:2], alone.costs, atol=1e-4)
        np.testing.assert_allclose(lane.prices.balance[:2], alone.prices.balance, atol=1e-4)
        assert not np.any(lane.costs[2:])


def test_the_mechanism_has_room_for_the_busiest_scenario():
    """The second scenario's generators have one owner, the first's two."""
    one = neighbors()
    other = eqx.tree_at(lambda m: m.generators.owner, one, jnp.asarray([0, 0], jnp.int32))
    batch = jg.scenarios.stack([one, other])
    found = jg.clear_many(batch, jg.SemiDecentralized(), tol=1e-4)
    expected = jg.clear_many(batch, tol=1e-8, runner="numpy")
    assert np.all(found.ok)
    assert np.allclose(found.plan.generation, expected.plan.generation, atol=0.02)
