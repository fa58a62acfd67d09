"""Workers of a Dask cluster give what one process gives, also when one of them is killed."""

import json
import os
import pickle
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import batch, cluster, coalitions, hindsight, scenarios, simulation, studies
from jaxgne.cli import app
from jaxgne.front import FrontProgress
from jaxgne.leader import lead
from jaxgne.simulation import SimulationProgress
from jaxgne.studies.runner import Runs
from jaxgne.waiting import waiting
from tests.markets import HAND_MADE, feeder
from tests.simulated import village
from tests.three_buses import loads, neighbors, slopes

dask = pytest.importorskip("dask", reason="needs the extra cluster")
distributed = pytest.importorskip("distributed", reason="needs the extra cluster")

QUIET: dict[str, Any] = {"dashboard_address": ":0", "threads_per_worker": 1}


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    """Of one worker, a thread of this process."""
    with (
        distributed.LocalCluster(n_workers=1, processes=False, **QUIET) as local,
        distributed.Client(local, set_as_default=False) as found,
    ):
        yield found


@pytest.fixture(scope="module")
def alone() -> jg.Clearing:
    """Four scenarios, cleared in this process."""
    return jg.clear_many(slopes(4), width=2, runner="numpy")


def same(one: Any, other: Any) -> None:
    """To the last bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def test_a_worker_gives_what_this_process_gives(client: Any, alone: jg.Clearing, tmp_path: Path):
    """In the same folder, of which only what lacks is done again; scenarios may start warm."""
    markets, told = slopes(4), []
    ask: dict[str, Any] = {"width": 2, "folder": tmp_path, "client": client, "runner": "numpy"}
    found = jg.clear_many(markets, progress=lambda now: told.append((now.done, now.total)), **ask)
    same(found, alone)
    assert told[-1] == (4, 4) and [done for done, _ in told] == sorted(done for done, _ in told)
    same(jg.load(tmp_path), (markets, alone))
    lost = tmp_path / "scenarios-0000002-0000004.npz"
    others = {
        path: path.stat().st_mtime_ns for path in tmp_path.glob("scenarios-*") if path != lost
    }
    lost.unlink()
    same(jg.clear_many(markets, **ask), alone)
    assert all(path.stat().st_mtime_ns == when for path, when in others.items())
    warm = {"width": 2, "start": alone, "runner": "numpy"}
    same(jg.clear_many(markets, client=client, **warm), jg.clear_many(markets, **warm))


DONE: list[float] = []  # by a worker in this process


def halved(item: Any) -> Any:
    DONE.append(float(item))
    return jnp.asarray(item) / 2, jax.dtypes.canonicalize_dtype(np.float64) == np.float64


def test_the_same_work_is_done_once(client: Any):
    """Values are NumPy's, in the precision that is JAX's here, which a worker's thread has not."""
    DONE.clear()
    found = dict(cluster.each(client, halved, map(jnp.asarray, [0.1, 0.3, 0.1])))
    same(found, {0: (np.asarray(0.05), True), 1: (np.asarray(0.15), True), 2: found[0]})
    assert sorted(DONE) == [0.1, 0.3]
    with jax.enable_x64(False):
        (_, (half, wide)), *_ = cluster.each(client, halved, [np.float32(0.1)])
    assert half.dtype == np.float32 and not wide


def refuses(item: int) -> None:
    raise ValueError(f"item {item} makes no sense")


def clears(load: float) -> None:
    market = neighbors()
    most = np.full_like(market.tariff.total_max, 0.5)
    jg.clear(eqx.tree_at(lambda m: m.tariff.total_max, market, load * most), runner="numpy")


def test_errors_of_workers_are_raised_here(client: Any, monkeypatch: pytest.MonkeyPatch):
    """Whole: what did not clear has its clearing."""
    monkeypatch.setattr(cluster, "_AGAIN", 0)
    with pytest.raises(jg.NotCleared, match="infeasible") as told:
        list(cluster.each(client, clears, [1.0]))
    same(pickle.loads(pickle.dumps(told.value)).clearing, told.value.clearing)
    assert not told.value.clearing.ok
    with pytest.raises(ValueError, match="item 7 makes no sense"):
        list(cluster.each(client, refuses, [7]))
    versions = cluster._versions
    other = lambda: versions() | ({"jax": "0.1"} if distributed_thread() else {})  # noqa: E731
    monkeypatch.setattr(cluster, "_versions", other)
    with pytest.raises(ValueError, match=r"has jax 0\.1, the client .*install the same version"):
        list(cluster.each(client, halved, [1.0]))


def distributed_thread() -> bool:
    return threading.current_thread() is not threading.main_thread()


