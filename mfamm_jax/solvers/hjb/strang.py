"""Strang splitting of regimes or a signal from inventory: each part is solved by what suits it."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import static_field
from mfamm_jax.models.intensity import log1p_ratio, utility
from mfamm_jax.results import RESULTS, Solution, when, worst
from mfamm_jax.solvers.hjb.certificates import over_states
from mfamm_jax.solvers.hjb.problem import AbstractProblem, AbstractScheme, Grid
from mfamm_jax.solvers.hjb.states import RegimeProblem
from mfamm_jax.solvers.hjb.steps import gauged_start, stepped_solution


class Strang(AbstractScheme):
    r"""Half a step of the chain, a step of `inner` in every regime at once, half a step of the chain; order 2.

    The chain's half step is exact: $e^{hG/2}$ applied to H or, with CARA weight $\zeta$, to $e^{-\zeta H}$, which is what the
    chain's part of the equation makes linear.

    Args:
        inner: Scheme for the problem of each regime over one step.
        n_substeps: Splitting steps per row of the table.
    """

    inner: AbstractScheme
    n_substeps: int = static_field(default=32, lower=1, help="splitting steps per row of the table")

    def solve(
        self, problem: AbstractProblem, grid: Any, start: Float[Array, "inventory *rest"] | None = None
    ) -> Solution:
        """Steps the value table."""
        if not isinstance(problem, RegimeProblem):
            raise ValueError(f"Strang splits a RegimeProblem, not a {type(problem).__name__}")
        step = problem.horizon / (grid.n_steps * self.n_substeps)
        half = jax.scipy.linalg.expm(0.5 * step * problem.generator)
        averse = problem.regime_risk_aversion
        n_regimes = problem.generator.shape[0]
        part = eqx.tree_at(lambda p: p.horizon, problem.regimes, jnp.broadcast_to(step, (n_regimes,)))

        def switch(value):
            mean = jnp.sum(half * utility(value[:, None, :] - value[:, :, None], averse), axis=-1)
            return value + mean * log1p_ratio(-averse * mean)

        def substep(carry, _):
            relative, offset, _, result = carry
            inner = self.inner.solve(part, Grid(grid.max_inventory), switch(relative))
            after = switch(inner.value.initial_value)
            rise = problem.gauge(after)
            result = when(result == RESULTS.successful, worst(inner.result), result)
            return (after - rise, offset + rise, jax.lax.stop_gradient(relative), result), None

        @partial(jax.checkpoint, prevent_cse=False)
        def row(carry, _):
            carry, _ = jax.lax.scan(substep, carry, length=self.n_substeps)
            return carry, carry[:2]

        first = gauged_start(problem, grid, start)
        carry = *first, first[0], when(jnp.asarray(True), RESULTS.successful, RESULTS.nonfinite)
        (after, _, before, result), rows = jax.lax.scan(row, carry, length=grid.n_steps)
        stats = {"n_steps": jnp.asarray(grid.n_steps * self.n_substeps)}
        rates = over_states(jnp.max, problem, problem.exit_rate(jax.lax.stop_gradient(after)))
        stats["rate_step"] = step * rates
        return stepped_solution(problem, grid, first, rows, (before, after, step), result, stats)
