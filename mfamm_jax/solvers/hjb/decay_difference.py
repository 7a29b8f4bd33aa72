r"""Derivative of a linear scheme's table in k+ - k-, at k+ = k-: the transform itself knows one decay only."""

from functools import partial
from math import ceil

import jax
import jax.numpy as jnp
import numpy as np

from mfamm_jax.solvers.hjb.linear import (
    common_decay,
    diagonal_of,
    linear_generator,
    log_coupling_at,
    taylor_action,
    terms_for,
)

# Gauss nodes per panel, what a panel covers of the shifted norm, and how
# the panels of the first row shrink towards its start.
N_NODES, PANEL_NORM = 5, 8.0
GRADING, N_GRADED = 6.0, 8
# Beyond it panels become longer, and need more terms.
MOST_PANELS = 4096


def _quadrature(limit: float) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Gauss-Legendre rules for the start of the first row, its rest, and any other row: gaps between nodes, and weights.

    In units of a row's duration; the last gap, of weight zero, leads to the end. The start is graded, since there the quotes
    may move as fast as the steepest terminal value makes them.
    """
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    edges = np.linspace(0.0, 1.0, min(max(1, ceil(limit / PANEL_NORM)), MOST_PANELS) + 1)
    start = edges[1] * GRADING ** -np.arange(N_GRADED, 0.0, -1)
    rules = []
    for ends in (np.append(0.0, start), np.append(start[-1], edges[1:]), edges):
        half = np.diff(ends)[:, None] / 2
        times = (ends[:-1, None] + half * (1 + nodes)).ravel()
        gaps = np.diff(np.concatenate([ends[:1], times, ends[-1:]]))
        # From the sum of the weights before to the node itself.
        own = 1 + nodes - np.cumsum(weights) + weights
        rules.append((gaps, np.append((half * weights).ravel(), 0.0), np.append((half * own).ravel(), 0.0)))
    return rules


def _rows_of_decays(half, rest, grid, limit, in_logarithms):
    r"""Relative value and offset, up to constants, for decays k - half (bid) and k + half (ask), to first order in half.

    Then $v = e^{kH}$ solves $dv/d\tau = Av + N(v)$ where N vanishes at half = 0. Its solution
    $e^{A\tau}v_0 + \int e^{A(\tau - s)}N(v(s))\,ds$ is summed over the nodes, with v of the sum so far: e^A acts exactly,
    so no step is too long for a stiff start.
    """
    problem, start = rest
    k = common_decay(problem)
    drift, penalty, below, above = linear_generator(problem)
    diagonal = diagonal_of(drift, penalty, start.shape[0])
    shift = jax.lax.stop_gradient(-jnp.min(diagonal, axis=0))
    duration = problem.horizon / grid.n_steps

    def gain_of(log_v):
        """N(v)/v."""
        rise = jnp.diff(log_v, axis=0)
        # Only the terminal value itself is steeper, and what it gains is no more than a first guess.
        steepest = 0.5 * float(np.log(float(jnp.finfo(log_v.dtype).max)))

        def side(name, sign, coupling, adverse_selection):
            cost = sign * rise / k + adverse_selection
            ratio = log_coupling_at(problem, name, k + sign * half) - log_coupling_at(problem, name, k)
            ratio = ratio - sign * half * cost - jnp.log1p(sign * half / k)
            return coupling * jnp.exp(jnp.minimum(-sign * rise, steepest)) * jnp.expm1(ratio)

        zero = jnp.zeros_like(log_v[:1])
        ask = side("ask", 1, below, problem.ask_adverse_selection)
        bid = side("bid", -1, above, problem.bid_adverse_selection)
        return jnp.concatenate([zero, ask]) + jnp.concatenate([bid, zero])

    def along(rule, carry):
        n_terms = terms_for(limit * float(rule[0].max()))

        def node(carry, rule):
            log_v, before = carry
            gap, weight, own = (x * duration for x in rule)
            # v = d w: in logarithms d is v itself, whose ratios enter the matrix; else one, and w is v.
            log_d = log_v if in_logarithms else jnp.zeros_like(log_v)
            rise, one = jnp.diff(log_d, axis=0), jnp.ones_like(log_v[:1])
            to_lower = below * gap * jnp.concatenate([one, jnp.exp(-rise)])
            to_upper = above * gap * jnp.concatenate([jnp.exp(rise), one])
            w = taylor_action(jnp.exp(log_v - log_d), (diagonal + shift) * gap, to_lower, to_upper, n_terms)
            log_v = log_d + jnp.log(w)
            log_v = log_v - jax.lax.stop_gradient(jnp.max(log_v, axis=0))
            # For second derivatives the sum must reach the node; the last gain stands in for the one to be found.
            own = own * before
            gain = gain_of(log_v + jnp.log1p(own))
            return (log_v + jnp.log1p(weight * gain * (1 + own)), gain), None

        rule = [jnp.asarray(x, carry[0].dtype) for x in rule]
        carry = jax.lax.scan(jax.checkpoint(node, prevent_cse=False), carry, rule)[0]
        return carry, carry[0]

    start_of_row, rest_of_row, row = _quadrature(limit)
    log_v = k * (start - problem.gauge(start)) + 0.0 * (diagonal + half)
    carry, _ = along(start_of_row, (log_v, gain_of(log_v)))
    carry, first = along(rest_of_row, carry)
    _, others = jax.lax.scan(lambda carry, _: along(row, carry), carry, length=grid.n_steps - 1)
    value = jnp.concatenate([jnp.zeros_like(first)[None], first[None], others]) / k
    offset = value[:, grid.max_inventory]
    return value - offset[:, None], offset


@partial(jax.custom_jvp, nondiff_argnums=(2, 3, 4))
def decay_difference(half, rest, grid, limit, in_logarithms):
    """Zero, whose derivative in `half` is that of the rows of the table."""
    problem, start = rest
    batch = linear_generator(problem)[2].shape
    relative = jnp.zeros((grid.n_steps + 1, start.shape[0], *batch), half.dtype)
    return relative, relative[:, 0]


@decay_difference.defjvp
def _decay_difference_jvp(grid, limit, in_logarithms, primals, tangents):
    (half, rest), (half_dot, rest_dot) = primals, tangents

    def difference(half, rest):
        # The second term is the first at half = 0, and makes the derivatives in `rest` vanish there, but not the mixed ones.
        none = jnp.zeros_like(half)
        return jax.tree.map(jnp.subtract, *(_rows_of_decays(h, rest, grid, limit, in_logarithms) for h in (half, none)))

    slope = jax.jvp(difference, (half, rest), (half_dot, rest_dot))[1]
    return decay_difference(half, rest, grid, limit, in_logarithms), slope


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def decay_difference_adjoint(half, rest, grid, limit, in_logarithms):
    """As `decay_difference`, without forward mode: the reverse mode multiplies one sensitivity."""
    return decay_difference(half, rest, grid, limit, in_logarithms)


def _difference_forward(half, rest, grid, limit, in_logarithms):
    return decay_difference(half, rest, grid, limit, in_logarithms), (half, rest)


def _difference_backward(grid, limit, in_logarithms, saved, rows_bar):
    half, rest = saved
    rows = partial(_rows_of_decays, grid=grid, limit=limit, in_logarithms=in_logarithms)
    slope = jax.jvp(lambda h: rows(h, rest), (half,), (jnp.ones_like(half),))[1]
    products = [(x * bar).reshape(-1, *half.shape) for x, bar in zip(slope, rows_bar, strict=True)]

    @jax.custom_jvp
    def mixed(half, rest, rows_bar):
        """Zero, whose derivative in half is that of the product in `rest`."""
        return jax.tree.map(jnp.zeros_like, rest)

    @mixed.defjvp
    def _(primals, tangents):
        half, rest, rows_bar = primals
        sensitivity = jax.vjp(lambda r: jax.jvp(lambda h: rows(h, r), (half,), (tangents[0],))[1], rest)[1]
        return mixed(*primals), sensitivity(rows_bar)[0]

    return sum(x.sum(axis=0) for x in products), mixed(half, rest, rows_bar)


decay_difference_adjoint.defvjp(_difference_forward, _difference_backward)