def test_what_cannot_hand_out_work_is_refused(client: Any, monkeypatch: pytest.MonkeyPatch):
    """And markets that make no sense are, before any is sent."""
    with pytest.raises(ValueError, match=r"client is 'tcp://here:1'; give a distributed\.Client"):
        jg.clear_many(slopes(2), client="tcp://here:1")
    monkeypatch.setattr(type(client), "asynchronous", True)
    with pytest.raises(ValueError, match="client is asynchronous"):
        jg.clear_many(slopes(2), client=client)
    monkeypatch.undo()
    monkeypatch.setattr(type(client), "submit", None)
    bad = scenarios.stack([HAND_MADE["one bus"]()] * 2)
    bad = eqx.tree_at(lambda m: m.tariff.slope, bad, -bad.tariff.slope)
    with pytest.raises(ValueError, match="scenario 0"):
        jg.clear_many(bad, client=client)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ImportError, match=r"jaxgne\[cluster\]"):
        list(cluster.each(client, halved, [1.0]))


def test_who_is_stopped_goes_on_where_it_was(client: Any, alone: jg.Clearing, tmp_path: Path):
    """Ctrl-C leaves whole files, and tells of what was done from the first scenario on."""
    markets = slopes(4)

    def stop(now: batch.BatchProgress) -> None:
        if now.done == 2:
            raise KeyboardInterrupt

    ask: dict[str, Any] = {"width": 2, "folder": tmp_path, "client": client, "runner": "numpy"}
    with pytest.raises(jg.Stopped, match="after 2 scenarios") as stopped:
        jg.clear_many(markets, progress=stop, **ask)
    same(stopped.value.clearing, jax.tree.map(lambda a: a[:2], alone))
    assert len(list(tmp_path.glob("scenarios-*"))) == 1
    same(jg.clear_many(markets, **ask), alone)


def test_a_scheduler_that_is_gone_is_told():
    with (
        distributed.LocalCluster(n_workers=1, processes=False, **QUIET) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        values = cluster.each(client, halved, map(float, range(100)))
        next(values)
        local.close()
        with pytest.raises(OSError, match=r"scheduler is gone.*same call goes on"):
            list(values)


def test_a_cluster_without_workers_is_told(monkeypatch: pytest.MonkeyPatch):
    """Until the first comes, which then does the work."""
    said: list[str] = []
    with (
        distributed.LocalCluster(n_workers=0, processes=False, **QUIET) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):

        def show(text: str) -> None:
            if not said:
                local.scale(1)
            said.append(text)

        monkeypatch.setattr(waiting, "show", show)
        assert dict(cluster.each(client, halved, [1.0])) == {0: (np.asarray(0.5), True)}
    assert said[0].startswith("jaxgne: the cluster has no worker yet ...") and said[-1] == ""


def dies(item: int) -> None:
    os._exit(item)


def test_work_that_kills_every_worker_is_told():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        distributed.LocalCluster(n_workers=1, processes=True, **QUIET) as local,
        distributed.Client(local, set_as_default=False) as client,
        pytest.raises(OSError, match=r"workers died one after the other.*smaller width"),
    ):
        list(cluster.each(client, dies, [1]))


def noted(item: tuple[int, Path]) -> int:
    """Takes a while, and notes in a folder who did it to the end."""
    at, folder = item
    (folder / f"begun-{at}-{os.getpid()}").touch()
    time.sleep(0.3)
    (folder / f"done-{at}-{os.getpid()}").touch()
    return at * at


