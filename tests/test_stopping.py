"""Ctrl-C in a process of its own: how far it was is told, what was done is kept, and goes on."""

import re
from contextlib import chdir
from pathlib import Path

import jax
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import jaxgne as jg
from jaxgne import cli, io
from jaxgne.descent import TuningStopped
from jaxgne.history import TuningProgress
from jaxgne.solve import Progress
from tests.documents import judged
from tests.folders import feeder
from tests.markets import two_neighbors
from tests.terminal import stopped

VALUES = ",".join(str(k / 1000) for k in range(12))


def call(*words: object) -> Result:
    return CliRunner().invoke(cli.app, [str(word) for word in words])


def last_words(words: list[str], when: str, folder: Path) -> tuple[int, str]:
    """Exit code and last line of a command that is stopped once its terminal shows `when`."""
    code, told = stopped(words, folder, lambda shown: re.search(when, shown))
    return code, told.strip().splitlines()[-1]


def test_a_clear_that_is_stopped_is_kept_and_goes_on(tmp_path: Path):
    """The plan written is as good as was told, and a start that spares the steps done before."""
    words = ["clear", "ieee37", "--prosumers", "100", "--out", "run"]  # some seconds
    code, said = last_words(words, r"[1-9]\d* steps, relative", tmp_path)
    assert code == 130
    found = re.search(
        r"jaxgne: stopped after (\d+) steps, relative KKT error (\S+); what there is is in run, "
        r"and the same call goes on with --warm-start run$",
        said,
    )
    assert found, said
    market, clearing = io.load(tmp_path / "run")
    assert clearing is not None and int(clearing.steps) == int(found[1])
    assert jg.status.status_name(clearing.status) == "stopped" and not bool(clearing.ok)
    again = jg.certify(market, clearing.plan, clearing.prices)
    assert float(again.error) == pytest.approx(float(found[2]), rel=0.06)  # of its two digits
    assert float(again.error) > 1e-6
    shown = call("show", tmp_path / "run", "--json")
    assert shown.exit_code == 3 and judged(shown.stdout)["status"] == "stopped"
    on = call(*words[:-1], tmp_path / "run", "--warm-start", tmp_path / "run", "--json")
    assert on.exit_code == 0 and judged(on.stdout)["status"] == "cleared"
    assert call(*words[:4], "--warm-start", tmp_path / "run", "--hours", 3).exit_code == 1


@pytest.mark.parametrize(
    ("words", "when"),
    [
        pytest.param(
            ["study", "tariff", "case", "--values", VALUES], r"[1-9]\d* of \d+ runs", id="study"
        ),
        pytest.param(
            ["tune", "price-slope", "case", "--steps", "5"], "[1-4] of 5 steps,", id="tune"
        ),
    ],
)
def test_what_was_done_is_kept_and_gone_on_from(words: list[str], when: str, tmp_path: Path):
    """The same call takes what is there, and ends well."""
    io.save(tmp_path / "case", two_neighbors(6.0) if words[0] == "tune" else feeder())
    with chdir(tmp_path):
        code, said = last_words([*words, "--out", "out"], when, tmp_path)
        assert code == 130
        assert re.search(r"stopped after [1-9]\d* (of 5 steps|scenarios); what is done", said), said
        assert said.endswith("is in out, and the same call goes on after it")
        kept = {path: path.stat().st_mtime_ns for path in Path("out").rglob("scenarios-*")}
        on = call(*words, "--out", "out", "--json")
        assert on.exit_code == 0 and judged(on.stdout)
        assert kept == {path: path.stat().st_mtime_ns for path in kept}


def test_what_is_stopped_is_attached():
    """In Python: plan, prices and how good they are, in JAX's arrays; a start to go on from."""
    market = two_neighbors(6.0)

    def stop(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(jg.Stopped) as told:
        jg.clear(market, tol=1e-9, progress=stop)
    found = told.value.clearing
    assert found is not None and jg.status.status_name(found.status) == "stopped"
    assert str(told.value).startswith(f"stopped after {int(found.steps)} steps, relative KKT error")
    assert isinstance(found.plan.imports, jax.Array) and float(found.certificate.error) > 1e-9
    assert bool(jg.clear(market, start=found).ok)


def test_a_tuning_that_is_stopped_is_attached():
    """The best market so far, and its steps."""

    def stop(progress: TuningProgress) -> None:
        if progress.step == 2:
            raise KeyboardInterrupt

    market = two_neighbors(6.0)
    options = {"bounds": (0.0, 0.1), "steps": 9}
    with pytest.raises(jg.Stopped, match="stopped after 3 of 9 steps") as told:
        jg.tune(market, jg.objectives.peak, lambda m: m.tariff.slope, progress=stop, **options)
    assert isinstance(told.value, TuningStopped) and told.value.market is not None
    history = told.value.history
    np.testing.assert_array_equal(told.value.market.tariff.slope, history.tuned[history.best])
    assert len(history.value) == 3
