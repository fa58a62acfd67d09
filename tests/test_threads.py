"""BLAS on one thread while mathematics runs, and as before afterwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import jaxgne as jg
from jaxgne.programs import program
from jaxgne.runner import by_numpy
from jaxgne.threads import one_thread


@pytest.fixture(autouse=True)
def two():
    """Two threads for each library: all are loaded by a clear."""
    jg.clear(jg.synthetic(3), jg.InteriorPoint(), runner="jax")
    with threadpool_limits(2, "blas"):
        assert threads() == {2}
        yield
        assert threads() == {2}


def threads() -> set[int]:
    """The numbers of threads that the libraries may use."""
    return {library["num_threads"] for library in threadpool_info()}


def test_overlapping_threads_share_the_limit():
    """The last of them to leave restores it."""
    first, second = one_thread(), one_thread()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert threads() == {1}
    second.__exit__(None, None, None)


def test_numpy_runs_on_one_thread():
    with by_numpy():
        assert threads() == {1}
        with by_numpy(False):
            assert threads() == {1}


def told(x: jax.Array) -> jax.Array:
    """`x`, and in `seen` how many threads there are while a program computes it."""

    def look(x: np.ndarray) -> np.ndarray:
        seen.append(threads())
        return x

    return jax.pure_callback(look, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


seen: list[set[int]] = []
compiled = program("a test")(told)


def test_programs_run_on_one_thread():
    """To their end: what they give is there."""
    seen.clear()
    compiled(jnp.ones(3))
    assert seen == [{1}]
