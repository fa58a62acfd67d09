"""A fingerprint differs wherever an answer may, and nowhere else: numbers, code, what code uses."""

import functools
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxgne as jg
from jaxgne import runner
from jaxgne.fingerprint import fingerprint

WEIGHT = 2.0
SPACE = runner.jnp  # JAX's or NumPy's
TABLE = np.arange(3.0)


def weighed(x: float) -> float:
    return WEIGHT * x


def outer(x: float) -> Any:
    return weighed(x) + TABLE.sum()


def times(k: Any) -> Callable[[Any], Any]:
    return lambda x: k * x


class Scaled(eqx.Module):
    weight: Any
    power: float = eqx.field(static=True)

    def __call__(self, x: Any) -> Any:
        return self.weight * x**self.power

    def twice(self, x: Any) -> Any:
        return 2 * self(x)


class Plain:
    def __init__(self, weight: Any):
        self.weight = weight

    def value(self, x: Any) -> Any:
        return self.weight * x


ADAM = functools.partial(optax.adam)
DIFFERENT = {
    "constants": (lambda x: x + 0.0, lambda x: x + 1.0),
    "signs of zero": (lambda x: x + 0.0, lambda x: x + -0.0),
    "code": (lambda x: x + x, lambda x: x * x),
    "names": (lambda m: m.tariff, lambda m: m.trading),
    "constants of functions within": (
        lambda x: [k + 1 for k in x],
        lambda x: [k + 2 for k in x],
    ),
    "closures": (times(1.0), times(2.0)),
    "arrays closed over": (times(np.zeros(3)), times(np.ones(3))),
    "their types": (times(np.zeros(3, np.float32)), times(np.zeros(3))),
    "their shapes": (times(np.zeros((1, 3))), times(np.zeros(3))),
    "arrays of jax": (times(jnp.zeros(3)), times(jnp.ones(3))),
    "functions closed over": (times(times(1.0)), times(times(2.0))),
    "defaults": (lambda x, k=1: k * x, lambda x, k=2: k * x),
    "partial": (functools.partial(pow, 2), functools.partial(pow, 3)),
    "keywords of partial": (functools.partial(outer, x=1), functools.partial(outer, x=2)),
    "bound methods": (Plain(1).value, Plain(2).value),
    "objects": (Plain(np.zeros(2)), Plain(np.ones(2))),
    "modules": (Scaled(jnp.ones(2), 1.0), Scaled(jnp.zeros(2), 1.0)),
    "static fields": (Scaled(jnp.ones(2), 1.0), Scaled(jnp.ones(2), 2.0)),
    "methods of modules": (Scaled(jnp.ones(2), 1.0).twice, Scaled(jnp.zeros(2), 1.0).twice),
    "compiled": (jax.jit(times(1.0)), jax.jit(times(2.0))),
    "by equinox": (eqx.filter_jit(times(1.0)), eqx.filter_jit(times(2.0))),
    "derivatives": (jax.grad(times(1.0)), jax.grad(times(2.0))),
    "optimizers": (ADAM(0.1), ADAM(0.2)),
    "schedules": (
        ADAM(optax.cosine_decay_schedule(0.1, 50)),
        ADAM(optax.cosine_decay_schedule(0.1, 51)),
    ),
    "kinds of optimizer": (optax.sgd(0.1), optax.sgd(0.1, momentum=0.9)),
    "solvers": (jg.InteriorPoint(), jg.PrimalDual()),
    "their options": (jg.SemiDecentralized(), jg.SemiDecentralized(inertia=0.3)),
    "enumerations": (jg.Status.cleared, jg.Status.infeasible),
    "random keys": (jax.random.key(0), jax.random.key(1)),
    "words": ("a", "b"),
    "how parts are nested": ((1, (2, 3)), ((1, 2), 3)),
    "tables": ({"a": 1}, {"a": 2}),
    "sets": ({1, 2}, {1, 3}),
    "number and truth": (1, True),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_what_differs_has_another_fingerprint(name: str):
    one, other = DIFFERENT[name]
    assert fingerprint(one) == fingerprint(one) != fingerprint(other)


def test_the_same_code_elsewhere_is_the_same():
    """Lines, files and the names of variables' holders do not count, nor does having run."""
    one, other = (lambda x: x + 1.5), (lambda x: x + 1.5)
    assert fingerprint(one) == fingerprint(other)
    rule = optax.adam(optax.cosine_decay_schedule(0.1, 50))
    before = fingerprint(rule, eqx.filter_jit(one))
    eqx.filter_jit(one)(1.0)
    rule.update(jnp.ones(2), rule.init(jnp.ones(2)))
    assert fingerprint(rule, eqx.filter_jit(one)) == before


def test_globals_count_with_what_they_are_now(monkeypatch: pytest.MonkeyPatch):
    """Numbers, arrays and functions that a function names, and those that these name in turn."""
    here, before = sys.modules[__name__], fingerprint(outer)
    monkeypatch.setattr(here, "WEIGHT", 3.0)  # of `weighed`, which `outer` calls
    assert fingerprint(outer) != before
    monkeypatch.setattr(here, "WEIGHT", 2.0)
    assert fingerprint(outer) == before
    monkeypatch.setattr(here, "TABLE", TABLE + 5.0)
    assert fingerprint(outer) != before


def test_modules_of_the_user_count_by_what_is_used_of_them():
    settings: Any = types.ModuleType("settings_of_mine")
    settings.rate, settings.other = 1.0, 1.0

    scope = {"settings": settings}
    of_module = types.FunctionType(
        compile("lambda x: settings.rate * x", "", "eval").co_consts[0], scope
    )
    before = fingerprint(of_module)
    settings.other = 2.0
    assert fingerprint(of_module) == before
    settings.rate = 2.0
    assert fingerprint(of_module) != before


def test_precision_counts():
    with jax.enable_x64(False):
        narrow = fingerprint(1.0)
    assert narrow != fingerprint(1.0)


STATES = {
    "generator": (k for k in range(3)),
    "lock": threading.Lock(),
    "ufunc": np.frompyfunc(abs, 1, 1),
}


@pytest.mark.parametrize("name", STATES)
def test_what_nobody_can_tell_is_refused(name: str):
    """One sentence that names the function that uses it."""
    state = STATES[name]

    def uses() -> Any:
        return state

    with pytest.raises(ValueError, match=r"folder: .*uses uses .*leave folder out"):
        fingerprint(uses)


def test_recursive_functions_and_values_have_one():
    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    ring: list[Any] = [1]
    ring.append(ring)
    assert fingerprint(factorial, ring) == fingerprint(factorial, ring)


def test_another_process_finds_the_same():
    """No address, no order of a set, no hash of a string enters."""
    script = (
        "import sys, jax\n"
        "jax.config.update('jax_enable_x64', True)\n"
        "from tests.test_fingerprint import DIFFERENT\n"
        "from jaxgne.fingerprint import fingerprint\n"
        "print(fingerprint(list(DIFFERENT.values()), {'a', 'b', 'c'}))\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == fingerprint(list(DIFFERENT.values()), {"c", "b", "a"})


def test_what_numpy_was_asked_for_does_not_count():
    """A function of the package's `jnp` stays the same one whatever ran in between."""
    before = fingerprint(lambda x: SPACE.arctan2(x, x))
    with runner.by_numpy():
        SPACE.arctan2(1.0, 2.0)
    assert fingerprint(lambda x: SPACE.arctan2(x, x)) == before
