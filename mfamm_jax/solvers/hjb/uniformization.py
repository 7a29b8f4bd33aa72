r"""Equal decay and no active depth limit: $v = e^{kH}$ solves $dv/d\tau = A v$ with A tridiagonal (exact).

Both schemes sum the exponential of the shifted, entrywise non-negative matrix $A + cI$, so that nothing cancels and every entry of v
keeps its relative accuracy - quotes are logarithms of ratios of neighbours. A diagonalisation would lose them: it is
accurate in norm only.

The transform exists only for k+ = k-. The derivative in k+ - k-, where both sides have a decay of their own, comes from the
sensitivity equation by explicit steps, and costs what those cost; sides that share one decay do not pay for it.
"""

from functools import partial
from math import ceil
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mfamm_jax.fields import static_field
from mfamm_jax.models.intensity import ExponentialIntensity
from mfamm_jax.results import RESULTS, Solution, when
from mfamm_jax.solvers.hjb.certificates import certificates, over_states
from mfamm_jax.solvers.hjb.explicit import ExplicitRK
from mfamm_jax.solvers.hjb.problem import (
    AbstractProblem,
    AbstractScheme,
    Grid,
    HJBProblem,
    ValueTable,
    column,
    indifference_costs,
)
from mfamm_jax.solvers.hjb.steps import gauged_rate

# One Taylor sum covers this much of the shifted norm in the squaring scheme; more wastes terms, less wastes squarings.
SQUARING_NORM = 2.5
# Explicit steps per unit of the norm, for the derivative in the difference of the decays.
STEPS_PER_NORM = 8


