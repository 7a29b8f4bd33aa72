r"""Entropic optimal transport (15), the kernel of transport-based execution:

$$\min_{\pi}\ \langle C, \pi\rangle + \lambda\,KL(\pi\,\|\,\mu\otimes\nu), \qquad \pi 1 = \mu,\ \pi^\top 1 = \nu,
  \qquad \pi_{ij} = \mu_i \nu_j\, e^{(f_i + g_j - C_{ij})/\lambda}.$$

Sinkhorn's iteration in logarithms, with $\lambda$ lowered in stages where it is small. The value is the dual objective at the potentials,
so that its derivatives are those of the envelope theorem: $\pi$ in C, f and g in the masses; nothing is unrolled. The plan's own
derivatives come from one Newton step at the solution (implicit function theorem).

Sources: docs/equations.md, (15); Cuturi (2013); Peyre & Cuturi (2019), chapter 4; Janati et al. (2020) for normal laws.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp, xlogy
from jaxtyping import Array, Float

from mfamm_jax.results import RESULTS, Solution, when

N_STAGES, STAGE_ITERATIONS = 10, 8  # of annealing
CHECK_EVERY = 10
TOLERANCE = {"float64": 1e-13, "float32": 1e-6}  # of the marginals
SMALLEST_IN_FLOAT32 = 1e-3  # lambda over the range of the cost


class Transport(eqx.Module):
    r"""A plan and its price.

    Args:
        plan: $\pi$, shares that move from row to column.
        source_potential, sink_potential: f and g, with $\sum_j \nu_j g_j = 0$.
        value: Minimum, $\langle C, \pi\rangle + \lambda KL(\pi\|\mu\otimes\nu)$.
        linear_cost: $\langle C, \pi\rangle$.
        entropy_form_value: $\langle C, \pi\rangle + \lambda\sum\pi\ln\pi$, as other libraries count.
    """

    plan: Float[Array, "source sink"]
    source_potential: Float[Array, " source"]
    sink_potential: Float[Array, " sink"]
    value: Float[Array, ""]
    linear_cost: Float[Array, ""]
    entropy_form_value: Float[Array, ""]


def solve_transport(
    cost: Float[Array, "source sink"],
    source: Float[Array, " source"],
    sink: Float[Array, " sink"],
    regularization: Float[Array, ""] | float,
    *,
    tolerance: float | None = None,
    max_iterations: int = 100_000,
    plan_gradient: bool = False,
    start: Float[Array, " sink"] | None = None,
) -> Solution:
    r"""Solves (15) for one problem; `vmap` for many.

    Args:
        cost: C, finite.
        source, sink: $\mu$ and $\nu$, > 0, equal sums. For unequal sums add a slack column or row: `with_slack`.
        regularization: $\lambda$ > 0 [as the cost].
        tolerance: Largest error of a marginal, relative to the total mass; 1e-13 in float64 and 1e-6 in float32 by default.
        max_iterations: Of Sinkhorn after annealing.
        plan_gradient: Whether `plan` and the potentials carry derivatives (a linear system of all masses); the values always do.
        start: Sink potential to start from; skips annealing.

    Returns:
        `Solution` of a `Transport`; `not_converged` after `max_iterations`. Stats: iterations and marginal error.
    """
    _check(cost, source, sink, regularization)
    regularization = jnp.asarray(regularization, cost.dtype)
    fixed = jax.lax.stop_gradient((cost, source, sink, regularization))
    limit = TOLERANCE[cost.dtype.name] if tolerance is None else tolerance
    f, g, error, count = _potentials(*fixed, limit, max_iterations, start)
    if plan_gradient:
        f, g = _newton_step(f, g, cost, source, sink, regularization)
    scaled = (f[:, None] + g[None, :] - cost) / regularization
    plan = source[:, None] * sink[None, :] * jnp.exp(scaled)
    value = _dual(jax.lax.stop_gradient(f), jax.lax.stop_gradient(g), cost, source, sink, regularization)
    linear = jnp.sum(plan * cost)
    entropy = regularization * (jnp.sum(xlogy(source, source)) + jnp.sum(xlogy(sink, sink)))
    found = Transport(plan, f, g, value, linear, value + entropy)
    stats = {"iterations": count, "marginal_error": error}
    return Solution(found, when(error <= limit, RESULTS.successful, RESULTS.not_converged), stats)


def _dual(
    f: Float[Array, " source"],
    g: Float[Array, " sink"],
    cost: Float[Array, "source sink"],
    source: Float[Array, " source"],
    sink: Float[Array, " sink"],
    regularization: Float[Array, ""],
) -> Float[Array, ""]:
    """<mu, f> + <nu, g> - lambda (mass of the plan - mass): its maximum over f and g is the value."""
    kernel = jnp.exp((f[:, None] + g[None, :] - cost) / regularization)
    excess = jnp.einsum("i,j,ij->", source, sink, kernel - 1, precision="highest")
    return jnp.sum(source * f) + jnp.sum(sink * g) - regularization * excess


def _potentials(
    cost: Array, source: Array, sink: Array, regularization: Array, limit: float, most: int, start: Array | None
) -> tuple[Array, Array, Array, Array]:
    """f, g, error of the rows' sums, iterations."""
    log_source, log_sink, mass = jnp.log(source), jnp.log(sink), jnp.sum(source)

    def sweep(g: Array, scale: Array) -> tuple[Array, Array]:
        f = -scale * logsumexp((g[None, :] - cost) / scale + log_sink, axis=1)
        return f, -scale * logsumexp((f[:, None] - cost) / scale + log_source[:, None], axis=0)

    def stage(number: Array, g: Array) -> Array:
        largest = jnp.maximum(jnp.max(cost) - jnp.min(cost), regularization)
        share = (number + 1) / N_STAGES
        scale = largest * (regularization / largest) ** share
        return jax.lax.fori_loop(0, STAGE_ITERATIONS, lambda _, g: sweep(g, scale)[1], g)

    g = jax.lax.fori_loop(0, N_STAGES, stage, jnp.zeros_like(sink)) if start is None else start

    def error_of(f: Array, g: Array) -> Array:
        rows = jnp.sum(jnp.exp((f[:, None] + g[None, :] - cost) / regularization + log_sink), axis=1)
        return jnp.max(jnp.abs(rows - 1) * source) / mass

    def body(state: tuple) -> tuple:
        f, g, _, count = state
        f, g = jax.lax.fori_loop(0, CHECK_EVERY, lambda _, fg: sweep(fg[1], regularization), (f, g))
        return f, g, error_of(f, g), count + CHECK_EVERY

    f, g = sweep(g, regularization)
    state = (f, g, error_of(f, g), jnp.zeros((), jnp.int32))
    f, g, error, count = jax.lax.while_loop(lambda s: (s[2] > limit) & (s[3] < most), body, state)
    shift = jnp.sum(sink * g) / mass
    return f + shift, g - shift, error, count


