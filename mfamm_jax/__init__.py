"""Market-making models as pure, differentiable JAX functions.

Names are loaded on first use, so that the command line can answer `--help` without importing jax.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "ExponentialIntensity": "mfamm_jax.models",
    "LogLinearScale": "mfamm_jax.models",
    "ExplicitRK": "mfamm_jax.solvers.hjb",
    "Grid": "mfamm_jax.solvers.hjb",
    "HJBProblem": "mfamm_jax.solvers.hjb",
    "TaylorAction": "mfamm_jax.solvers.hjb",
    "Uniformization": "mfamm_jax.solvers.hjb",
    "choose_scheme": "mfamm_jax.solvers.hjb",
    "optimal_depths": "mfamm_jax.solvers.hjb",
    "rulebook_penalty": "mfamm_jax.solvers.hjb",
    "solve_hjb": "mfamm_jax.solvers.hjb",
    "RESULTS": "mfamm_jax.results",
    "Solution": "mfamm_jax.results",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mfamm_jax' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
