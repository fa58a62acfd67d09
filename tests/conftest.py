import gc
import math
import os
import tempfile
from importlib.metadata import version

# The interior point's small systems wait for BLAS threads longer than they compute, the more so
# the busier the machine is. Read once, when SciPy's BLAS is loaded.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import equinox as eqx
import jax
import pytest

from jaxgne import choosing, programs

jax.config.update("jax_enable_x64", True)

# Small markets are cleared by NumPy, however slow the machine is, unless a test asks for JAX.
choosing._LOADING = choosing._PATIENCE = math.inf
choosing._BATCH_LOADING = choosing._BATCH = math.inf

# Most tests compile far longer than they run: XLA leaves out what only makes programs faster. Flags
# that it does not know end the process, so other versions go without.
if version("jaxlib").startswith("0.10."):
    quick = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    alone = "--xla_cpu_parallel_codegen_split_count=1"  # the other cores have workers of their own
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {quick} {alone}"

programs._FAST = programs._QUICK  # also of programs that the package has optimized

gc.set_threshold(100_000, 20, 100)  # tracing makes many objects, few of them garbage


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


_MAPS = 20_000  # leaves room for a module of many programs, which makes some 25,000

SLOW_NOTEBOOKS = {"paper.ipynb", "fit.ipynb", "tuning.ipynb"}  # what they show has tests of its own


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.name in SLOW_NOTEBOOKS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="module")
def forgotten_programs():
    """Drops compiled programs between modules, before they exhaust a process' memory maps."""
    yield
    choosing._spent.clear()
    if programs.crowded(_MAPS):
        programs.forget()
        eqx.clear_caches()
        jax.clear_caches()
