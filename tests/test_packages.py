"""With MFAMM_STRICT set (as the gate does) a missing package of the full install is a failure, not a skip elsewhere."""

import importlib.util
import os

import pytest

PACKAGES = (
    *("jax", "jaxlib", "optax", "flax", "diffrax", "equinox", "numpy", "xgboost", "pywt", "ott", "distrax"),
    *("pennylane", "evosax", "pytest", "chex"),
)


@pytest.mark.parametrize("package", PACKAGES)
def test_package_is_installed(package):
    if importlib.util.find_spec(package) is None:
        if os.environ.get("MFAMM_STRICT"):
            pytest.fail(f"{package} is missing: install the extras full and test")
        pytest.skip(f"{package} is not installed (extra: full)")