def _newton_step(
    f: Array, g: Array, cost: Array, source: Array, sink: Array, regularization: Array
) -> tuple[Array, Array]:
    """The potentials with their derivatives: a step of Newton's method on the marginals, which changes nothing else."""
    f, g = (jax.lax.stop_gradient(x) for x in (f, g))
    kernel = source[:, None] * sink[None, :] * jnp.exp((f[:, None] + g[None, :] - cost) / regularization)
    # Unknown masses are compared with their plan; the last row fixes the gauge.
    gauge = jnp.sum(sink * g)
    residual = jnp.concatenate([jnp.sum(kernel, axis=1) - source, jnp.sum(kernel, axis=0) - sink])
    here = jax.lax.stop_gradient(kernel)
    rows, columns = jnp.diag(jnp.sum(here, axis=1)), jnp.diag(jnp.sum(here, axis=0))
    matrix = jnp.block([[rows, here], [here.T, columns]]) / jax.lax.stop_gradient(regularization)
    # (1, -1) changes no plan: its rank-one term makes the matrix regular, and the gauge picks the right multiple.
    null = jnp.concatenate([jnp.ones_like(f), -jnp.ones_like(g)])
    scale = jnp.trace(matrix) / matrix.shape[0]
    step = jnp.linalg.solve(matrix + scale * jnp.outer(null, null) / null.shape[0], -residual)
    df, dg = step[: f.shape[0]], step[f.shape[0] :]
    drift = (gauge + jnp.sum(jax.lax.stop_gradient(sink) * dg)) / jnp.sum(jax.lax.stop_gradient(sink))
    drift = drift - jax.lax.stop_gradient(drift)
    return f + df + drift, g + dg - drift


