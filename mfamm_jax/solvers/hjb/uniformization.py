r"""Equal decay and no active depth limit: $v = e^{kH}$ solves $dv/d\tau = A v$ with A tridiagonal (exact).

Both schemes sum the exponential of the shifted, entrywise non-negative matrix $A + cI$, so that nothing cancels and every entry of v
keeps its relative accuracy - quotes are logarithms of ratios of neighbours. A diagonalisation would lose them: it is
accurate in norm only.

The transform exists only for k+ = k-. The derivative in k+ - k-, where both sides have a decay of their own, comes from its
sensitivity equation, a sum over Gauss nodes; sides that share one decay array do not pay for it.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import static_field
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.hjb.certificates import certificates, over_states
from mfamm_jax.solvers.hjb.decay_difference import decay_difference, decay_difference_adjoint
from mfamm_jax.solvers.hjb.linear import (
    common_decay,
    diagonal_of,
    inventories,
    inverse_orders,
    linear_generator,
    most_norm,
    taylor_action,
    tridiagonal,
)
from mfamm_jax.solvers.hjb.problem import (
    AbstractProblem,
    AbstractScheme,
    Grid,
    HJBProblem,
    ValueTable,
    indifference_costs,
)
from mfamm_jax.solvers.hjb.steps import gauged_rate

# One Taylor sum covers this much of the shifted norm in the squaring scheme; more wastes terms, less wastes squarings.
SQUARING_NORM = 2.5


def _single_inventory(problem: AbstractProblem) -> HJBProblem:
    if not isinstance(problem, HJBProblem):
        raise ValueError(f"a linear scheme solves an HJBProblem, not a {type(problem).__name__}: use ExplicitRK")
    return problem


def _table(
    problem: HJBProblem,
    grid: Grid,
    start,
    log_v: Float[Array, "time inventory *batch"],
    norm,
    limit,
    in_logarithms=False,
    adjoint=False,
) -> Solution:
    """Value table from ln v per time; `norm` is the shifted norm a row's Taylor sums met, `limit` what they can take."""
    middle, decay = grid.max_inventory, common_decay(problem)
    relative = (log_v - log_v[:, middle, None]) / decay
    # v starts from the value in its gauge: the first offset comes on top.
    first = start[middle] + 0.0 * norm
    offset = jnp.concatenate([first[None], first + log_v[:, middle] / decay])
    relative = jnp.concatenate([(start - start[middle] + 0.0 * norm)[None], relative])
    if problem.bid.decay is not problem.ask.decay:
        half = 0.5 * (problem.ask.decay - problem.bid.decay)
        difference = decay_difference_adjoint if adjoint and not in_logarithms else decay_difference
        extra = difference(half, (problem, start), grid, limit, in_logarithms)
        relative, offset = relative + extra[0], offset + extra[1]
    times = jnp.linspace(0.0, 1.0, grid.n_steps + 1)
    table = ValueTable(jnp.multiply.outer(times, problem.horizon), relative, offset)

    frozen, unlimited = jax.lax.stop_gradient((problem, relative[1:]))
    binds = jnp.zeros(norm.shape, bool)
    for cost, side in zip(indifference_costs(frozen, unlimited, axis=1), ("bid", "ask"), strict=True):
        free = getattr(frozen, side).natural_margin(frozen.fill_risk_aversion)
        # A withdrawn side, whose margin is NaN, was not free either.
        stayed = jnp.abs(frozen.margin(cost, side) - free) <= 1e-6 * free
        binds = binds | ~stayed.all(axis=(0, 1))
    result = when(binds, RESULTS.clamp_binds, RESULTS.successful)
    result = when(norm <= limit, result, RESULTS.too_few_terms)
    result = when(frozen.bid.decay == frozen.ask.decay, result, RESULTS.unequal_decay)
    finite = jnp.isfinite(relative).all(axis=(0, 1)) & jnp.isfinite(offset).all(axis=0)
    result = when(finite, result, RESULTS.nonfinite)
    stats = {"norm": norm, "residual": _residual(frozen, unlimited[-1])}
    return Solution(table, result, stats | certificates(problem, table))


def _residual(problem: HJBProblem, relative: Float[Array, "inventory *batch"]) -> Float[Array, "*batch"]:
    r"""Largest difference [price/s] of $A v/(k v)$ from the right-hand side of the equation: what the transform rests on."""
    drift, penalty, to_lower, to_upper = linear_generator(problem)
    diagonal = diagonal_of(drift, penalty, relative.shape[0])
    decay = common_decay(problem)
    rise = jnp.exp(decay * jnp.diff(relative, axis=0))
    zero = jnp.zeros_like(relative[:1])
    below, above = jnp.concatenate([zero, to_lower / rise]), jnp.concatenate([to_upper * rise, zero])
    rate = (diagonal + below + above) / decay
    rate = rate - problem.gauge(rate)
    return over_states(jnp.max, problem, jnp.abs(rate - gauged_rate(problem, relative)[0]))


