"""Optimal quotes, their sensitivity and a sweep, in ten lines."""

import jax
import jax.numpy as jnp

from mfamm_jax.models import ExponentialIntensity
from mfamm_jax.solvers.hjb import Grid, HJBProblem, choose_scheme, optimal_depths, rulebook_penalty, solve_hjb

fills = ExponentialIntensity(scale=1.0, decay=1.5)
grid = Grid(max_inventory=5, n_steps=1)
scheme, why = choose_scheme(HJBProblem(bid=fills, ask=fills, inventory_penalty=0.02), grid)


def half_spread(risk_aversion):
    """Half spread at zero inventory."""
    problem = HJBProblem(bid=fills, ask=fills, inventory_penalty=rulebook_penalty(risk_aversion, 0.3))
    bid, ask = optimal_depths(problem, solve_hjb(problem, scheme, grid).value.relative_value[-1])
    return 0.5 * (bid[grid.max_inventory] + ask[grid.max_inventory])


if __name__ == "__main__":
    risk_aversion = jnp.array([0.05, 0.1, 0.2])
    quotes = jax.jit(jax.vmap(jax.value_and_grad(half_spread)))(risk_aversion)
    print(why, risk_aversion, *quotes, sep="\n")  # noqa: T201
