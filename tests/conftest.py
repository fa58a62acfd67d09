import os
import tempfile
from importlib.metadata import version

# The interior point's small systems wait for BLAS threads longer than they compute, the more so
# the busier the machine is. Read once, when SciPy's BLAS is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import equinox as eqx
import jax
import pytest

from jaxgne import programs

jax.config.update("jax_enable_x64", True)

# Most tests compile far longer than they run: XLA leaves out what only makes programs faster. Flags
# that it does not know end the process, so other versions go without.
if version("jaxlib").startswith("0.10."):
    quick = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick}"


def pytest_configure(config):
    """One store of compiled programs for all workers and the processes that tests start."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="jaxgne-compiled-")
        config.add_cleanup(folder.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
        os.environ["JAXGNE_CACHE"] = os.path.join(folder.name, "jaxgne")
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


SLOW_NOTEBOOKS = {"paper.ipynb"}  # its six studies have tests of their own


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in SLOW_NOTEBOOKS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
    """Drops a module's compiled programs: hundreds exhaust the memory maps a process may have."""
    yield
    programs.forget()
    eqx.clear_caches()
    jax.clear_caches()
