"""Optimal quotes from the Hamilton-Jacobi-Bellman equation (8)-(10)."""

from mfamm_jax.solvers.hjb.choose import choose_scheme
from mfamm_jax.solvers.hjb.ergodic import Ergodic
from mfamm_jax.solvers.hjb.explicit import ExplicitRK
from mfamm_jax.solvers.hjb.fluid import fluid_limit
from mfamm_jax.solvers.hjb.han_wong import HanWong
from mfamm_jax.solvers.hjb.implicit import Implicit
from mfamm_jax.solvers.hjb.problem import (
    AbstractProblem,
    AbstractScheme,
    Grid,
    HJBProblem,
    ValueTable,
    indifference_costs,
    optimal_depths,
    rulebook_penalty,
    solve_hjb,
)
from mfamm_jax.solvers.hjb.states import (
    BoxGrid,
    MultiAssetProblem,
    RegimeProblem,
    signal_generator,
    solve_intervals,
)
from mfamm_jax.solvers.hjb.strang import Strang
from mfamm_jax.solvers.hjb.sweep import solve_sweep
from mfamm_jax.solvers.hjb.uniformization import TaylorAction, Uniformization

__all__ = [
    "AbstractProblem",
    "AbstractScheme",
    "BoxGrid",
    "Ergodic",
    "ExplicitRK",
    "Grid",
    "HJBProblem",
    "HanWong",
    "Implicit",
    "MultiAssetProblem",
    "RegimeProblem",
    "Strang",
    "TaylorAction",
    "Uniformization",
    "ValueTable",
    "choose_scheme",
    "fluid_limit",
    "indifference_costs",
    "optimal_depths",
    "rulebook_penalty",
    "signal_generator",
    "solve_hjb",
    "solve_intervals",
    "solve_sweep",
]
