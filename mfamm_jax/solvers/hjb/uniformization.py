r"""Equal decay and no active depth limit: $v = e^{kH}$ solves $dv/d\tau = A v$ with A tridiagonal (exact).

Both schemes sum the exponential of the shifted, entrywise non-negative matrix $A + cI$, so that nothing cancels and every entry of v
keeps its relative accuracy - quotes are logarithms of ratios of neighbours. A diagonalisation would lose them: it is
accurate in norm only.

The transform exists only for k+ = k-: derivatives are right in every parameter and in the common decay (move both sides
together); for the derivative in one side's decay alone use `ExplicitRK`.
"""

from math import ceil

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import static_field
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.results import RESULTS, Solution
from mfamm_jax.solvers.hjb.certificates import certificates
from mfamm_jax.solvers.hjb.problem import AbstractProblem, AbstractScheme, Grid, HJBProblem, ValueTable, optimal_depths

# One Taylor sum covers this much of the shifted norm in the squaring scheme; more wastes terms, less wastes squarings.
SQUARING_NORM = 2.5


def linear_generator(
    problem: HJBProblem, grid: Grid
) -> tuple[Float[Array, " inventory"], Float[Array, ""], Float[Array, ""]]:
    r"""Diagonal of A and its two constant off-diagonals: A[q, q-1] (ask fills) and A[q, q+1] (bid fills) [1/s]."""
    bid, ask = problem.bid, problem.ask
    if not (isinstance(bid, ExponentialIntensity) and isinstance(ask, ExponentialIntensity)):
        raise ValueError(f"a linear scheme needs ExponentialIntensity on both sides, got {bid} and {ask}")
    q = grid.inventory
    diagonal = ask.decay * (problem.drift * q - problem.inventory_penalty * q**2)
    to_lower = jnp.exp(ask.log_coupling(problem.fill_risk_aversion) - ask.decay * problem.ask_adverse_selection)
    to_upper = jnp.exp(bid.log_coupling(problem.fill_risk_aversion) - bid.decay * problem.bid_adverse_selection)
    return diagonal, to_lower, to_upper


def _single_inventory(problem: AbstractProblem) -> HJBProblem:
    if not isinstance(problem, HJBProblem):
        raise ValueError(f"a linear scheme solves an HJBProblem, not a {type(problem).__name__}: use ExplicitRK")
    return problem


def _table(problem: HJBProblem, grid: Grid, start, log_v: Float[Array, "time inventory"], norm, limit) -> Solution:
    """Value table from ln v per time; `norm` is the shifted norm the Taylor sum met, `limit` what it can take."""
    middle, decay = grid.max_inventory, problem.ask.decay
    relative = (log_v - log_v[:, middle, None]) / decay
    # v starts from the value in its gauge: the first offset comes on top.
    first = start[middle]
    offset = first + jnp.concatenate([jnp.zeros(1, log_v.dtype), log_v[:, middle] / decay])
    table = ValueTable(
        problem.horizon * jnp.linspace(0.0, 1.0, grid.n_steps + 1),
        jnp.concatenate([(start - first)[None], relative]),
        offset,
    )
    unlimited = jax.lax.stop_gradient(relative)
    bid, ask = optimal_depths(problem, unlimited)
    free_margin = problem.ask.natural_margin(problem.fill_risk_aversion)
    rise = unlimited[:, 1:] - unlimited[:, :-1]
    # The clamp binds where the best depth within the limits is not cost + natural margin.
    tolerance = 1e-6 * free_margin
    gap_bid = jnp.abs(bid[:, :-1] - (problem.bid_adverse_selection - rise + free_margin))
    gap_ask = jnp.abs(ask[:, 1:] - (problem.ask_adverse_selection + rise + free_margin))
    binds = (jnp.maximum(gap_bid, gap_ask) > tolerance).any() & (
        jnp.isfinite(problem.min_depth) | jnp.isfinite(problem.max_depth)
    )
    result = RESULTS.where(binds, RESULTS.clamp_binds, RESULTS.successful)
    result = RESULTS.where(norm <= limit, result, RESULTS.too_few_terms)
    result = RESULTS.where(problem.bid.decay == problem.ask.decay, result, RESULTS.unequal_decay)
    finite = jnp.isfinite(relative).all() & jnp.isfinite(offset).all()
    result = RESULTS.where(finite, result, RESULTS.nonfinite)
    return Solution(table, result, {"norm": norm} | certificates(problem, table))


