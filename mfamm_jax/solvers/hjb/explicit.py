"""Fixed-step explicit Runge-Kutta in the gauge H - H(0): any problem, intensity, clamps, asymmetric decay."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import static_field
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.hjb.certificates import certificates, over_states
from mfamm_jax.solvers.hjb.problem import AbstractProblem, AbstractScheme, ValueTable

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

        def slope(relative):
            rate = problem.value_rate(relative)
            return rate - problem.gauge(rate), problem.gauge(rate)

        def substep(carry, _):
            relative, offset = carry
            k1, o1 = slope(relative)
            k2, o2 = slope(relative + 0.5 * step * k1)
            k3, o3 = slope(relative + 0.5 * step * k2)
            k4, o4 = slope(relative + step * k3)
            relative = relative + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            return (relative, offset + step / 6 * (o1 + 2 * o2 + 2 * o3 + o4)), None

        # Reverse mode keeps one value table row by row and repeats the steps within a row.
        @jax.checkpoint
        def row(carry, _):
            carry, _ = jax.lax.scan(substep, carry, length=self.n_substeps)
            return carry, carry

        start = problem.terminal_value(grid) if start is None else start
        # The full shape and dtype of a step, whatever axes the parameters bring.
        start = start + jnp.zeros_like(problem.value_rate(start) * step)
        first = problem.gauge(start)
        start = start - first
        _, (relative, offset) = jax.lax.scan(row, (start, first), length=grid.n_steps)
        relative = jnp.concatenate([start[None], relative])
        offset = jnp.concatenate([first[None], offset])
        times = jnp.linspace(0.0, 1.0, grid.n_steps + 1)
        table = ValueTable(jnp.multiply.outer(times, problem.horizon), relative, offset)
        rates = jax.vmap(problem.exit_rate)(jax.lax.stop_gradient(relative))
        rate_step = step * over_states(jnp.max, problem, rates)
        result = when(rate_step <= STABLE_RATE_STEP, RESULTS.successful, RESULTS.unstable_step)
        finite = over_states(jnp.all, problem, jnp.isfinite(relative)) & jnp.isfinite(offset).all(axis=0)
        result = when(finite, result, RESULTS.nonfinite)
        stats = {"n_steps": jnp.asarray(grid.n_steps * self.n_substeps), "rate_step": rate_step}
        return Solution(table, result, stats | certificates(problem, table))