def test_a_worker_is_killed_and_nothing_is_lost_or_done_twice(tmp_path: Path):
    """Of three, at work; what it had handed over stays, what it had begun another one does."""
    markets, told = loads(12), []
    with (
        distributed.LocalCluster(n_workers=3, processes=True, **QUIET) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        found, killed = {}, 0
        for at, value in cluster.each(client, noted, [(k, tmp_path) for k in range(30)]):
            assert at not in found
            found[at] = value
            if len(found) == 6:
                killed = next(iter(client.run(os.getpid).values()))
                os.kill(killed, signal.SIGKILL)
        assert found == {k: k * k for k in range(30)}
        done = Counter(path.name.split("-")[1] for path in tmp_path.glob("done-*"))
        begun = [path for path in tmp_path.glob("begun-*") if path.name.endswith(f"-{killed}")]
        twice = {at for at, count in done.items() if count > 1}
        assert twice <= {path.name.split("-")[1] for path in begun}
        assert begun and len(twice) <= 2  # what was done, and not yet handed over

        def kill(now: batch.BatchProgress) -> None:
            told.append(now.done)
            if len(told) == 2:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

        ask: dict[str, Any] = {"width": 1, "runner": "numpy"}
        many = jg.clear_many(markets, client=client, folder=tmp_path / "runs", progress=kill, **ask)
    assert told == list(range(1, 13))
    same(many, jg.clear_many(markets, **ask))
    same(jg.load(tmp_path / "runs"), (markets, many))


def test_the_command_asks_a_scheduler(client: Any, tmp_path: Path):
    """For the numbers that it gives by itself; where nobody answers, it says so."""
    jg.save(tmp_path / "two", neighbors())
    call = ["batch", str(tmp_path / "two"), "--scenarios", "2", "--load-noise", "0.1"]
    call += ["--width", "1", "--json"]
    other = ["study", "tariff", str(tmp_path / "two"), "--values", "0,0.1", "--json"]
    for words in (call, other):
        ask = ["--scheduler", client.scheduler.address, "--out", str(tmp_path / words[0])]
        alone, there = (CliRunner().invoke(app, [*words, *more]) for more in ([], ask))
        assert (alone.exit_code, there.exit_code) == (0, 0), there.output
        assert json.loads(alone.stdout) == json.loads(there.stdout)
    assert len(list((tmp_path / "batch").glob("scenarios-*"))) == 2
    nobody = CliRunner().invoke(app, [*call, "--scheduler", "inproc://nobody/1/1"])
    assert nobody.exit_code == 1
    typo = CliRunner().invoke(app, [*call, "--scheduler", "node1"])
    assert typo.exit_code == 1
    assert "no Dask scheduler answers at node1: missing port number" in typo.stderr
    assert "jaxgne: no Dask scheduler answers at inproc://nobody/1/1" in nobody.stderr


def squared(value: float) -> dict[str, Any]:
    DONE.append(value)
    return {"square": value**2, "wide": jax.dtypes.canonicalize_dtype(np.float64) == np.float64}


def test_workers_do_the_runs_of_a_study(client: Any, tmp_path: Path):
    """What is kept is not run again, by whomever it was; what is no client is refused at once."""
    market = neighbors()
    alone = studies.tariff(market, (0.0, 0.1))
    assert studies.tariff(market, (0.0, 0.1), client=client, folder=tmp_path) == alone
    DONE.clear()
    steps: list[int] = []
    asked, tell = [("a" * 16, 3.0), ("b" * 16, 0.5)], lambda now: steps.append(now.done)
    for who in (client, None):
        rows = Runs(2, tmp_path, tell, who)(squared, iter(asked))
        assert rows == [{"square": 9.0, "wide": True}, {"square": 0.25, "wide": True}]
    assert sorted(DONE) == [0.5, 3.0] and steps == [1, 2, 1, 2]
    with pytest.raises(ValueError, match=r"client is 'here'; give a distributed\.Client"):
        studies.selection(market, client="here")


def told(study: studies.Study) -> Any:
    """All that a study tells but how long it took."""
    return [
        {key: value for key, value in row.items() if "seconds" not in key}
        for rows in study.tables.values()
        for row in rows
    ]


STUDIES: dict[str, dict[str, Any]] = {  # of variants, of clears, of simulations, of cases
    "participation": {},
    "near-potential": {"values": (0.0, 0.5)},
    "horizon": {"values": (24.0,), "seeds": 1, "days": 1},
    "connectivity": {"values": (1.0,), "seeds": 1, "tol": 1e-2},
}


def test_studies_go_on_where_one_of_three_workers_is_killed(tmp_path: Path):
    """In each of them one is, once two runs are done; all tell what one process tells."""
    market = feeder(rating=31.0)
    with (
        distributed.LocalCluster(n_workers=3, processes=True, **QUIET) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        for name, options in STUDIES.items():
            study = (studies.ON_MARKETS | studies.ON_CASES)[name]
            of = {"horizon": village(1), "connectivity": few_houses}.get(name, market)
            steps: list[int] = []

            def kill(now: batch.BatchProgress, steps: list[int] = steps) -> None:
                steps.append(now.done)
                if len(steps) == 2:
                    os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

            there = study(of, client=client, folder=tmp_path / name, progress=kill, **options)
            assert steps == list(range(1, len(steps) + 1)) and len(steps) >= 2
            assert_close(told(there), told(study(of, **options)), name)


def few_houses(connectivity: float, seed: int) -> jg.Market:
    return jg.ieee37(6, hours=2, connectivity=connectivity, seed=seed)


def assert_close(one: Any, other: Any, name: str) -> None:
    """Words alike, numbers to rounding: another runner may have cleared."""
    assert len(one) == len(other), name
    for row, like in zip(one, other, strict=True):
        assert row.keys() == like.keys(), name
        for key, value in row.items():
            if isinstance(value, float):
                assert value == pytest.approx(like[key], rel=1e-5, abs=1e-5), (name, key)
            else:
                assert value == like[key], (name, key)


def cost(market: jg.Market, clearing: jg.Clearing) -> Any:
    return jnp.sum(clearing.costs)


def peak(market: jg.Market, clearing: jg.Clearing) -> Any:
    return jnp.sum(clearing.aggregate**2)


def test_a_front_goes_on_where_one_of_three_workers_is_killed(tmp_path: Path):
    """With a folder on a disk that all see, of which this process takes what was done."""
    market = feeder()
    bounds = (0.0, 3 * float(market.tariff.slope.max()))
    ask: dict[str, Any] = {"bounds": bounds, "points": 3, "starts": 3, "steps": 4, "tol": 1e-7}
    steps: list[int] = []
    with (
        distributed.LocalCluster(n_workers=3, processes=True, **QUIET) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):

        def kill(now: FrontProgress) -> None:
            steps.append(now.tuning)
            if len(steps) == 2:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

        there = jg.pareto(
            market, [cost, peak], lambda m: m.tariff.slope, folder=tmp_path, client=client,
            progress=kill, **ask,
        )  # fmt: skip
    assert steps == list(range(len(there.stopped))) and len(steps) >= 8
    assert len(list(tmp_path.glob("tuning-*/tuning.npz"))) == len(steps)
    alone = jg.pareto(market, [cost, peak], lambda m: m.tariff.slope, **ask)
    np.testing.assert_allclose(there.values, alone.values, rtol=1e-5)
    np.testing.assert_allclose(there.seen, alone.seen, rtol=1e-5)
    assert there.stopped == alone.stopped
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("tuning-*/*")}
    again = jg.pareto(market, [cost, peak], lambda m: m.tariff.slope, folder=tmp_path, **ask)
    np.testing.assert_allclose(again.values, there.values, rtol=1e-7)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.glob("tuning-*/*")}