def _check(cost: Array, source: Array, sink: Array, regularization: Array | float) -> None:
    """Concrete arguments; tracers pass."""
    if any(isinstance(x, jax.core.Tracer) for x in (cost, source, sink, regularization)):
        return
    if not np.isfinite(np.asarray(cost)).all():
        row, column = np.argwhere(~np.isfinite(np.asarray(cost)))[0]
        raise ValueError(f"cost[{row}, {column}] is {float(cost[row, column])}, expected a finite number")
    for name, x in (("source", source), ("sink", sink)):
        if not (np.asarray(x) > 0).all():
            raise ValueError(
                f"{name} has an entry of {float(np.min(np.asarray(x)))}, expected masses > 0: leave empty ones out"
            )
    masses = float(jnp.sum(source)), float(jnp.sum(sink))
    if abs(masses[0] - masses[1]) > 1e-5 * max(masses):
        raise ValueError(f"source has mass {masses[0]:g} and sink {masses[1]:g}, expected equal sums: use with_slack")
    scale = float(regularization)
    if not scale > 0 or not np.isfinite(scale):
        raise ValueError(f"regularization is {scale}, expected a finite number > 0")
    spread = float(jnp.max(cost) - jnp.min(cost))
    if cost.dtype == jnp.float32 and scale < SMALLEST_IN_FLOAT32 * spread:
        raise ValueError(
            f"regularization {scale:g} is below {SMALLEST_IN_FLOAT32:g} of the cost's range {spread:g}: float32 cannot resolve it; use float64 or "
            "a larger one"
        )


def with_slack(
    cost: Float[Array, "source sink"],
    source: Float[Array, " source"],
    sink: Float[Array, " sink"],
    penalty: Float[Array, ""] | float,
) -> tuple[Float[Array, "source more"], Float[Array, " source"], Float[Array, " more"]]:
    """A last column that takes what the sinks cannot, at a price per unit: for sources of more mass than sinks."""
    room = jnp.sum(source) - jnp.sum(sink)
    if not isinstance(room, jax.core.Tracer) and not float(room) > 0:
        raise ValueError(f"the sinks' mass exceeds the sources' by {-float(room):g}: swap them, or drop capacity")
    column = jnp.full((cost.shape[0], 1), penalty, cost.dtype)
    return jnp.concatenate([cost, column], axis=1), source, jnp.concatenate([sink, room[None]])


def transport_on_a_line(
    x: Float[Array, " source"],
    y: Float[Array, " sink"],
    source: Float[Array, " source"] | None = None,
    sink: Float[Array, " sink"] | None = None,
    exponent: Float[Array, ""] | float = 1.0,
) -> Float[Array, ""]:
    r"""Exact $\min \sum \pi_{ij}|x_i - y_j|^p$, p >= 1, by the monotone coupling; weights are normalised, None = equal."""
    parts = []
    for points, weights in ((x, source), (y, sink)):
        order = jnp.argsort(points)
        weights = jnp.ones_like(points) if weights is None else weights
        parts.append((points[order], jnp.cumsum(weights[order]) / jnp.sum(weights)))
    (x, x_mass), (y, y_mass) = parts
    edges = jnp.sort(jnp.concatenate([jnp.zeros(1, x.dtype), x_mass, y_mass]))
    middle = 0.5 * (edges[1:] + edges[:-1])
    i, j = (jnp.minimum(jnp.searchsorted(mass, middle), mass.shape[0] - 1) for mass in (x_mass, y_mass))
    return jnp.sum(jnp.diff(edges) * jnp.abs(x[i] - y[j]) ** exponent)


def gaussian_transport(
    source_mean: Float[Array, " n"],
    source_covariance: Float[Array, "n n"],
    sink_mean: Float[Array, " n"],
    sink_covariance: Float[Array, "n n"],
    regularization: Float[Array, ""] | float,
) -> Float[Array, ""]:
    r"""$\min E|x - y|^2 + \lambda KL$ between normal laws in closed form; $\lambda = 0$ is the Bures distance [Janati et al. 2020]."""
    shift = jnp.sum((source_mean - sink_mean) ** 2) + jnp.trace(source_covariance) + jnp.trace(sink_covariance)
    root = symmetric_power(source_covariance, 0.5)
    inner = jnp.matmul(root, jnp.matmul(sink_covariance, root, precision="highest"), precision="highest")
    spectrum = jnp.maximum(jnp.linalg.eigvalsh(0.5 * (inner + inner.T)), 0)
    s = jnp.asarray(regularization, source_mean.dtype) / 2
    # Per axis: d - s - s log((d + s)/(2 s)), d = sqrt(4 e + s^2); without cancellation for large s.
    d = jnp.sqrt(4 * spectrum + s**2)
    gap = 4 * spectrum / jnp.where(d + s > 0, d + s, 1)  # d - s
    safe = jnp.where(s > 0, s, 1)
    entropy = jnp.where(s > 0, s * jnp.log1p(gap / (2 * safe)), 0)
    return shift - jnp.sum(gap - entropy)


def symmetric_power(matrix: Float[Array, "n n"], power: float) -> Float[Array, "n n"]:
    """A power of a symmetric positive (semi)definite matrix."""
    values, vectors = jnp.linalg.eigh(matrix)
    return jnp.matmul(vectors * jnp.maximum(values, 0) ** power, vectors.T, precision="highest")