def linear_generator(
    problem: HJBProblem,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"], Float[Array, "*batch"], Float[Array, "*batch"]]:
    r"""A by its four numbers [1/s]: $k\mu$ and $k\phi$ of the diagonal, A[q, q-1] (ask fills) and A[q, q+1] (bid fills)."""
    bid, ask, decay = problem.bid, problem.ask, common_decay(problem)
    drift, penalty = decay * problem.drift, decay * problem.inventory_penalty
    to_lower = jnp.exp(ask.log_coupling(problem.fill_risk_aversion) - ask.decay * problem.ask_adverse_selection)
    to_upper = jnp.exp(bid.log_coupling(problem.fill_risk_aversion) - bid.decay * problem.bid_adverse_selection)
    drift, penalty, to_lower, to_upper, _ = jnp.broadcast_arrays(drift, penalty, to_lower, to_upper, problem.horizon)
    return drift, penalty, to_lower, to_upper


def _diagonal(
    drift: Float[Array, "*batch"], penalty: Float[Array, "*batch"], n_inventories: int
) -> Float[Array, "inventory *batch"]:
    q = _inventories(n_inventories, drift)
    return drift * q - penalty * q**2


def _inventories(n: int, like: Float[Array, "*batch"]) -> Float[Array, "inventory *ones"]:
    return column(jnp.arange(n, dtype=like.dtype) - n // 2, like.ndim)


def common_decay(problem: HJBProblem) -> Float[Array, "*batch"]:
    """Mean of both, so that each side carries half of the derivative."""
    bid, ask = problem.bid, problem.ask
    if not (isinstance(bid, ExponentialIntensity) and isinstance(ask, ExponentialIntensity)):
        raise ValueError(f"a linear scheme needs ExponentialIntensity on both sides, got {bid} and {ask}")
    return ask.decay if bid.decay is ask.decay else 0.5 * (bid.decay + ask.decay)


def _single_inventory(problem: AbstractProblem) -> HJBProblem:
    if not isinstance(problem, HJBProblem):
        raise ValueError(f"a linear scheme solves an HJBProblem, not a {type(problem).__name__}: use ExplicitRK")
    return problem


def _table(
    problem: HJBProblem, grid: Grid, start, log_v: Float[Array, "time inventory *batch"], norm, limit
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
        n_substeps = ceil(STEPS_PER_NORM * limit)
        extra = _decay_difference(half, (problem, start), grid, n_substeps)
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
    diagonal = _diagonal(drift, penalty, relative.shape[0])
    decay = common_decay(problem)
    rise = jnp.exp(decay * jnp.diff(relative, axis=0))
    zero = jnp.zeros_like(relative[:1])
    below, above = jnp.concatenate([zero, to_lower / rise]), jnp.concatenate([to_upper * rise, zero])
    rate = (diagonal + below + above) / decay
    rate = rate - problem.gauge(rate)
    return over_states(jnp.max, problem, jnp.abs(rate - gauged_rate(problem, relative)[0]))


def _explicit_rows(half, rest, grid, n_substeps):
    """Rows of the table for decays k - half (bid) and k + half (ask)."""
    problem, start = rest
    k = common_decay(problem)
    sides = [eqx.tree_at(lambda s: s.decay, s, k + d) for s, d in ((problem.bid, -half), (problem.ask, half))]
    table = (
        ExplicitRK(n_substeps).solve(eqx.tree_at(lambda p: (p.bid, p.ask), problem, tuple(sides)), grid, start).value
    )
    return table.relative_value, table.offset


@partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _decay_difference(half, rest, grid, n_substeps):
    """Zero, whose derivative in `half` is that of the rows of the table."""
    rows = jax.eval_shape(lambda: _explicit_rows(half, rest, grid, n_substeps))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), rows)


@_decay_difference.defjvp
def _decay_difference_jvp(grid, n_substeps, primals, tangents):
    half, rest = primals
    zero = _decay_difference(half, rest, grid, n_substeps)
    # One forward sensitivity, which reverse mode only multiplies: it is linear in the one number per row.
    slope = jax.jvp(lambda h: _explicit_rows(h, rest, grid, n_substeps), (half,), (jnp.ones_like(half),))[1]
    return zero, jax.tree.map(lambda x: x * tangents[0], slope)


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
        diagonal = _diagonal(drift, penalty, grid.inventory.size)
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


def _tridiagonal(v: Array, diagonal: Array, below: Array, above: Array) -> Array:
    """N v; `below` multiplies the entry before, `above` the one after."""
    zero = jnp.zeros_like(v[:1])
    return diagonal * v + below * jnp.concatenate([zero, v[:-1]]) + above * jnp.concatenate([v[1:], zero])


def _orders(n_terms: int, dtype: Any) -> Float[Array, " term"]:
    return 1 / jnp.arange(n_terms, 0, -1, dtype=dtype)


def _action(start: Array, diagonal: Array, below: Array, above: Array, n_terms: int) -> Array:
    """The Taylor sum of e^N applied to a vector."""

    def nest(v, inverse_order):
        # Horner's form v + N/1 (v + N/2 (v + ...)) carries one vector where term and sum would be two.
        return start + _tridiagonal(v, diagonal, below, above) * inverse_order, None

    return jax.lax.scan(nest, start, _orders(n_terms, start.dtype))[0]


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _adjoint_action(start, drift, penalty, shift, below, above, n_terms):
    """As `_action` for the matrix with diagonal shift + drift q - penalty q^2 and constant off-diagonals."""
    return _action(start, shift + _diagonal(drift, penalty, start.shape[0]), below, above, n_terms)


def _adjoint_forward(start, drift, penalty, shift, below, above, n_terms):
    """Carries the sensitivities to drift and penalty along: no term of the sum is kept."""
    q = _inventories(start.shape[0], drift)
    diagonal = shift + _diagonal(drift, penalty, start.shape[0])

    def nest(carry, inverse_order):
        v, by_drift, by_penalty = carry
        after = start + _tridiagonal(v, diagonal, below, above) * inverse_order
        by_drift = (_tridiagonal(by_drift, diagonal, below, above) + q * v) * inverse_order
        by_penalty = (_tridiagonal(by_penalty, diagonal, below, above) - q**2 * v) * inverse_order
        return (after, by_drift, by_penalty), None

    zero = jnp.zeros_like(start)
    (end, by_drift, by_penalty), _ = jax.lax.scan(nest, (start, zero, zero), _orders(n_terms, start.dtype))
    return end, (start, drift, penalty, shift, below, above, end, by_drift, by_penalty)


def _adjoint_backward(n_terms, saved, end_bar):
    r"""One sum of the transposed matrix on the cotangent (forward Kolmogorov).

    The derivatives in the two off-diagonals follow from identities of the exponential instead of two more sums: scaling N,
    $\bar w^\top N w$, and conjugation by $e^{\epsilon D}$ with D = diag(q), which scales them against each other,
    $\bar s^\top D s - \bar w^\top D w$.
    """
    start, drift, penalty, shift, below, above, end, by_drift, by_penalty = saved
    diagonal = shift + _diagonal(drift, penalty, start.shape[0])
    # The matrix transposed: what was below is above.
    start_bar = _action(end_bar, diagonal, above, below, n_terms)
    shift_bar, drift_bar, penalty_bar = (jnp.sum(end_bar * x, axis=0) for x in (end, by_drift, by_penalty))
    # Without its largest entry the diagonal is small where v is large, and little cancels.
    top = jnp.max(diagonal, axis=0)
    q = _inventories(start.shape[0], drift)
    both = jnp.sum(end_bar * _tridiagonal(end, diagonal - top, below, above), axis=0)
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
        diagonal = _diagonal(drift, penalty, grid.inventory.size)
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
                v = _action(v, shifted, below, above, self.n_terms)
            top = jax.lax.stop_gradient(jnp.max(v, axis=0))
            return (v / top, log_scale + jnp.log(top) - shift * step), below + above

        def logarithmic(carry, _):
            # v = d w with d = v before the substep: the neighbours of w enter with the ratios of d, w starts at one.
            log_v, log_scale = carry
            rise, one = jnp.diff(log_v, axis=0), jnp.ones_like(log_v[:1])
            to_lower = below * jnp.concatenate([one, jnp.exp(-rise)])
            to_upper = above * jnp.concatenate([jnp.exp(rise), one])
            log_w = jnp.log(_action(jnp.ones_like(log_v), shifted, to_lower, to_upper, self.n_terms))
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
        return _table(problem, grid, terminal, log_v, norm, self.n_substeps * most_norm(self.n_terms))


def most_norm(n_terms: int) -> float:
    r"""Largest shifted norm $\rho$ with $\rho + 7\sqrt\rho + 8 \le$ `n_terms`: then the neglected tail is below 1e-15."""
    root = (-7 + (49 + 4 * max(n_terms - 8, 0)) ** 0.5) / 2
    return root**2


def terms_for(norm: float) -> int:
    """Inverse of `most_norm`."""
    return ceil(norm + 7 * norm**0.5 + 8)
