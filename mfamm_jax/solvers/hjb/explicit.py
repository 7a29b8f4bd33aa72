"""Fixed-step explicit Runge-Kutta in the gauge H - H(0): any intensity, clamps, asymmetric decay."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import static_field
from mfamm_jax.results import RESULTS, Solution
from mfamm_jax.solvers.hjb.problem import AbstractScheme, Grid, HJBProblem, ValueTable, indifference_costs

# RK4 is stable for dt |eigenvalue| <= 2.785; the generator's eigenvalues lie within twice the largest total fill rate.
STABLE_RATE_STEP = 2.785 / 2


def value_rate(
    problem: HJBProblem, inventory: Float[Array, " inventory"], relative_value: Float[Array, " inventory"]
) -> Float[Array, " inventory"]:
    r"""$dH/d\tau$, the right-hand side of the equation in `problem`."""
    bid_cost, ask_cost = indifference_costs(problem, relative_value)
    gain = jnp.pad(problem.hamiltonian(ask_cost, "ask"), (1, 0)) + jnp.pad(problem.hamiltonian(bid_cost, "bid"), (0, 1))
    return problem.drift * inventory - problem.inventory_penalty * inventory**2 + gain


def fill_rate(problem: HJBProblem, relative_value: Float[Array, " inventory"]) -> Float[Array, " inventory"]:
    """Total fill rate [1/s] of the optimal quotes per inventory: minus the slope of the Hamiltonians."""
    bid_cost, ask_cost = indifference_costs(problem, relative_value)

    def rate(cost, side):
        return -jax.vmap(jax.grad(lambda p: problem.hamiltonian(p, side)))(cost)

    return jnp.pad(rate(ask_cost, "ask"), (1, 0)) + jnp.pad(rate(bid_cost, "bid"), (0, 1))


class ExplicitRK(AbstractScheme):
    """Classical Runge-Kutta of order 4 with `n_substeps` equal steps between two rows of the table."""

    n_substeps: int = static_field(default=32, lower=1, help="Runge-Kutta steps per row of the table")

    def solve(self, problem: HJBProblem, grid: Grid) -> Solution:
        """Steps the value table; flags steps outside the stability bound."""
        inventory = grid.inventory
        middle = grid.max_inventory
        step = problem.horizon / (grid.n_steps * self.n_substeps)

        def slope(relative):
            rate = value_rate(problem, inventory, relative)
            return rate - rate[middle], rate[middle]

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

        start = -problem.terminal_penalty * inventory**2
        zero = jnp.zeros_like(problem.horizon + start[middle])
        _, (relative, offset) = jax.lax.scan(row, (start + zero, zero), length=grid.n_steps)
        relative = jnp.concatenate([start[None] + zero, relative])
        offset = jnp.concatenate([zero[None], offset])
        time_left = problem.horizon * jnp.linspace(0.0, 1.0, grid.n_steps + 1)
        rate_step = step * jnp.max(jax.vmap(lambda v: fill_rate(problem, v))(jax.lax.stop_gradient(relative)))
        result = RESULTS.where(rate_step <= STABLE_RATE_STEP, RESULTS.successful, RESULTS.unstable_step)
        finite = jnp.isfinite(relative).all() & jnp.isfinite(offset).all()
        result = RESULTS.where(finite, result, RESULTS.nonfinite)
        stats = {"n_steps": jnp.asarray(grid.n_steps * self.n_substeps), "rate_step": rate_step}
        return Solution(ValueTable(time_left, relative, offset), result, stats)