class Uniformization(AbstractScheme):
    r"""Scaling and squaring of the shifted matrix: cost grows with log(horizon).

    $E = \sum_{j \le m} N^j/j!$ with $N = (A + cI)\Delta/2^s$, then s squarings, each divided by its largest entry.

    Args:
        n_squarings: s.
        n_terms: m.
    """

    n_squarings: int = static_field(default=10, lower=0, help="squarings of the step matrix")
    n_terms: int = static_field(default=24, lower=4, help="Taylor terms")

    def solve(self, problem: AbstractProblem, grid: Grid, start: Float[Array, " inventory"] | None = None) -> Solution:
        """One step matrix, then one product per row of the table."""
        problem = _single_inventory(problem)
        diagonal, to_lower, to_upper = linear_generator(problem, grid)
        terminal = problem.terminal_value(grid) if start is None else start
        relative = terminal - problem.gauge(terminal)
        step = problem.horizon / grid.n_steps
        shift = -jnp.min(diagonal)
        scaled = step / 2**self.n_squarings
        shifted = (diagonal + shift)[:, None] * scaled

        def multiply(power, order):
            below = to_lower * scaled * jnp.pad(power[:-1], ((1, 0), (0, 0)))
            above = to_upper * scaled * jnp.pad(power[1:], ((0, 1), (0, 0)))
            power = (shifted * power + below + above) / order
            return power, None

        def accumulate(carry, order):
            power, total = carry
            power, _ = multiply(power, order)
            return (power, total + power), None

        eye = jnp.eye(diagonal.size, dtype=diagonal.dtype) + 0.0 * scaled
        orders = jnp.arange(1, self.n_terms + 1, dtype=diagonal.dtype)
        (_, matrix), _ = jax.lax.scan(accumulate, (eye, eye), orders)

        def square(carry, _):
            matrix, log_scale = carry
            matrix = jnp.matmul(matrix, matrix, precision="highest")
            top = jax.lax.stop_gradient(jnp.max(matrix))
            return (matrix / top, 2 * log_scale + jnp.log(top)), None

        (matrix, log_scale), _ = jax.lax.scan(square, (matrix, 0.0 * scaled), length=self.n_squarings)

        def advance(carry, _):
            v, log_v_scale = carry
            v = jnp.matmul(matrix, v, precision="highest")
            top = jax.lax.stop_gradient(jnp.max(v))
            carry = (v / top, log_v_scale + log_scale + jnp.log(top) - shift * step)
            return carry, jnp.log(carry[0]) + carry[1]

        start = jnp.exp(problem.ask.decay * relative)
        _, log_v = jax.lax.scan(advance, (start, 0.0 * scaled), length=grid.n_steps)
        norm = (shift + jnp.max(diagonal) + to_lower + to_upper) * scaled
        return _table(problem, grid, terminal, log_v, norm, most_norm(self.n_terms))


class TaylorAction(AbstractScheme):
    r"""Taylor sums of the shifted matrix acting on the vector: three diagonals only, cost grows with the horizon.

    Args:
        n_substeps: Sums per row of the table.
        n_terms: Terms per sum; must exceed the shifted norm of a substep by about seven of its square roots.
        in_logarithms: Carry ln v and sum for v/v(before) instead: nothing underflows where v spans more than the numbers
            of the precision do, at about twice the work.
    """

    n_substeps: int = static_field(default=1, lower=1, help="Taylor sums per row of the table")
    n_terms: int = static_field(default=64, lower=4, help="Taylor terms")
    in_logarithms: bool = static_field(default=False, help="for values that span more than the precision's range")

    def solve(self, problem: AbstractProblem, grid: Grid, start: Float[Array, " inventory"] | None = None) -> Solution:
        """Applies the exponential row by row."""
        problem = _single_inventory(problem)
        diagonal, to_lower, to_upper = linear_generator(problem, grid)
        terminal = problem.terminal_value(grid) if start is None else start
        relative = terminal - problem.gauge(terminal)
        step = problem.horizon / (grid.n_steps * self.n_substeps)
        shift = -jnp.min(diagonal)
        shifted, below, above = (diagonal + shift) * step, to_lower * step, to_upper * step
        inverse_orders = 1 / jnp.arange(self.n_terms, 0, -1, dtype=diagonal.dtype)

        def exponential(start, below, above):
            def nest(v, inverse_order):
                # Horner's form v + N/1 (v + N/2 (v + ...)) carries one vector where term and sum would be two.
                neighbours = below * jnp.pad(v[:-1], (1, 0)) + above * jnp.pad(v[1:], (0, 1))
                return start + (shifted * v + neighbours) * inverse_order, None

            return jax.lax.scan(nest, start, inverse_orders)[0]

        def plain(carry, _):
            v, log_scale = carry
            v = exponential(v, below, above)
            top = jax.lax.stop_gradient(jnp.max(v))
            return (v / top, log_scale + jnp.log(top) - shift * step), below + above

        def logarithmic(carry, _):
            # v = d w with d = v before the substep: the neighbours of w enter with the ratios of d, w starts at one.
            log_v, log_scale = carry
            rise = log_v[1:] - log_v[:-1]
            to_lower, to_upper = below * jnp.pad(jnp.exp(-rise), (1, 0)), above * jnp.pad(jnp.exp(rise), (0, 1))
            log_w = jnp.log(exponential(jnp.ones_like(log_v), to_lower, to_upper))
            middle = log_w[grid.max_inventory]
            return (log_v + log_w - middle, log_scale + middle - shift * step), jnp.max(to_lower + to_upper)

        substep = logarithmic if self.in_logarithms else plain

        def row(carry, _):
            carry, rates = jax.lax.scan(substep, carry, length=self.n_substeps)
            log_v = carry[0] if self.in_logarithms else jnp.log(carry[0])
            return carry, (log_v + carry[1], jnp.max(rates))

        start = problem.ask.decay * relative + 0.0 * step
        start = start if self.in_logarithms else jnp.exp(start)
        _, (log_v, rates) = jax.lax.scan(row, (start, 0.0 * step), length=grid.n_steps)
        norm = (shift + jnp.max(diagonal)) * step + jnp.max(rates)
        return _table(problem, grid, terminal, log_v, norm, most_norm(self.n_terms))


def most_norm(n_terms: int) -> float:
    r"""Largest shifted norm $\rho$ with $\rho + 7\sqrt\rho + 8 \le$ `n_terms`: then the neglected tail is below 1e-15."""
    root = (-7 + (49 + 4 * max(n_terms - 8, 0)) ** 0.5) / 2
    return root**2


def terms_for(norm: float) -> int:
    """Inverse of `most_norm`."""
    return ceil(norm + 7 * norm**0.5 + 8)