class Uniformization(AbstractScheme):
    r"""Scaling and squaring of the shifted matrix: cost grows with log(horizon).

    $E = \sum_{j \le m} N^j/j!$ with $N = (A + cI)\Delta/2^s$, then s squarings, each divided by its largest entry.

    Args:
        n_squarings: s.
        n_terms: m.
    """

    n_squarings: int = static_field(default=10, lower=0, help="squarings of the step matrix")
    n_terms: int = static_field(default=24, lower=4, help="Taylor terms")

    def solve(
        self, problem: AbstractProblem, grid: Grid, start: Float[Array, "inventory *batch"] | None = None
    ) -> Solution:
        """One step matrix, then one product per row of the table; trailing axes of a batch are mapped over."""
        problem = _single_inventory(problem)
        drift, penalty, to_lower, to_upper = linear_generator(problem)
        diagonal = diagonal_of(drift, penalty, grid.inventory.size)
        terminal = problem.terminal_value(grid) if start is None else start
        if to_lower.ndim:
            each = jax.tree.map(lambda x: jnp.broadcast_to(x, to_lower.shape), problem)
            terminal = jnp.broadcast_to(terminal, diagonal.shape)
            shared = problem.bid.decay is problem.ask.decay

            def one(p, start):
                # Mapping must not hide that the sides share their decay.
                p = eqx.tree_at(lambda p: p.bid.decay, p, p.ask.decay) if shared else p
                return self.solve(p, grid, start)

            return jax.vmap(one, in_axes=-1, out_axes=-1)(each, terminal)
        relative = terminal - problem.gauge(terminal)
        step = problem.horizon / grid.n_steps
        shift = -jnp.min(diagonal)
        scaled = step / 2**self.n_squarings
        shifted = (diagonal + shift)[:, None] * scaled

        def multiply(power, order):
            below = to_lower * scaled * jnp.pad(power[:-1], ((1, 0), (0, 0)))
            above = to_upper * scaled * jnp.pad(power[1:], ((0, 1), (0, 0)))
            return (shifted * power + below + above) / order

        def accumulate(carry, order):
            power, total = carry
            power = multiply(power, order)
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

        start = jnp.exp(common_decay(problem) * relative)
        _, log_v = jax.lax.scan(advance, (start, 0.0 * scaled), length=grid.n_steps)
        norm = (shift + jnp.max(diagonal) + to_lower + to_upper) * step
        return _table(problem, grid, terminal, log_v, norm, 2**self.n_squarings * most_norm(self.n_terms))


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _adjoint_action(start, drift, penalty, shift, below, above, n_terms):
    """As `_action` for the matrix with diagonal shift + drift q - penalty q^2 and constant off-diagonals."""
    return taylor_action(start, shift + diagonal_of(drift, penalty, start.shape[0]), below, above, n_terms)


def _adjoint_forward(start, drift, penalty, shift, below, above, n_terms):
    """Carries the sensitivities to drift and penalty along: no term of the sum is kept."""
    q = inventories(start.shape[0], drift)
    diagonal = shift + diagonal_of(drift, penalty, start.shape[0])

    def nest(carry, inverse_order):
        v, by_drift, by_penalty = carry
        after = start + tridiagonal(v, diagonal, below, above) * inverse_order
        by_drift = (tridiagonal(by_drift, diagonal, below, above) + q * v) * inverse_order
        by_penalty = (tridiagonal(by_penalty, diagonal, below, above) - q**2 * v) * inverse_order
        return (after, by_drift, by_penalty), None

    zero = jnp.zeros_like(start)
    (end, by_drift, by_penalty), _ = jax.lax.scan(nest, (start, zero, zero), inverse_orders(n_terms, start.dtype))
    return end, (start, drift, penalty, shift, below, above, end, by_drift, by_penalty)


