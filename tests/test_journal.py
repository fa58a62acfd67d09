"""Simulations on disk: killed at any moment they go on to the same bits, and only their own."""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jaxgne as jg
from jaxgne import journal
from jaxgne.simulation import Simulation, load
from tests.simulated import run, village


def same(one: Simulation, other: Simulation) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_any_moment_it_goes_on_to_the_same_bits(kills: int, tmp_path: Path):
    """SIGKILL, again and again; what is left of a write is nobody's."""
    days, rng = (1 if kills < 10 else 2), np.random.default_rng(kills)
    begun = time.perf_counter()
    whole = run(None, days)
    lasts = time.perf_counter() - begun
    start = multiprocessing.get_context("forkserver")
    start.set_forkserver_preload(["tests.simulated"])
    reached = []
    for _ in range(kills):
        one = start.Process(target=run, args=(tmp_path / "run", days))
        one.start()
        one.join(float(rng.uniform(0, lasts)))
        one.kill()
        one.join()
        told = journal.is_simulation(tmp_path / "run")
        state = tmp_path / "run" / "state.npz"
        reached.append(int(np.load(state)["at"]) if told and state.is_file() else 0)
    same(run(tmp_path / "run", days), whole)
    same(load(tmp_path / "run"), whole)
    assert reached == sorted(reached)
    assert not list((tmp_path / "run").glob(".*writing*"))


def test_stopped_by_hand_it_goes_on(tmp_path: Path):
    """Ctrl-C keeps all windows that were done."""
    truth = village(1)

    def stop(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    options: Any = {"window": 3, "step": 1, "terminal": "market", "runner": "numpy"}
    with pytest.raises(KeyboardInterrupt):
        jg.simulate(truth, **options, out=tmp_path / "run", progress=stop)
    half = load(tmp_path / "run")
    assert not half.ok and half.plan.imports.shape[1] == 3 and "goes on" in half.why
    counts = []
    found = jg.simulate(
        truth, **options, out=tmp_path / "run", progress=lambda p: counts.append(p.done)
    )
    assert counts == [4, 5, 6]
    same(found, jg.simulate(truth, **options))


def test_another_simulation_is_refused(tmp_path: Path):
    truth = village(1)
    jg.simulate(truth, window=2, step=2, out=tmp_path / "run", runner="numpy")
    others: Any = (
        {"window": 3, "step": 2},
        {"window": 2, "step": 1},
        {"window": 2, "step": 2, "tol": 1e-7},
        {"window": 2, "step": 2, "forecast": jg.forecasts.noisy()},
        {"window": 2, "step": 2, "terminal": "market"},
    )
    for options in others:
        with pytest.raises(ValueError, match="another simulation"):
            jg.simulate(truth, **options, out=tmp_path / "run", runner="numpy")
    with pytest.raises(ValueError, match="another simulation"):
        jg.simulate(village(1, seed=1), window=2, step=2, out=tmp_path / "run", runner="numpy")
    with pytest.raises(ValueError, match="no simulation"):
        load(tmp_path)


def test_damaged_files_are_made_anew(tmp_path: Path):
    """A state that was cut, a chunk that is gone: it begins anew, and says so."""
    truth, folder = village(1), tmp_path / "run"
    options: Any = {"window": 2, "step": 2, "runner": "numpy"}
    whole = jg.simulate(truth, **options, out=folder)
    state = folder / "state.npz"
    state.write_bytes(state.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        load(folder)
    with pytest.warns(UserWarning, match="anew"):
        same(jg.simulate(truth, **options, out=folder), whole)
    next(folder.glob("steps-*.npz")).unlink()
    with pytest.warns(UserWarning, match="anew"):
        same(jg.simulate(truth, **options, out=folder), whole)


def test_a_folder_with_a_gap_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Steps after a chunk that is gone are not taken for those before it."""
    monkeypatch.setattr(journal, "_WINDOWS", 1)
    truth, folder = village(1), tmp_path / "run"
    options: Any = {"window": 2, "step": 2, "runner": "numpy"}
    whole = jg.simulate(truth, **options, out=folder)
    next(folder.glob("steps-*02-*04.npz")).unlink()
    with pytest.raises(ValueError, match="lacks what was done from step 2 on; the call that"):
        load(folder)
    with pytest.warns(UserWarning, match="anew"):
        same(jg.simulate(truth, **options, out=folder), whole)


def test_a_failure_is_kept(tmp_path: Path):
    """Why it ended, and what gave way, are told again by `load`."""
    truth = village(1)
    load_kw = np.asarray(truth.prosumers.load).copy()
    load_kw[1, 3] = 90.0
    hard = jg.market.replaced(truth, {"prosumers.load": load_kw})
    options: Any = {"window": 2, "step": 1, "terminal": "market", "runner": "numpy"}
    found = jg.simulate(hard, **options, out=tmp_path / "hard")
    same(load(tmp_path / "hard"), found)
    assert "infeasible" in found.why
    soft = jg.simulate(hard, **options, elastic=True, out=tmp_path / "soft")
    same(load(tmp_path / "soft"), soft)
    assert soft.ok and soft.notes
