"""Fixed-step explicit Runge-Kutta in the gauge H - H(0): any problem, intensity, clamps, asymmetric decay."""

from functools import partial
from math import isqrt
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import static_field
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.hjb.certificates import over_states
from mfamm_jax.solvers.hjb.problem import AbstractProblem, AbstractScheme
from mfamm_jax.solvers.hjb.steps import gauged_rate, gauged_start, stepped_solution

# RK4 is stable for dt |eigenvalue| <= 2.785; the generator's eigenvalues lie within twice the largest exit rate.
STABLE_RATE_STEP = 2.785 / 2


class ExplicitRK(AbstractScheme):
    """Classical Runge-Kutta of order 4 with `n_substeps` equal steps between two rows of the table."""

    n_substeps: int = static_field(default=32, lower=1, help="Runge-Kutta steps per row of the table")

    def solve(
        self, problem: AbstractProblem, grid: Any, start: Float[Array, "inventory *rest"] | None = None
    ) -> Solution:
        """Steps the value table; flags steps outside the stability bound."""
        step = problem.horizon / (grid.n_steps * self.n_substeps)

        def substep(carry, _):
            relative, offset, _ = carry
            k1, o1 = gauged_rate(problem, relative)
            k2, o2 = gauged_rate(problem, relative + 0.5 * step * k1)
            k3, o3 = gauged_rate(problem, relative + 0.5 * step * k2)
            k4, o4 = gauged_rate(problem, relative + step * k3)
            after = relative + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            return (after, offset + step / 6 * (o1 + 2 * o2 + 2 * o3 + o4), jax.lax.stop_gradient(relative)), None

        # Reverse mode keeps the ends of blocks of some sqrt(n) steps, and the stages of the block at hand.
        n_block = isqrt(self.n_substeps)
        n_blocks, n_rest = divmod(self.n_substeps, n_block)

        @partial(jax.checkpoint, prevent_cse=False, static_argnums=1)
        def block(carry, n_steps):
            return jax.lax.scan(substep, carry, length=n_steps)[0]

        def row(carry, _):
            carry, _ = jax.lax.scan(lambda carry, _: (block(carry, n_block), None), carry, length=n_blocks)
            carry = block(carry, n_rest)
            return carry, carry[:2]

        first = gauged_start(problem, grid, start)
        (after, _, before), rows = jax.lax.scan(row, (*first, first[0]), length=grid.n_steps)
        rates = jax.vmap(problem.exit_rate)(jax.lax.stop_gradient(jnp.concatenate([first[0][None], rows[0]])))
        rate_step = step * over_states(jnp.max, problem, rates)
        result = when(rate_step <= STABLE_RATE_STEP, RESULTS.successful, RESULTS.unstable_step)
        stats = {"n_steps": jnp.asarray(grid.n_steps * self.n_substeps), "rate_step": rate_step}
        return stepped_solution(problem, grid, first, rows, (before, after, step), result, stats)
