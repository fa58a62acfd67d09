"""Many simulations are what each is alone, whoever does them, and what is wrong is told first."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxgne as jg
from jaxgne import cli, hindsight, simulations
from jaxgne.simulations import load
from tests.simulated import village

OPTIONS: Any = {"window": 4, "step": 3, "runner": "numpy"}


def guesses(count: int) -> dict[str, dict[str, Any]]:
    return {f"seed {k}": {"forecast": jg.forecasts.noisy(0.2, 0.2, seed=k)} for k in range(count)}


def same(one: Any, other: Any) -> None:
    """To the last bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_is_what_it_is_alone(tmp_path: Path):
    """In its own folder, with its own truth where it has one; windows of all are counted."""
    told: list[tuple[int, int]] = []
    runs = guesses(2) | {"other": {"truth": village(1, seed=1), "step": 2}}
    found = jg.simulate_many(
        village(1), runs, out=tmp_path, **OPTIONS,
        progress=lambda now: told.append((now.done, now.total)),
    )  # fmt: skip
    assert list(found) == list(runs)
    for name in guesses(2):
        same(found[name], jg.simulate(village(1), **runs[name], **OPTIONS))
    same(found["other"], jg.simulate(village(1, seed=1), **OPTIONS | {"step": 2}))
    assert told == [(done, 7) for done in range(1, 8)]
    assert {path.name for path in tmp_path.iterdir()} == {"seed-0", "seed-1", "other"}
    kept = load(tmp_path)
    assert list(kept) == ["other", "seed-0", "seed-1"]
    same(kept["seed-1"], found["seed 1"])
    with pytest.raises(ValueError, match="holds no simulations"):
        load(tmp_path / "other")
    assert float(np.abs(found["seed 0"].imbalance - found["seed 1"].imbalance).max()) > 1e-3


def test_what_a_run_cannot_be_is_told_before_any_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(simulations, "simulate", None)
    for runs, sentence in (
        ({"one": {"step": 5}}, "one: simulate: step=5"),
        ({"a b": {}, "a-b": {}}, "'a-b': give runs names that differ"),
        ({"a/b": {}}, "'a/b': give runs names"),
    ):
        with pytest.raises(ValueError, match=sentence):
            jg.simulate_many(village(1), runs, **OPTIONS)
    with pytest.raises(TypeError, match="the run 'one' has 'seed'; each takes truth, window"):
        jg.simulate_many(village(1), {"one": {"seed": 1}}, **OPTIONS)
    with pytest.raises(ValueError, match=r"client is 'here'; give a distributed\.Client"):
        jg.simulate_many(village(1), guesses(1), client="here", **OPTIONS)
    with pytest.raises(ValueError, match=r"client is 'here'"):
        hindsight.beside(village(1), client="here", **OPTIONS)


def test_the_shell_runs_many(tmp_path: Path):
    """The first of them is the one of the same seeds; the table has each, and what they spread."""

    def call(*words: object):
        return CliRunner().invoke(cli.app, [str(word) for word in words])

    words = ("simulate", "synthetic", "--prosumers", 3, "--buses", 3, "--hours", 24, "--step", 6)
    words += ("--days", 2, "--window", 4, "--every", 2, "--forecast", "noisy")
    many = call(*words, "--runs", 2, "--json", "--out", tmp_path / "runs")
    assert many.exit_code == 0, many.output
    runs = json.loads(many.stdout)["runs"]
    one = json.loads(call(*words, "--json").stdout)
    assert runs["0"] == {key: one[key] for key in runs["0"]} and runs["1"] != runs["0"]
    seeds = ("--vary-seed", 1, "--noise-seed", 1)
    assert runs["1"] == {
        k: v for k, v in json.loads(call(*words, *seeds, "--json").stdout).items() if k in runs["1"]
    }
    assert json.loads(call("show", tmp_path / "runs", "--json").stdout) == json.loads(many.stdout)
    text = call(*words, "--runs", 2, "--out", tmp_path / "runs").stdout
    heads = [line.split()[0] for line in text.splitlines()[-5:]]
    assert heads == ["0", "1", "mean", "least", "most"]
    alone = call(*words, "--scheduler", "tcp://here:1")
    assert alone.exit_code == 2 and "give --runs" in alone.output
