r"""Stationary limit: the long-run gain g per second and the relative value h with $g = F(h)$, $h(0) = 0$.

Far from the horizon $H(q, \tau) \to g\tau + h(q)$. Source: docs/equations.md, the HJB equation.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import static_field
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.closed_form import fluid_stationary_slope
from mfamm_jax.solvers.hjb.certificates import certificates
from mfamm_jax.solvers.hjb.problem import AbstractProblem, AbstractScheme, HJBProblem, ValueTable, indifference_costs


def generator(problem: HJBProblem, value: Float[Array, " inventory"]) -> Float[Array, "inventory inventory"]:
    """Generator of the inventory under the optimal quotes [1/s]; row q holds the rates out of q."""
    bid_cost, ask_cost = indifference_costs(problem, value)
    bid, ask = problem.hamiltonian_and_rate(bid_cost, "bid")[1], problem.hamiltonian_and_rate(ask_cost, "ask")[1]
    moves = jnp.diag(bid, 1) + jnp.diag(ask, -1)
    return moves - jnp.diag(moves.sum(axis=1))


def _first_guess(problem: HJBProblem, inventory: Float[Array, " inventory"]) -> Float[Array, " inventory"]:
    """The fluid value. Zero would do for small penalties; large ones throw the second policy far beyond the solution,
    from where an exponential brings it back by only 1/k per iteration.
    """
    zero = 0.0 * inventory
    if not (isinstance(problem.bid, ExponentialIntensity) and isinstance(problem.ask, ExponentialIntensity)):
        return zero
    side = ExponentialIntensity(
        jnp.sqrt(problem.bid.scale * problem.ask.scale), jnp.maximum(problem.bid.decay, problem.ask.decay)
    )
    between = 0.5 * (inventory[1:] + inventory[:-1])
    value = zero.at[1:].set(jnp.cumsum(fluid_stationary_slope(side, problem.inventory_penalty, between)))
    return value - value[inventory.size // 2]


class Ergodic(AbstractScheme):
    r"""Howard's policy iteration for the stationary problem: each step solves for the gain and value of one policy.

    The iterations run under `stop_gradient`; one more, with gradients, gives the derivative of the implicit function.
    `stats["gain"]` is g [price/s], `stats["residual"]` the largest violation of the equation [price/s]. With a CARA weight on fills and
    a lower depth limit no stationary solution need exist: a fill is worth at most $1/\xi$, which cannot pay for every
    penalty; the result is then not finite.

    Args:
        n_iterations: Policies tried; convergence is quadratic, 5 to 10 suffice.
    """

    n_iterations: int = static_field(default=20, lower=1, help="policy iterations")

    def solve(
        self, problem: AbstractProblem, grid: Any, start: Float[Array, "inventory *rest"] | None = None
    ) -> Solution:
        """Value table whose rows differ by the gain; the terminal penalty and `start` (a first guess) do not matter."""
        if not isinstance(problem, HJBProblem):
            raise ValueError(f"Ergodic solves an HJBProblem, not a {type(problem).__name__}")
        if problem.batch_shape:
            raise ValueError(
                f"Ergodic solves one parameter set, got a batch of shape {problem.batch_shape}: use jax.vmap"
            )
        middle = grid.max_inventory

        def improve(problem, value, gain):
            fixed = jax.lax.stop_gradient(generator(problem, value))
            # One unknown is the gain, in the place of the value at inventory 0, which is zero.
            system = fixed.at[:, middle].set(-1.0)
            step = jnp.linalg.solve(system, gain - problem.value_rate(value))
            return (value + step).at[middle].set(0.0), gain + step[middle]

        frozen = jax.lax.stop_gradient(problem)
        first = _first_guess(frozen, grid.inventory) if start is None else start - start[middle]

        def iterate(carry, _):
            return improve(frozen, *carry), None

        (value, gain), _ = jax.lax.scan(iterate, (first, jnp.zeros_like(first[0])), length=self.n_iterations)
        value, gain = improve(problem, *jax.lax.stop_gradient((value, gain)))
        time_left = problem.horizon * jnp.linspace(0.0, 1.0, grid.n_steps + 1)
        table = ValueTable(time_left, jnp.broadcast_to(value, (grid.n_steps + 1, value.size)), gain * time_left)
        last, last_gain = jax.lax.stop_gradient((value, gain))
        scale = jnp.max(jnp.abs(frozen.inventory_penalty * grid.inventory**2)) + jnp.max(frozen.exit_rate(last))
        residual = jnp.max(jnp.abs(frozen.value_rate(last) - last_gain))
        converged = residual <= 1e3 * jnp.finfo(value.dtype).eps * scale
        result = when(converged, RESULTS.successful, RESULTS.policy_not_converged)
        result = when(jnp.isfinite(value).all() & jnp.isfinite(gain), result, RESULTS.nonfinite)
        return Solution(table, result, {"gain": gain, "residual": residual} | certificates(problem, table))
