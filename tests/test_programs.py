"""Programs kept on disk: the same answers as `eqx.filter_jit`, and nothing worse than compiling."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgne import programs, store
from jaxgne.programs import Program, program
from jaxgne.waiting import waiting

SCRIPT = """
import json, sys
import jax
import jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
compiled = []
jax.monitoring.register_event_duration_secs_listener(
    lambda event, seconds, **_: compiled.append(event)
    if event == "/jax/core/compile/backend_compile_duration" else None)
from jaxgne.programs import program

@program("a system", once=True)
def solved(a, b):
    factor = jax.scipy.linalg.cho_factor(a)
    return {"x": jax.scipy.linalg.cho_solve(factor, b), "n": a.shape[0]}

a, b = jnp.array([[4.0, 1.0], [1.0, 3.0]]), jnp.array([1.0, 2.0])
compiled.clear()
ready = solved.ready(a, b)
found = solved(a, b)
print(json.dumps({"ready": ready, "compiled": len(compiled), "x": found["x"].tolist(),
                  "n": found["n"]}))
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of this test's own."""
    monkeypatch.setenv("JAXGNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def table(a, b, *, words: str = "sum"):
    """A function of a tree with arrays and other things."""
    total = a["x"] @ jnp.asarray(b) if words == "sum" else a["x"].sum()
    return {"total": total, "words": words, "rest": (a["x"] * 2, None, 3)}


def given():
    return {"x": jnp.arange(6.0).reshape(2, 3)}, np.array([1.0, 2.0, 4.0])


def processes(count: int, tmp_path: Path, **environment: str) -> list[dict]:
    """What the script says in so many processes at the same time."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    env = {**os.environ, **environment, "PYTHONPATH": str(Path(programs.__file__).parents[1])}
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([sys.executable, str(path)], env=env, stdout=pipe, stderr=pipe, text=True)
        for _ in range(count)
    ]
    answers = []
    for process in started:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert err == ""
        answers.append(json.loads(out))
    return answers


def entries(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.is_dir() else []


class Counted(Program):
    """A program that counts how often it is compiled."""

    times = 0

    def _compiled(self, name, call):
        self.times += 1
        return super()._compiled(name, call)


def sines(x):
    return {"y": jnp.sin(x) + 1, "shape": x.shape}


def counted() -> Counted:
    return Counted(sines, "sines")


@pytest.mark.parametrize("once", [False, True])
@pytest.mark.parametrize("words", ["sum", "other"])
def test_same_answers_as_filter_jit(cache: Path, once: bool, words: str):
    """Values, dtypes, weak types and structure are the same, compiled and loaded."""
    made, (a, b) = program("a table", once=once)(table), given()
    want = eqx.filter_jit(table)(a, b, words=words)
    for _ in range(2):
        found = made(a, b, words=words)
        assert jax.tree.structure(found) == jax.tree.structure(want)
        assert eqx.tree_equal(found, want, typematch=True)
        assert found["total"].weak_type == want["total"].weak_type
        made.forget()  # the second comes from the store
    assert len(entries(cache)) == 1


def test_an_option_that_xla_does_not_have_is_left_out(monkeypatch: pytest.MonkeyPatch):
    """Options, and what they may be, go with releases of XLA; two that never were stand in."""
    options = {"xla_backend_optimization_level": 0, "xla_made_up": True}
    monkeypatch.setattr(programs, "_QUICK", options)
    monkeypatch.setattr(programs, "_FRUGAL", {"xla_cpu_scheduler_type": "MADE_UP"})
    monkeypatch.setattr(programs, "_UNKNOWN", set())

    @program("a sum", once=True)
    def summed(a):
        return a + 1.0

    assert float(summed(jnp.asarray(2.0))) == 3.0
    assert {"xla_made_up", "xla_cpu_scheduler_type"} == programs._UNKNOWN


def test_same_under_transformations():
    """Gradients, maps and traces go through as through `eqx.filter_jit`."""
    made = program("cubes")(lambda x, power: x**power)
    x = jnp.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(jax.grad(lambda x: made(x, 3).sum())(x), 3 * x**2)
    np.testing.assert_allclose(jax.vmap(lambda x: made(x, 3))(x), x**3)
    np.testing.assert_allclose(jax.jit(lambda x: made(x, 3))(x), x**3)
    np.testing.assert_allclose(jax.jit(lambda: made(x, 3))(), x**3)
    assert jax.tree.leaves(made._found) == []


def test_new_shapes_types_and_statics_are_new_programs():
    """Nothing is taken for another: shape, dtype, weak type, 64-bit mode, numbers in Python."""
    made = program("a product")(lambda x, factor: x * factor)
    assert made(jnp.ones(2), 2).dtype == jnp.float64
    assert made(jnp.ones(2, jnp.int32), 1).dtype == jnp.int32
    assert made(jnp.ones(2, jnp.int32), 1.0).dtype == jnp.float64
    assert made(jnp.ones(2, jnp.int32), True).dtype == jnp.int32
    assert made(jnp.ones(3), 2).shape == (3,)
    with jax.enable_x64(False):
        assert made(np.ones(2), 2).dtype == jnp.float32
    assert made(np.ones(2), 2).dtype == jnp.float64
    assert len(made._found) == 7


def test_second_process_loads_without_compiling(tmp_path: Path, cache: Path):
    """Also where LAPACK computes, and with two processes at once on an empty store."""
    first = processes(2, tmp_path)
    assert len(entries(cache)) == 1  # and no part of one
    (second,) = processes(1, tmp_path)
    assert all(not answer["ready"] or not answer["compiled"] for answer in first)
    assert second["ready"] and second["compiled"] == 0
    assert second["x"] == first[0]["x"] == first[1]["x"] and second["n"] == 2
    np.testing.assert_allclose(second["x"], [1 / 11, 7 / 11], rtol=1e-12)


def test_what_jaxs_own_cache_gave_is_not_stored(tmp_path: Path):
    """Such a program serializes in part: an entry of it would load, and fail when it runs."""
    own = {
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    (first,) = processes(1, tmp_path, JAXGNE_CACHE=str(tmp_path / "one"), **own)
    assert entries(tmp_path / "one") and any((tmp_path / "jax").iterdir())
    for _ in range(2):
        (later,) = processes(1, tmp_path, JAXGNE_CACHE=str(tmp_path / "two"), **own)
        assert later["x"] == first["x"] and not later["ready"]
    (loaded,) = processes(1, tmp_path, JAXGNE_CACHE=str(tmp_path / "one"), **own)
    assert loaded["ready"] and loaded["compiled"] == 0 and loaded["x"] == first["x"]


def test_entry_of_other_flags_is_not_taken(tmp_path: Path):
    """What XLA was told belongs to the name of an entry."""
    processes(1, tmp_path, XLA_FLAGS="")
    (other,) = processes(1, tmp_path, XLA_FLAGS="--xla_cpu_enable_fast_math=false")
    assert not other["ready"] and other["compiled"]


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_damaged_entry_is_compiled_anew(cache: Path, damage: str):
    """And replaced: a file that was cut, holds something else, or nothing."""
    made = counted()
    want = made(jnp.ones(3))
    (path,) = entries(cache)
    whole = path.read_bytes()
    if damage == "foreign":
        store.write(path.name, b"not a pickle")
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    made.forget()
    found = made(jnp.ones(3))
    assert eqx.tree_equal(found, want) and made.times == 2
    made.forget()
    assert eqx.tree_equal(made(jnp.ones(3)), want) and made.times == 2


def test_entry_that_fails_to_run_is_compiled_anew(cache: Path):
    """A loaded program that raises goes out of memory and disk."""
    made = counted()
    want = made(jnp.ones(3))
    ((key, kept),) = made._found.items()

    def fails(*_):
        raise RuntimeError("of another machine")

    made._found[key] = kept._replace(run=fails, stored=entries(cache)[0].name)
    assert eqx.tree_equal(made(jnp.ones(3)), want) and made.times == 2
    assert len(entries(cache)) == 1


def test_other_version_is_not_taken(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """A program of other versions, sources or another processor has another name."""
    made = counted()
    made(jnp.ones(3))
    monkeypatch.setattr(programs, "_here", lambda: "jaxlib 0.11")
    made.forget()
    made(jnp.ones(3))
    assert made.times == 2 and len(entries(cache)) == 2


@pytest.mark.parametrize("named", ["off", "0"])
def test_store_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch, named: str):
    """`JAXGNE_CACHE=off` writes nothing."""
    monkeypatch.setenv("JAXGNE_CACHE", named)
    made = counted()
    assert store.folder() is None and not made.ready(jnp.ones(3))
    made(jnp.ones(3))
    made.forget()
    made(jnp.ones(3))
    assert made.times == 2 and entries(cache) == []


def test_usual_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """By the rules of XDG, made for the user alone; an empty word is none."""
    monkeypatch.setenv("JAXGNE_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert store.folder() == tmp_path / "jaxgne"
    assert (tmp_path / "jaxgne").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.folder() == tmp_path / ".cache" / "jaxgne"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert store.folder() == tmp_path / "Library" / "Caches" / "jaxgne"


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_folder_that_others_may_write_is_refused(cache: Path, mode: int):
    """Entries are code: nothing is read from where others could have put them, nothing written."""
    made = counted()
    made(jnp.ones(3))
    cache.chmod(mode)
    made.forget()
    made(jnp.ones(3))
    made(jnp.ones(4))
    assert made.times == 3 and len(entries(cache)) == 1


def test_folder_of_somebody_else_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Its owner could have put anything there."""
    assert store.folder() == cache
    monkeypatch.setattr(os, "getuid", lambda: cache.stat().st_uid + 1)
    assert store.folder() is None


@pytest.mark.parametrize("place", ["/proc/jaxgne", "/dev/null/jaxgne"])
def test_home_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, place: str, capfd):
    """Programs are compiled, and nobody hears of it."""
    monkeypatch.setenv("JAXGNE_CACHE", place)
    made = counted()
    assert float(made(jnp.zeros(()))["y"]) == 1.0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("what", ["write", "replace"])
