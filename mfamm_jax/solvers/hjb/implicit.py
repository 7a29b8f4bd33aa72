r"""L-stable diagonally implicit Runge-Kutta with Howard's policy iteration in every stage: long horizons, stiff penalties.

A stage solves $H = b + \gamma h\,F(H)$. Fixing the policy that is optimal for the last iterate makes F linear, and the system a
tridiagonal M-matrix: this is policy iteration, and Newton's method, quadratic from a warm start. The iterations run under
`stop_gradient`; the last one carries gradients, which by the implicit function theorem are those of the solution.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mfamm_jax.fields import static_field
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.hjb.problem import AbstractProblem, AbstractScheme, HJBProblem, indifference_costs
from mfamm_jax.solvers.hjb.steps import gauged_start, stepped_solution

# A last iteration that moved the quotes by less, relative to `price_scale`, leaves an error of its square.
HOWARD_TOLERANCE = 1e-2


class Tableau(NamedTuple):
    r"""Stiffly accurate method: the last stage is the step. Rows hold $a_{ij}$, j < i; `error` the embedded difference."""

    gamma: float
    rows: np.ndarray
    error: np.ndarray


_G = 1 - 1 / np.sqrt(2)
TABLEAUS = {
    # Backward Euler: monotone whatever the step.
    1: Tableau(1.0, np.zeros((1, 1)), np.array([0.5])),
    2: Tableau(_G, np.array([[0, 0], [1 - _G, 0]]), np.array([-_G, _G])),
    # Hairer and Wanner, Solving Ordinary Differential Equations II, table IV.6.5 (order 4, embedded 3).
    4: Tableau(
        0.25,
        np.array(
            [
                [0, 0, 0, 0, 0],
                [1 / 2, 0, 0, 0, 0],
                [17 / 50, -1 / 25, 0, 0, 0],
                [371 / 1360, -137 / 2720, 15 / 544, 0, 0],
                [25 / 24, -49 / 48, 125 / 16, -85 / 12, 0],
            ]
        ),
        np.array([-3 / 16, -27 / 32, 25 / 32, 0, 1 / 4]),
    ),
}


def solve_tridiagonal(lower: Array, diagonal: Array, upper: Array, right: Array) -> Array:
    """Thomas' algorithm along the leading axis, elementwise over the rest; stable without pivots for an M-matrix."""

    def eliminate(carry, row):
        before, value = carry
        low, middle, high, b = row
        pivot = 1 / (middle - low * before)
        carry = high * pivot, (b - low * value) * pivot
        return carry, carry

    def substitute(after, row):
        after = row[1] - row[0] * after
        return after, after

    zero = jnp.zeros_like(right[0])
    _, rows = jax.lax.scan(eliminate, (zero, zero), (lower, diagonal, upper, right))
    return jax.lax.scan(substitute, zero, rows, reverse=True)[1]


def howard_step(
    problem: HJBProblem, base: Array, value: Array, gamma_step: Array
) -> tuple[Float[Array, "inventory *batch"], Float[Array, "inventory *batch"], Float[Array, "*batch"]]:
    r"""One policy iteration for $H = b + \gamma h F(H)$: new relative value, its change, and $\gamma h F$ at inventory 0."""
    rate = problem.value_rate(value)
    offset = problem.gauge(rate)
    residual = base + gamma_step * (rate - offset) - value
    frozen, at, scale = jax.lax.stop_gradient((problem, value, gamma_step))
    bid_cost, ask_cost = indifference_costs(frozen, at, axis=0)
    bid, ask = (frozen.hamiltonian_and_rate(c, s)[1] * scale for c, s in ((bid_cost, "bid"), (ask_cost, "ask")))
    zero = jnp.zeros_like(at[:1])
    down, up = jnp.concatenate([zero, ask]), jnp.concatenate([bid, zero])
    change = solve_tridiagonal(-down, 1 + down + up, -up, residual)
    # The generator maps constants to zero, so solving in the gauge only shifts the change by one.
    middle = problem.gauge(change)
    return value + change - middle, change - middle, gamma_step * offset + middle


