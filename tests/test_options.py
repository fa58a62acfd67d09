"""Options that make no sense are told in one sentence, by all functions that take them."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxgne as jg
from jaxgne.market import cast
from jaxgne.selection import select
from tests.markets import two_neighbors


def market() -> jg.Market:
    return two_neighbors(6.0)


WRONG = {
    "steps beyond 32 bits": (
        {"max_steps": 10**12},
        r"max_steps=1000000000000; give a whole number",
    ),
    "steps below 1": ({"max_steps": -3}, r"max_steps=-3; give a whole number from 1"),
    "no steps": ({"max_steps": 0}, r"max_steps=0; give"),
    "half steps": ({"max_steps": 2.5}, r"max_steps=2\.5; give"),
    "steps that are true": ({"max_steps": True}, r"max_steps=True; give"),
    "steps in words": ({"max_steps": "many"}, r"max_steps='many'; give"),
    "solver in words": ({"solver": "ip"}, r"solver is 'ip'; give an object, such as jaxgne\.Int"),
    "class of solver": ({"solver": jg.PrimalDual}, r"is the class PrimalDual; .* PrimalDual\(\)"),
    "adjoint in words": ({"adjoint": "implicit"}, r"adjoint is 'implicit'; give an object"),
    "no number": ({"tol": float("nan")}, r"tol=nan is below what float64 can give"),
    "negative tol": ({"tol": -1e-6}, r"tol=-1e-06 is below"),
    "no tol": ({"tol": 0}, r"tol=0 is below"),
    "endless tol": ({"tol": float("inf")}, r"tol=inf is no small relative error"),
    "tol in words": ({"tol": "1e-6"}, r"tol='1e-6': give one number"),
    "several tols": ({"tol": np.ones(2)}, r"give one number, such as 1e-6"),
    "start in words": ({"start": "warm"}, r"start is 'warm'; give a (clearing|jaxgne.Clearing)"),
    "deaf progress": ({"progress": 3}, r"progress is 3; give a function"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_options_are_told_before_anything_runs(name: str):
    """By `clear`, by `clear_many`, and by all others that take the option."""
    options, sentence = WRONG[name]
    both = jg.scenarios.stack([market()] * 2)
    functions: dict[Any, Any] = {jg.clear: market(), jg.clear_many: both}
    if not options.keys() & {"adjoint"}:
        functions |= {jg.least_norm: market(), jg.clear_ac: jg.ieee37(2)}
    if not options.keys() & {"adjoint", "solver", "progress"}:
        functions |= {select: market()}
    for function, given in functions.items():
        with pytest.raises(ValueError, match=sentence) as told:
            function(given, **options)
        assert "\n" not in str(told.value)


def test_other_counts_are_whole_and_at_least_1():
    with pytest.raises(ValueError, match=r"clear_many: width=0; give"):
        jg.clear_many(jg.scenarios.stack([market()]), width=0)
    with pytest.raises(ValueError, match=r"trace: every=0; give"):
        jg.trace(market(), every=0)
    with pytest.raises(ValueError, match=r"tune: steps=1\.5; give"):
        jg.tune(market(), jg.objectives.peak, lambda m: m.tariff.slope, bounds=(0, 1), steps=1.5)  # type: ignore[arg-type]


def test_what_is_no_market_is_told():
    with pytest.raises(ValueError, match=r"clear: market is 'ieee37'; give a jaxgne\.Market"):
        jg.clear("ieee37")  # type: ignore[arg-type]


def test_a_start_of_another_market_is_told():
    first = jg.clear(market())
    with pytest.raises(ValueError, match=r"start is of another market: its imports has shape"):
        jg.clear(jg.ieee37(3), start=first)


def test_a_double_market_in_single_mode_is_told():
    """The advice works: cast, the market clears in float32."""
    wide = market()
    many = jg.scenarios.stack([wide, wide])
    with jax.enable_x64(False):
        for function, given in {jg.clear: wide, jg.clear_many: many, jg.trace: wide}.items():
            with pytest.raises(
                ValueError, match=r"float64, but JAX is in 32-bit mode; type jax\.c"
            ):
                function(given)
        narrow = cast(wide, "float32")
        assert narrow.prosumers.load.dtype == jnp.float32 and bool(jg.clear(narrow).ok)


FORK = """
import multiprocessing, warnings
import jaxgne as jg
from tests.markets import two_neighbors

def child(pipe, market):
    try:
        jg.clear(market)
    except RuntimeError as error:
        pipe.send(str(error))

warnings.simplefilter("ignore")
ours, theirs = multiprocessing.Pipe()
arguments = (theirs, two_neighbors(6.0))
forked = multiprocessing.get_context("fork").Process(target=child, args=arguments)
forked.start()
print(ours.recv() if ours.poll(100) else "no answer")
forked.kill()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_after_jax_ran_is_told():
    """It would wait for ever for threads that a forked process does not have."""
    told = subprocess.run(
        [sys.executable, "-c", FORK],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "clear: this process was forked after JAX ran" in told.stdout
    assert 'get_context("spawn")' in told.stdout