def test_a_leaders_starts_end_where_they_end_here(client: Any):
    """Told in their order, whichever was done first; of a price of one hour."""
    market = neighbors()
    ask: dict[str, Any] = {"bounds": (0.05, 0.4), "starts": 3, "steps": 4, "tol": 1e-8}
    there = lead(market, cost, lambda m: m.tariff.base, client=client, **ask)
    same(there, lead(market, cost, lambda m: m.tariff.base, **ask))
    assert len(set(there.value.tolist())) > 1


def test_coalitions_gain_what_they_gain_here(client: Any):
    """All of three, and those that sampled orders pass through."""
    market = loads(1)
    market = scenarios.lane(market, 0)
    same(coalitions.game(market, client=client), coalitions.game(market))
    there, here = (coalitions.shapley(market, samples=4, client=who) for who in (client, None))
    np.testing.assert_array_equal(there.gains, here.gains)


def test_what_workers_cannot_do_is_told(tmp_path: Path):
    """A folder that they do not see, and a client that is none."""
    assert cluster.within(cluster.shared(tmp_path / "new"), "one") == tmp_path / "new" / "one"
    assert cluster.within(cluster.shared(None), "one") is None
    with pytest.raises(ValueError, match=r"does not see .*give a folder on a disk that all"):
        cluster.within(tmp_path / "elsewhere", "one")
    with pytest.raises(ValueError, match=r"client is 'here'; give a distributed\.Client"):
        jg.pareto(
            neighbors(), [cost, peak], lambda m: m.tariff.slope, bounds=(0.0, 1e-3), client="here"
        )


def test_simulations_go_on_where_one_of_three_workers_is_killed(tmp_path: Path):
    """Six, each in its folder, of which the next worker goes on with what the dead one began."""
    truth, told = village(3), []
    runs = {f"{k}": {"forecast": jg.forecasts.noisy(0.2, 0.2, seed=k)} for k in range(6)}
    ask: dict[str, Any] = {"window": 4, "step": 1, "runner": "numpy"}
    with (
        distributed.LocalCluster(n_workers=3, processes=True, **QUIET) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):

        def kill(now: SimulationProgress) -> None:
            told.append(now.done)
            if len(told) == 2:
                os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)

        many = jg.simulate_many(truth, runs, out=tmp_path, client=client, progress=kill, **ask)
        both = hindsight.beside(truth, foresight=False, client=client, **ask)
    assert told == [18 * k for k in range(1, 7)]
    for name, found in jg.simulate_many(truth, runs, **ask).items():
        same(many[name], found)
        same(simulation.load(tmp_path / name), found)
    same(both, hindsight.beside(truth, foresight=False, **ask))