def test_full_disk(cache: Path, monkeypatch: pytest.MonkeyPatch, what: str, capfd):
    """No entry, no part of one, no words; the answer is there all the same."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = (Path, "write_bytes") if what == "write" else (os, "replace")
    monkeypatch.setattr(*owner, full)
    made = counted()
    assert float(made(jnp.zeros(()))["y"]) == 1.0
    assert entries(cache) == [] and capfd.readouterr() == ("", "")


def test_oldest_entries_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Beyond their share of the disk those go that were not read for longest."""
    noise = np.random.default_rng(0).bytes(1000)  # as long when compressed
    for age, name in enumerate("abc"):
        store.write(name, noise)
        os.utime(cache / name, (age, age))
    assert store.read("a") == noise
    monkeypatch.setattr(store, "_MOST", 3500)
    store.write("d", noise)
    assert [path.name for path in entries(cache)] == ["a", "c", "d"]


def test_callbacks_and_closures_are_not_stored(cache: Path):
    """They mean something in this process alone; their programs run all the same."""

    def called(x):
        return jax.pure_callback(np.cos, jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    two = 2.0
    assert float(program("a call")(called)(jnp.zeros(()))) == 1.0
    assert float(program("twice")(lambda x: two * x)(jnp.ones(()))) == 2.0
    assert entries(cache) == []


def test_a_thread_prepares():
    """Loaded or compiled but not run, once, by whichever thread comes first."""
    made = counted()
    assert not made.ready(jnp.ones(3))
    threads = [threading.Thread(target=made.prepare, args=(jnp.ones(3),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.ready(jnp.ones(3)) and made.times == 1
    made(jnp.ones(3))
    assert made.times == 1


def test_failing_program_says_what_filter_jit_says():
    """An error while tracing is the function's own."""
    with pytest.raises(TypeError, match="shape"):
        program("a product")(lambda a, b: a @ b)(jnp.ones(2), jnp.ones(3))


def test_nothing_is_said_in_pipes(monkeypatch: pytest.MonkeyPatch, capfd):
    """Files and pipes hold no line of who waits, however long."""
    monkeypatch.setattr("jaxgne.waiting._PATIENCE", 0.0)
    made = counted()
    made(jnp.ones(3))
    assert capfd.readouterr() == ("", "")


def test_terminal_tells_what_is_compiled(monkeypatch: pytest.MonkeyPatch):
    """What, for which shape; the line is gone at the end."""
    written: list[str] = []
    stream = SimpleNamespace(isatty=lambda: True, write=written.append, flush=lambda: None)
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("jaxgne.waiting._PATIENCE", -1.0)
    people = SimpleNamespace(load=np.zeros((25, 24)))
    words = f"compiling the start{programs._sizes([SimpleNamespace(prosumers=people)])}"
    with waiting.on(words):
        while not written:
            pass
    line, wiped = written
    told = "compiling the start for 25 prosumers x 24 steps, once per shape"
    assert line == f"\rjaxgne: {told} ... 0 s"
    assert wiped == f"\r{' ' * (len(line) - 1)}\r"


def test_programs_go_before_memory_maps_do(monkeypatch: pytest.MonkeyPatch):
    """All in memory, of all functions; the store still has them."""
    made, other = counted(), counted()
    made(jnp.ones(1))
    monkeypatch.setattr(programs, "_MAPS", 0)
    other(jnp.ones(2))
    assert not made._found and len(other._found) == 1
    assert made.ready(jnp.ones(1)) and made(jnp.ones(1))["shape"] == (1,)
    assert made.times == 1
