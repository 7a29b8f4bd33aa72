"""Types are checked at run time in tests; float64 is set before any array exists."""

import os
from pathlib import Path

# Compiles dominate the tests: workers and the processes they start share what they compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import jax
import pytest
from jaxtyping import install_import_hook

hook = install_import_hook("mfamm_jax", "beartype.beartype")
jax.config.update("jax_enable_x64", True)


@pytest.fixture
def data_folder() -> Path:
    """Real market data; tests that need it skip with a reason without it."""
    folder = os.environ.get("MFAMM_DATA")
    if not folder:
        pytest.skip("MFAMM_DATA is not set: no real market data here")
    return Path(folder)


@pytest.fixture(params=["float64", "float32"])
def precision(request):
    """Runs a test in both precisions."""
    with jax.enable_x64(request.param == "float64"):
        yield request.param


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_functions():
    """A compiled function holds memory maps, of which a process may have some 65,000; the disk cache keeps the work."""
    yield
    jax.clear_caches()