def _adjoint_backward(n_terms, saved, end_bar):
    r"""One sum of the transposed matrix on the cotangent (forward Kolmogorov).

    The derivatives in the two off-diagonals follow from identities of the exponential instead of two more sums: scaling N,
    $\bar w^\top N w$, and conjugation by $e^{\epsilon D}$ with D = diag(q), which scales them against each other,
    $\bar s^\top D s - \bar w^\top D w$.
    """
    start, drift, penalty, shift, below, above, end, by_drift, by_penalty = saved
    diagonal = shift + diagonal_of(drift, penalty, start.shape[0])
    # The matrix transposed: what was below is above.
    start_bar = taylor_action(end_bar, diagonal, above, below, n_terms)
    shift_bar, drift_bar, penalty_bar = (jnp.sum(end_bar * x, axis=0) for x in (end, by_drift, by_penalty))
    # Without its largest entry the diagonal is small where v is large, and little cancels.
    top = jnp.max(diagonal, axis=0)
    q = inventories(start.shape[0], drift)
    both = jnp.sum(end_bar * tridiagonal(end, diagonal - top, below, above), axis=0)
    both = both - drift * drift_bar - penalty * penalty_bar - (shift - top) * shift_bar
    against = jnp.sum(q * (start_bar * start - end_bar * end), axis=0)
    below_bar, above_bar = 0.5 * (both - against) / below, 0.5 * (both + against) / above
    return start_bar, drift_bar, penalty_bar, shift_bar, below_bar, above_bar


_adjoint_action.defvjp(_adjoint_forward, _adjoint_backward)


class TaylorAction(AbstractScheme):
    r"""Taylor sums of the shifted matrix acting on the vector: three diagonals only, cost grows with the horizon.

    Args:
        n_substeps: Sums per row of the table.
        n_terms: Terms per sum; must exceed the shifted norm of a substep by about seven of its square roots.
        in_logarithms: Carry ln v and sum for v/v(before) instead: nothing underflows where v spans more than the numbers
            of the precision do, at about twice the work.
        adjoint: Reverse mode by the adjoint sum (forward Kolmogorov): memory of a few vectors per sum whatever its terms, a
            fraction of the time of differentiating them. Excludes forward mode; without effect in logarithms.
    """

    n_substeps: int = static_field(default=1, lower=1, help="Taylor sums per row of the table")
    n_terms: int = static_field(default=64, lower=4, help="Taylor terms")
    in_logarithms: bool = static_field(default=False, help="for values that span more than the precision's range")
    adjoint: bool = static_field(default=False, help="faster reverse mode, no forward mode")

    def solve(
        self, problem: AbstractProblem, grid: Grid, start: Float[Array, "inventory *batch"] | None = None
    ) -> Solution:
        """Applies the exponential row by row."""
        problem = _single_inventory(problem)
        drift, penalty, to_lower, to_upper = linear_generator(problem)
        diagonal = diagonal_of(drift, penalty, grid.inventory.size)
        terminal = problem.terminal_value(grid) if start is None else start
        relative = terminal - problem.gauge(terminal)
        step = problem.horizon / (grid.n_steps * self.n_substeps)
        # Exact for any shift: it carries no derivative.
        shift = jax.lax.stop_gradient(-jnp.min(diagonal, axis=0))
        shifted, below, above = (diagonal + shift) * step, to_lower * step, to_upper * step

        def plain(carry, _):
            v, log_scale = carry
            if self.adjoint:
                v = _adjoint_action(v, drift * step, penalty * step, shift * step, below, above, self.n_terms)
            else:
                v = taylor_action(v, shifted, below, above, self.n_terms)
            top = jax.lax.stop_gradient(jnp.max(v, axis=0))
            return (v / top, log_scale + jnp.log(top) - shift * step), below + above

        def logarithmic(carry, _):
            # v = d w with d = v before the substep: the neighbours of w enter with the ratios of d, w starts at one.
            log_v, log_scale = carry
            rise, one = jnp.diff(log_v, axis=0), jnp.ones_like(log_v[:1])
            to_lower = below * jnp.concatenate([one, jnp.exp(-rise)])
            to_upper = above * jnp.concatenate([jnp.exp(rise), one])
            log_w = jnp.log(taylor_action(jnp.ones_like(log_v), shifted, to_lower, to_upper, self.n_terms))
            middle = log_w[grid.max_inventory]
            return (log_v + log_w - middle, log_scale + middle - shift * step), jnp.max(to_lower + to_upper, axis=0)

        substep = logarithmic if self.in_logarithms else plain

        def row(carry, _):
            carry, rates = jax.lax.scan(substep, carry, length=self.n_substeps)
            log_v = carry[0] if self.in_logarithms else jnp.log(carry[0])
            return carry, (log_v + carry[1], jnp.max(rates, axis=0))

        start = common_decay(problem) * relative + 0.0 * shifted
        start = start if self.in_logarithms else jnp.exp(start)
        _, (log_v, rates) = jax.lax.scan(row, (start, 0.0 * shift), length=grid.n_steps)
        norm = ((shift + jnp.max(diagonal, axis=0)) * step + jnp.max(rates, axis=0)) * self.n_substeps
        limit = self.n_substeps * most_norm(self.n_terms)
        return _table(problem, grid, terminal, log_v, norm, limit, self.in_logarithms, self.adjoint)
