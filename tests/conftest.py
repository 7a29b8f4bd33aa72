"""Types are checked at run time in tests; float64 is set before any array exists."""

import os
from pathlib import Path

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