def implicit_step(
    problem: HJBProblem, tableau: Tableau, relative: Array, step: Array, n_iterations: int
) -> tuple[Array, Array, Array, Array]:
    """One step: relative value, rise of the offset, embedded error, and the last policy iterations' largest change."""
    gamma_step = tableau.gamma * step
    frozen, frozen_step = jax.lax.stop_gradient((problem, gamma_step))
    n_stages = len(tableau.rows)
    rows = jnp.asarray(tableau.rows, relative.dtype)

    def stage(carry, row):
        slopes, offset_slopes, guess, change = carry
        weights, index = row
        base = relative + jnp.tensordot(weights, slopes, 1)

        def iterate(value, _):
            return howard_step(frozen, jax.lax.stop_gradient(base), value, frozen_step)[0], None

        value, _ = jax.lax.scan(iterate, jax.lax.stop_gradient(guess), length=n_iterations - 1)
        value, moved, offset = howard_step(problem, base, value, gamma_step)
        slopes = slopes.at[index].set((value - base) / tableau.gamma)
        offset_slopes = offset_slopes.at[index].set(offset / tableau.gamma)
        change = jnp.maximum(change, jax.lax.stop_gradient(jnp.abs(jnp.diff(moved, axis=0)).max(axis=0)))
        return (slopes, offset_slopes, value, change), None

    slopes = jnp.zeros((n_stages, *relative.shape), relative.dtype)
    zero = jnp.zeros_like(problem.gauge(relative))
    carry = slopes, jnp.zeros((n_stages, *zero.shape), zero.dtype), relative, zero
    carry, _ = jax.lax.scan(stage, carry, (rows, jnp.arange(n_stages)))
    slopes, offset_slopes, value, change = carry
    error = jnp.tensordot(jnp.asarray(tableau.error, relative.dtype), slopes, 1)
    if n_stages == 1:
        rate = problem.value_rate(relative)
        error = error - 0.5 * step * (rate - problem.gauge(rate))
    last = jnp.asarray(tableau.rows[-1], relative.dtype).at[-1].set(tableau.gamma)
    return value, jnp.tensordot(last, offset_slopes, 1), jax.lax.stop_gradient(error), change


def price_scale(problem: HJBProblem, value: Array) -> Float[Array, "*batch"]:
    """Largest depth, or margin of a quote without limits where limits leave no depth [price]: what a quote's error is relative to."""
    problem, value = jax.lax.stop_gradient((problem, value))
    largest = jnp.zeros_like(problem.gauge(value))
    infinity = jnp.full_like(largest, jnp.inf)
    for cost, side in zip(indifference_costs(problem, value, axis=0), ("bid", "ask"), strict=True):
        free = getattr(problem, side).best_margin(cost, problem.fill_risk_aversion, -infinity, infinity)
        for price in (cost + problem.margin(cost, side), free):
            largest = jnp.maximum(largest, jnp.abs(jnp.nan_to_num(price)).max(axis=0))
    return largest


def single_asset(problem: AbstractProblem, scheme: str) -> HJBProblem:
    """The problem itself, or an error that says what to use instead."""
    if not isinstance(problem, HJBProblem):
        kind = type(problem).__name__
        raise ValueError(f"{scheme} solves an HJBProblem, not a {kind}: use ExplicitRK, or Strang for regimes")
    return problem


class Implicit(AbstractScheme):
    """`n_substeps` equal steps between two rows of the table; the work does not depend on the parameters: made for sweeps.

    Args:
        n_substeps: Steps per row.
        order: 1 backward Euler (monotone), 2 or 4 SDIRK.
        n_iterations: Policy iterations per stage.
    """

    n_substeps: int = static_field(default=32, lower=1, help="implicit steps per row of the table")
    order: Literal[1, 2, 4] = static_field(default=2, help="1 backward Euler, 2 or 4 SDIRK")
    n_iterations: int = static_field(default=5, lower=2, help="policy iterations per stage")

    def solve(
        self, problem: AbstractProblem, grid: Any, start: Float[Array, "inventory *rest"] | None = None
    ) -> Solution:
        """Steps the value table; `stats["howard_change"]` [price] is the last policy iterations' largest change of a quote."""
        problem = single_asset(problem, "Implicit")
        step = problem.horizon / (grid.n_steps * self.n_substeps)
        tableau = TABLEAUS[self.order]

        @partial(jax.checkpoint, prevent_cse=False)
        def substep(carry, _):
            relative, offset, _, change = carry
            after, rise, _, moved = implicit_step(problem, tableau, relative, step, self.n_iterations)
            return (after, offset + rise, jax.lax.stop_gradient(relative), jnp.maximum(change, moved)), None

        def row(carry, _):
            carry, _ = jax.lax.scan(substep, carry, length=self.n_substeps)
            return carry, carry[:2]

        first = gauged_start(problem, grid, start)
        carry = *first, first[0], jnp.zeros_like(first[1])
        (after, _, before, change), rows = jax.lax.scan(row, carry, length=grid.n_steps)
        tolerated = HOWARD_TOLERANCE * price_scale(problem, after)
        result = when(change <= tolerated, RESULTS.successful, RESULTS.policy_not_converged)
        stats = {"n_steps": jnp.asarray(grid.n_steps * self.n_substeps), "howard_change": change}
        return stepped_solution(problem, grid, first, rows, (before, after, step), result, stats)
