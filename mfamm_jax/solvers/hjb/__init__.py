"""Optimal quotes from the Hamilton-Jacobi-Bellman equation (8)-(10)."""

from mfamm_jax.solvers.hjb.choose import choose_scheme
from mfamm_jax.solvers.hjb.explicit import ExplicitRK
from mfamm_jax.solvers.hjb.problem import (
    AbstractScheme,
    Grid,
    HJBProblem,
    ValueTable,
    indifference_costs,
    optimal_depths,
    rulebook_penalty,
    solve_hjb,
)
from mfamm_jax.solvers.hjb.uniformization import TaylorAction, Uniformization

__all__ = [
    "AbstractScheme",
    "ExplicitRK",
    "Grid",
    "HJBProblem",
    "TaylorAction",
    "Uniformization",
    "ValueTable",
    "choose_scheme",
    "indifference_costs",
    "optimal_depths",
    "rulebook_penalty",
    "solve_hjb",
]
